"""What is in label files, counted, and which classes that may be."""

import collections
import pathlib
import re
from collections.abc import Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from dpc_jax import datasets
from dpc_jax.base import IGNORE_LABEL, InputError
from dpc_jax.datasets import VOC_CLASSES, camvid, cityscapes
from dpc_jax.datasets.folders.description import COLOUR, ID, INDEX, Colour

NAMES = ('classes.txt', 'class_names.txt', 'labels.txt', 'names.txt', 'obj.names')  # a name on each line
COLOURS = ('class_dict.csv', 'label_colors.txt', 'labelmap.txt', 'class_dict_seg.csv')  # a name and RGB on each
BLACK = (0, 0, 0)
SOFT, SOFT_VALUES = 0.25, 8  # share of a mask that is neither 0 nor 255, and values there, from which on it is soft
GAPS = 0.5  # values are indices if so large a share of 0..largest is there
Value = int | Colour


class Seen(NamedTuple):
    """Values, or colours, of label files."""

    is_colour: bool
    pixels: Mapping[Value, int]
    files: Mapping[Value, int]  # in how many it is
    palette: Sequence[Colour]  # of the first file that has one
    faults: tuple[str, ...]
    looked_at: int  # files
    soft: tuple[pathlib.Path, ...] = ()  # masks of 0 and 255 with many values between them
    kinds: Mapping[str, pathlib.Path] = MappingProxyType({})  # of files: gray, or of colours; the first of each

    @property
    def is_two_valued(self) -> bool:
        """Whether no file has more than 0 and one other value, such as a mask."""
        return not self.is_colour and len(self.pixels) == 2 and 0 in self.pixels


def look(paths: Iterable[pathlib.Path]) -> Seen:
    """Counts what is in the files; a file that cannot be read is a fault, and named."""
    pixels: collections.Counter[Colour] = collections.Counter()
    files: collections.Counter[Colour] = collections.Counter()
    faults: list[str] = []
    palette: list[Colour] = []
    is_colour, count = False, 0
    soft: list[pathlib.Path] = []
    kinds: dict[str, pathlib.Path] = {}
    for path in paths:
        count += 1
        try:
            label = datasets.decode(path, None)
            palette = palette or _palette(path)
        except InputError as error:
            faults.append(str(error))
            continue
        kinds.setdefault(f'gray of {8 * label.itemsize} bits' if label.ndim == 2 else 'of colours', path)
        soft += [path] * _is_soft(label)
        if label.ndim == 3 and label.shape[2] >= 3 and (label[:, :, 1:3] != label[:, :, :1]).any():
            is_colour = True
        rgb = label[:, :, :3] if label.ndim == 3 else label[:, :, None]
        values, counts = np.unique(rgb.reshape(-1, rgb.shape[2]), axis=0, return_counts=True)
        for value, number in zip(values.tolist(), counts.tolist(), strict=True):
            key = (value[0], value[1], value[2]) if len(value) >= 3 else (value[0],) * 3
            pixels[key] += number
            files[key] += 1
    counts_of, files_of = (
        {key if is_colour else key[0]: number for key, number in held.items()} for held in (pixels, files)
    )
    return Seen(is_colour, counts_of, files_of, palette, tuple(faults), count, tuple(soft), kinds)


def _is_soft(label: np.ndarray) -> bool:
    """Whether almost all is 0 and 255 and the rest many values: a mask that was smoothed, or went through JPEG."""
    gray = label if label.ndim == 2 else label[:, :, 0]
    between = (gray != 0) & (gray != IGNORE_LABEL)
    ends = (gray == 0).any() and (gray == IGNORE_LABEL).any()
    return bool(ends and between.mean() < SOFT and len(np.unique(gray[between])) >= SOFT_VALUES)


def _palette(path: pathlib.Path) -> list[Colour]:
    with Image.open(path) as image:
        held = image.getpalette() if image.mode == 'P' else None
    return [] if held is None else [(held[at], held[at + 1], held[at + 2]) for at in range(0, len(held) - 2, 3)]


def propose(seen: Seen, root: pathlib.Path) -> tuple[dict[str, Any], list[str]]:
    """Fields about classes, and in words what they stand on.

    InputError where the files do not keep the values of labels, or are of different kinds.
    """
    if 2 * len(seen.soft) > seen.looked_at:
        raise InputError(
            f'{len(seen.soft)} of {seen.looked_at} label files, such as {seen.soft[0]}, are masks of 0 and 255 with'
            ' many values between: smoothed edges or JPEG; save them as PNG with two values, such as gray >= 128'
        )
    pictures = [path for path in seen.kinds.values() if path.suffix.lower() in ('.jpg', '.jpeg')]
    if pictures and not seen.is_two_valued:
        raise InputError(f'the label {pictures[0]} is a JPEG, which does not keep the values of labels; PNG does')
    if seen.is_colour and len(seen.kinds) > 1:
        said = ', '.join(f'{path} is {kind}' for kind, path in seen.kinds.items())
        raise InputError(f'the labels are of different kinds: {said}')
    return _of_colours(seen, root) if seen.is_colour else _of_values(seen, root)


