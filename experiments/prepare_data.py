"""Is a copy of a data set on disk whole? Counts, every file, the classes, and a picture of what a network will see.

  python experiments/prepare_data.py --dataset=cityscapes --root=/data/cityscapes
  python experiments/prepare_data.py --config=configs/ade20k.py --root=/data/ADEChallengeData2016
  python experiments/prepare_data.py --config=configs/nyud_depth.py --root=/data/nyudv2

Decodes all images and labels. Writes `report.md` and a contact sheet for each split into --out. A split that is not on
disk is listed as absent, which is a fault only if --splits names it. Exit code: 0 all is whole, 1 files are faulty (all
are listed), files that a split lists are missing (the first is named) or their number is not the published one, 2 wrong
flags or root.
"""

import collections
import dataclasses
import functools
import os
import pathlib
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from absl import app, flags

from dpc_jax import command_line
from dpc_jax.base import IGNORE_LABEL, InputError, Size
from dpc_jax.datasets import Dataset
from dpc_jax.progress import track
from experiments import common, data_folder
from experiments.contact_sheet import contact_sheet as contact_sheet
from experiments.contact_sheet import overlay as overlay
from experiments.data_folder import SPLITS

OUT = flags.DEFINE_string('out', '', 'Folder for report and pictures; by default prepared_<dataset>.')
IMAGES = flags.DEFINE_integer('images', 12, 'Images in the contact sheet of a split.')

flags.adopt_module_key_flags(data_folder)  # so that --help lists them

ABSENT = ('there is no ', 'there are no ')  # how messages of data sets begin if a list or folder of a split is absent
SHOWN_FAULTS = 5  # on the screen; the report has all


@dataclasses.dataclass(frozen=True)
class Checked:
    """What was found in a split."""

    split: str
    count: int
    faults: tuple[str, ...]
    pixels: np.ndarray  # int64 [L + 3], by class or joint, what is not labelled, distances missing and known
    sizes: collections.Counter[Size]


def look(dataset: Dataset, index: int) -> tuple[str, np.ndarray, Size]:
    """('', pixels by class or joints by name, size) of an example, or (what is wrong, nothing, nothing).

    After those that are not labelled come, where there are distances, the pixels that have none and those that have.
    """
    counts = np.zeros(dataset.num_classes + 3, np.int64)
    try:
        example = dataset[index]
    except InputError as error:
        return str(error), counts, (0, 0)
    if 'joints' in dataset.targets:
        visible = example.person.visible > 0
        counts[: dataset.num_classes], counts[dataset.num_classes] = visible, (~visible).sum()
    else:
        values, numbers = np.unique(example.label, return_counts=True)
        counts[np.where(values == IGNORE_LABEL, dataset.num_classes, values)] = numbers
    if 'depth' in dataset.targets:
        counts[-2:] = (example.depth == 0).sum(), (example.depth > 0).sum()
    return '', counts, (example.image.shape[0], example.image.shape[1])


def check(dataset: Dataset) -> Checked:
    """Decodes everything in threads, since decoding releases Python's lock."""
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        seen = pool.map(functools.partial(look, dataset), range(len(dataset)))
        found = list(track(seen, f'{dataset.split}: images', len(dataset)))
    whole = [(counts, size) for fault, counts, size in found if not fault]
    return Checked(
        dataset.split,
        len(dataset),
        tuple(fault for fault, _, _ in found if fault),
        sum((counts for counts, _ in whole), np.zeros(dataset.num_classes + 3, np.int64)),
        collections.Counter(size for _, size in whole),
    )


def is_whole(checked: Checked, kind: type[Dataset]) -> bool:
    """Whether no file is faulty and there are as many as published, if that is known."""
    return not checked.faults and kind.published.get(checked.split, checked.count) == checked.count


# ---- text -----------------------------------------------------------------------------------------------------------


