"""What is in a label file, as classes: values or colours by a table, and one line for what is in no table."""

import functools
import itertools
import pathlib

import numpy as np
from jaxtyping import Int, Shaped, UInt8

from dpc_jax import datasets
from dpc_jax.base import IGNORE_LABEL, InputError
from dpc_jax.datasets.folders.description import COLOUR, INDEX, LARGEST_ID, OTHERS, Colour, Description

NO_CLASS = -1
SHOWN = 3  # values or colours in a message


def read(path: pathlib.Path, description: Description) -> UInt8[np.ndarray, 'H W']:
    """The classes 0..L-1 of a label file, and IGNORE_LABEL; InputError if it is faulty or has what is in no table."""
    if description.label_kind == COLOUR:
        codes = _codes(datasets.decode(path, 'RGB'))
        known, classes = _colour_table(description)
        places = np.minimum(np.searchsorted(known, codes), len(known) - 1)
        others = IGNORE_LABEL if OTHERS in description.unknown else NO_CLASS
        found = np.where(known[places] == codes, classes[places], np.int16(others))
    else:
        codes = values_of(path)
        found = _table(description)[codes]
    if (found == NO_CLASS).any():
        raise InputError(_no_class(path, codes, found, description))
    return found.astype(np.uint8)


def encode(label: UInt8[np.ndarray, 'H W'], description: Description) -> Shaped[np.ndarray, 'H W *channels']:
    """The pixels of a file that `read` reads as this label: values of 8 or 16 bits, or RGB.

    Where nothing may be unknown, the ignore label is written as class 0.
    """
    known = description.colours if description.label_kind == COLOUR else [v[0] for v in description.values]
    pixels = np.array(known, np.int64)
    unknown = _an_unknown_value(description)
    table = np.full((IGNORE_LABEL + 1, *pixels.shape[1:]), known[0] if unknown is None else unknown)
    table[: len(pixels)] = pixels
    return table.astype(np.uint8 if table.max() <= 255 else np.uint16)[label]


def _an_unknown_value(description: Description) -> int | Colour | None:
    if OTHERS not in description.unknown:
        return next((value for value in description.unknown_values if not isinstance(value, str)), None)
    if description.label_kind == COLOUR:
        return next((gray, gray, gray) for gray in range(256) if (gray, gray, gray) not in description.colours)
    used = set(itertools.chain.from_iterable(description.values))
    return next(value for value in range(LARGEST_ID + 1) if value not in used)


def values_of(path: pathlib.Path) -> Shaped[np.ndarray, 'H W']:
    """The values in a label file (uint8 or uint16): gray, indices of a palette, or RGB whose channels are equal."""
    pixels = datasets.decode(path, None)
    if pixels.ndim == 3 and pixels.shape[2] >= 3:
        if (pixels[:, :, :3] != pixels[:, :, :1]).any():
            raise InputError(f"{path} has colours; label_kind 'colour' and the colour of each class read it")
        pixels = pixels[:, :, 0]
    elif pixels.ndim == 3:
        pixels = pixels[:, :, 0]  # gray with opacity
    if pixels.dtype == bool:
        return pixels.astype(np.uint8)
    if pixels.dtype.kind not in 'iu' or (pixels.size and not 0 <= pixels.min() <= pixels.max() <= LARGEST_ID):
        raise InputError(f'{path}: {pixels.dtype} {pixels.shape} is not a label image of values 0..{LARGEST_ID}')
    return pixels if pixels.dtype == np.uint8 else pixels.astype(np.uint16)


@functools.lru_cache(maxsize=16)
def _table(description: Description) -> Int[np.ndarray, ' 65536']:
    """Class by value, int16."""
    table = np.full(LARGEST_ID + 1, IGNORE_LABEL if OTHERS in description.unknown else NO_CLASS, np.int16)
    for label, values in enumerate(description.values):
        table[list(values)] = label
    table[[value for value in description.unknown_values if isinstance(value, int)]] = IGNORE_LABEL
    return table


@functools.lru_cache(maxsize=16)
def _colour_table(description: Description) -> tuple[Int[np.ndarray, ' K'], Int[np.ndarray, ' K']]:
    """Colours as numbers, ascending, and the class of each."""
    unknown = [colour for colour in description.unknown if isinstance(colour, tuple)]
    codes = _codes(np.array([*description.colours, *unknown], np.uint8))
    classes = np.array([*range(len(description.colours)), *[IGNORE_LABEL] * len(unknown)], np.int16)
    order = np.argsort(codes, kind='stable')
    return codes[order], classes[order]


def _codes(colours: UInt8[np.ndarray, '*shape 3']) -> Int[np.ndarray, '*shape']:
    """A colour as one number, int32."""
    red, green, blue = (colours[..., channel].astype(np.int32) for channel in range(3))
    return red << 16 | green << 8 | blue


def _no_class(
    path: pathlib.Path,
    codes: Shaped[np.ndarray, 'H W'],
    found: Int[np.ndarray, 'H W'],
    description: Description,
) -> str:
    """Which values have no class, how many pixels each has, and where the first of them is."""
    lost = found == NO_CLASS
    values, counts = np.unique(codes[lost], return_counts=True)
    most = np.argsort(-counts, kind='stable')[:SHOWN]
    row, column = np.argwhere(lost & (codes == values[most[0]]))[0].tolist()
    named = ', '.join(f'{_shown(int(values[at]), description)} in {counts[at]} pixels' for at in most)
    more = f', and {len(values) - SHOWN} more' if len(values) > SHOWN else ''
    word = 'colour' if description.label_kind == COLOUR else 'label value'
    hint = 'list it in dataset.unknown if it has none'
    if path.suffix.lower() in ('.jpg', '.jpeg'):
        hint = 'a JPEG does not keep the values of labels, PNG does'
    elif description.label_kind == INDEX:
        first = description.values[0][0]
        hint = f'classes are {first}..{first + len(description.classes) - 1}; {hint}'
    return f'{path}: no class has the {word} {named}{more}, the first at row {row}, column {column}; {hint}'


def _shown(code: int, description: Description) -> str:
    return str((code >> 16, code >> 8 & 255, code & 255)) if description.label_kind == COLOUR else str(code)