def _of_values(seen: Seen, root: pathlib.Path) -> tuple[dict[str, Any], list[str]]:
    values = sorted(value for value in seen.pixels if isinstance(value, int))
    if seen.is_two_valued:
        fields: dict[str, Any] = {'classes': ['background', 'foreground']}
        if values != [0, 1]:
            fields |= {'label_kind': ID, 'ids': values}
        return fields, [f'masks of {values[0]} and {values[1]}, taken for two classes']
    notes = []
    unknown = [IGNORE_LABEL] if IGNORE_LABEL in values else []
    known = [value for value in values if value not in unknown]
    largest = known[-1] if known else 0
    if largest < IGNORE_LABEL and len(known) >= GAPS * (largest + 1):
        fields = {'label_kind': INDEX}
        absent = sorted(set(range(largest + 1)) - set(known))
        if absent:
            notes.append(f'no file has {", ".join(map(str, absent))}; there may be more classes than the files show')
        known = list(range(largest + 1))
    else:
        fields = {'label_kind': ID, 'ids': known}
        notes.append('values with gaps, taken for ids')
    names, source = _names(root, len(known), known)
    fields['classes'] = names
    notes.append(source)
    if unknown:
        fields['unknown'] = unknown
        notes.append('255 is taken for "not labelled"')
    if 0 in known:
        notes.append('if 0 means "not labelled": "reduce_zero_label": true, and one class less')
    if len(set(seen.palette[: len(known)])) == len(known) and fields['label_kind'] == INDEX:
        fields['colours'] = [list(colour) for colour in seen.palette[: len(known)]]
        notes.append('colours are those of the palette in the files')
    return fields, notes


def _names(root: pathlib.Path, count: int, known: Sequence[int]) -> tuple[list[str], str]:
    for name in NAMES:
        if (root / name).is_file():
            lines = [line.strip() for line in (root / name).read_text(encoding='utf-8-sig').splitlines()]
            lines = [line for line in lines if line]
            if len(lines) >= count and len(set(lines)) == len(lines):
                return lines[: max(count, len(lines))] if list(known) == list(range(count)) else lines[:count], (
                    f'names from {name}'
                )
    return [f'class {value}' for value in known], 'names are placeholders: write the real ones into the file'


def _of_colours(seen: Seen, root: pathlib.Path) -> tuple[dict[str, Any], list[str]]:
    colours = [colour for colour in sorted(seen.pixels, key=lambda key: -seen.pixels[key]) if isinstance(colour, tuple)]
    tables = {**_tables_beside(root), **_known_tables()}
    notes = []
    for source, table in tables.items():
        outside = [colour for colour in colours if colour not in table]
        if len(colours) - len(outside) >= 2 and set(outside) <= {BLACK, (224, 224, 192)}:
            fields = {'classes': list(table.values()), 'colours': [list(colour) for colour in table]}
            notes.append(f'colours and names from {source}')
            break
    else:
        if len(colours) > IGNORE_LABEL:
            raise InputError(
                f'the labels have {len(colours)} colours, and there may be {IGNORE_LABEL} classes; smoothed edges or'
                ' JPEG make new colours: labels must be saved without both'
            )
        outside = []
        fields = {'classes': [f'class {at}' for at in range(len(colours))], 'colours': [list(c) for c in colours]}
        notes.append('names are placeholders: write the real ones into the file')
    fields['label_kind'] = COLOUR
    if outside:
        fields['unknown'] = [list(colour) for colour in outside]
        notes.append(f'taken for "not labelled": {", ".join(map(str, outside))}')
    return fields, notes


def _known_tables() -> dict[str, dict[Colour, str]]:
    kinds = {'Cityscapes': cityscapes.Cityscapes, 'CamVid': camvid.CamVid}
    tables = {name: dict(zip(_colours(kind.palette), kind.classes, strict=True)) for name, kind in kinds.items()}
    voc = dict(zip(_colours(datasets.voc_palette(len(VOC_CLASSES))), VOC_CLASSES, strict=True))
    return {**tables, 'PASCAL VOC': voc}


def _colours(palette: np.ndarray) -> list[Colour]:
    return [(red, green, blue) for red, green, blue in palette.tolist()]


def _tables_beside(root: pathlib.Path) -> dict[str, dict[Colour, str]]:
    """Tables of a name and RGB on each line, in any order of both, such as CVAT's and SegNet's."""
    tables = {}
    for name in COLOURS:
        path = root / name
        lines = path.read_text(encoding='utf-8-sig').splitlines() if path.is_file() else []
        table: dict[Colour, str] = {}
        for line in lines:
            numbers = re.findall(r'(?<![\w.])\d{1,3}(?![\w.])', line)[:3]
            words = re.sub(r'[\s,;:]*(?<![\w.])\d{1,3}(?![\w.])[\s,;:]*', ' ', line).strip(' ,;:')
            if len(numbers) == 3 and words and not line.lstrip().startswith('#'):
                table[(int(numbers[0]), int(numbers[1]), int(numbers[2]))] = words
        if len(table) >= 2 and len(set(table.values())) == len(table):
            tables[name] = table
    return tables