def counts_table(found: Sequence[Checked], absent: dict[str, str], kind: type[Dataset]) -> list[str]:
    """A row for each split."""
    what = 'people' if 'joints' in kind.targets else 'images'
    lines = [f'| split | {what} | published | faulty | height x width |', '|:--|--:|--:|--:|:--|']
    for checked in found:
        published = kind.published.get(checked.split)
        said = '–' if published is None else f'{published}' if published == checked.count else f'**{published}**'
        sizes = [f'{height}x{width}' for (height, width), _ in checked.sizes.most_common(1)]
        if len(checked.sizes) > 1:
            low, high = (tuple(f(sides) for sides in zip(*checked.sizes, strict=True)) for f in (min, max))
            sizes = [f'{low[0]}x{low[1]} to {high[0]}x{high[1]}, most often {sizes[0]}']
        lines.append(f'| {checked.split} | {checked.count} | {said} | {len(checked.faults)} | {"".join(sizes)} |')
    for split, why in absent.items():
        said = 'absent' if why.startswith(ABSENT) else 'unusable'
        lines.append(f'| {split} | {said} | {kind.published.get(split, "–")} | | {why} |')
    return lines


def histogram(found: Sequence[Checked], kind: type[Dataset]) -> list[str]:
    """The share of each class, or joint, in each split, in %."""
    lines = [
        f'| {"joint" if "joints" in kind.targets else "class"} | {" | ".join(checked.split for checked in found)} |',
        '|:--|' + '--:|' * len(found),
    ]
    for place, name in enumerate((*kind.classes, 'not labelled')):
        shares = (100 * checked.pixels[place] / max(1, checked.pixels[:-2].sum()) for checked in found)
        lines.append(f'| {name} | {" | ".join(f"{share:.3f}" for share in shares)} |')
    return lines


def report(found: Sequence[Checked], absent: dict[str, str], kind: type[Dataset], root: str) -> str:
    """All that was found, as Markdown."""
    lines = [f'# {kind.name} in {root}', '', *counts_table(found, absent, kind), '']
    lines += [
        f'Shares of the {"joints" if "joints" in kind.targets else "pixels"} in %:',
        '',
        *histogram(found, kind),
        '',
    ]
    if 'depth' in kind.targets:
        missing = (f'{100 * one.pixels[-2] / max(1, one.pixels[-2:].sum()):.1f} % in {one.split}' for one in found)
        lines += [f'Distances that are missing: {", ".join(missing)}.', '']
    for checked in found:
        if checked.faults:
            lines += [f'## Faulty in {checked.split}', '', *(f'- {fault}' for fault in checked.faults), '']
    return '\n'.join(lines)


# ---- the script -----------------------------------------------------------------------------------------------------


def main(argv: Sequence[str]) -> None:
    """Checks, writes, and gives the result as exit code."""
    del argv
    if IMAGES.value < 1:
        raise InputError(f'--images is {IMAGES.value}; it must be at least 1')
    config = data_folder.chosen()
    there, absent, kind = data_folder.opened(config, SPLITS.value)
    out = pathlib.Path(OUT.value or f'prepared_{config.name}').expanduser()
    out.mkdir(parents=True, exist_ok=True)
    broken = {split: why for split, why in absent.items() if SPLITS.value or not why.startswith(ABSENT)}
    found = [check(dataset) for dataset in there]
    (out / 'report.md').write_text(
        report(found, absent, kind, config.root), encoding='utf-8', errors='backslashreplace'
    )
    paths = [out / 'report.md']
    for dataset in there:
        sheet = contact_sheet(dataset, IMAGES.value)
        if sheet is not None:
            paths.append(out / f'{dataset.split}.png')
            sheet.savefig(paths[-1], dpi=110)
    print('\n'.join(counts_table(found, absent, kind)))
    for fault in [*broken.values(), *(fault for checked in found for fault in checked.faults)][:SHOWN_FAULTS]:
        print(f'faulty: {fault}')
    print('\n'.join(map(str, paths)))
    sys.exit(0 if not broken and all(is_whole(checked, kind) for checked in found) else 1)


if __name__ == '__main__':
    app.run(common.one_line_errors(main), flags_parser=command_line.parse_flags)
