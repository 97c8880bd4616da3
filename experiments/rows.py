"""Rows of evaluations: read from their files, matched with rows of the paper's tables, printed beside them.

A row is a `metrics.json` as an evaluation writes it. Which network it is of, and how that was evaluated, is what the
file has recorded, never the name of its folder.
"""

import collections
import dataclasses
import json
import pathlib
import statistics
import sys
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

from dpc_jax import contexts
from dpc_jax.base import InputError

ROOT = pathlib.Path(__file__).resolve().parent.parent
FOLDERS = ('experiments/results', 'runs')  # where rows are looked for

METRICS, SERVER = 'metrics.json', 'server.json'

Json = dict[str, Any]


class Training(NamedTuple):
    """How weights were trained, except the seed."""

    steps: int
    batch_size: int
    crop_size: tuple[int, int]
    init: str  # what it started from; '' is noise

    def __str__(self) -> str:
        crop = 'x'.join(map(str, self.crop_size))
        return f'{self.steps} steps of {self.batch_size}, crop {crop}, from {self.init or "noise"}'


class Settings(NamedTuple):
    """What of a row a table compares: the network, its data, the protocol of the evaluation."""

    dataset: str
    split: str
    images: int
    backbone: str
    width: float
    context: str
    genotype: str  # '' of a context that has none
    decoder: int  # output stride of the decoder; 0: none
    output_stride: int
    scales: tuple[float, ...]  # in ascending order
    flip: bool

    @property
    def module(self) -> str:
        """Context and genotype in a word, which may be part of a file's name."""
        return f'{self.context}-{pathlib.Path(self.genotype).stem}' if self.genotype else self.context


@dataclasses.dataclass(frozen=True)
class Row:
    """One evaluation."""

    path: pathlib.Path
    settings: Settings
    generated: bool  # on drawn images, as of ':toy'
    miou: float | None  # 0..1; None: the images have no labels
    training: Training | None  # None: no file that was read says how the weights were trained
    seed: int | None  # of that training
    weights: str  # digest
    config_hash: str
    checkpoint: str
    export: str
    commit: str
    device: str

    @property
    def origin(self) -> str:
        """Where the weights come from."""
        return str(self.training) if self.training else f'checkpoint {self.checkpoint}'


class Found(NamedTuple):
    """What folders hold."""

    rows: list[Row]
    faults: list[str]  # a line for each file that is not a row


# ---- reading --------------------------------------------------------------------------------------------------------


def read(folders: Iterable[str] = FOLDERS) -> Found:
    """All rows in `folders` and below; a row that is there twice (a copy) counts once.

    A folder that is not there holds no rows; where it is not in the current folder, it is that of the repository.
    """
    rows: dict[tuple[str, str], Row] = {}
    faults = []
    for path in sorted({path for folder in folders for path in located(folder).rglob(METRICS)}):
        try:
            row = read_row(path)
        except InputError as error:
            faults.append(str(error))
            continue
        try:
            row = with_answer(row)
        except InputError as error:  # the row itself is sound
            faults.append(str(error))
        held = rows.setdefault((row.weights, row.config_hash), row)
        if knows(row) > knows(held):
            rows[row.weights, row.config_hash] = row
    return Found(with_training(list(rows.values())), faults)


def located(folder: str) -> pathlib.Path:
    """`folder` here, or else in the repository."""
    path = pathlib.Path(folder).expanduser()
    return path if path.exists() else ROOT / path


def read_row(path: pathlib.Path) -> Row:
    """One row; InputError names the file that is damaged."""
    held = read_json(path)
    try:
        return parse(held, path)
    except (KeyError, TypeError, ValueError) as error:
        what = f'it has no {error}' if isinstance(error, KeyError) else str(error)
        raise InputError(f'{path} is not a row of an evaluation: {what}') from error


def with_answer(row: Row) -> Row:
    """A row without labels gets the score that the server gave, if the user put it beside the row; InputError."""
    path = row.path.with_name(SERVER)
    if row.miou is not None or not path.exists():
        return row
    return dataclasses.replace(row, miou=share(read_json(path).get('miou'), path))


def knows(row: Row) -> tuple[bool, bool]:
    """Sort key among copies of a row: the one that knows most counts."""
    return row.miou is not None, row.training is not None


def read_json(path: pathlib.Path) -> Json:
    """A file with a JSON object."""
    try:
        held = json.loads(path.read_text(encoding='utf-8'))
    except (OSError, ValueError) as error:
        raise InputError(f'{path} cannot be read: {error}') from error
    if not isinstance(held, dict):
        raise InputError(f'{path} is not a JSON object')
    return held


def share(value: Any, path: pathlib.Path) -> float:
    """A mean IoU; InputError unless it is one."""
    if type(value) not in (int, float) or not 0 <= value <= 1:
        raise InputError(f'{path}: miou is {value!r}; it must be a number from 0 to 1')
    return float(value)


def parse(held: Json, path: pathlib.Path) -> Row:
    """What is needed of a row; KeyError, TypeError, ValueError for what is missing or of another type."""
    config, training = held['config'], held.get('training')
    context, backbone, dataset = config['context'], config['backbone'], config['dataset']
    settings = Settings(
        dataset=_text(held['dataset']),
        split=_text(held['split']),
        images=int(held['images']),
        backbone=_text(backbone['name']),
        width=float(backbone['width']),
        context=_text(context['name']),
        genotype=_text(context['genotype']) if contexts.has_genotype(_text(context['name'])) else '',
        decoder=int(config['decoder']['output_stride']),
        output_stride=int(backbone['output_stride']),
        scales=tuple(sorted(map(float, held['scales']))),
        flip=bool(held['flip']),
    )
    return Row(
        path=path,
        settings=settings,
        generated=bool(dataset['generated']) and not dataset['root'],
        miou=None if held['miou'] is None else share(held['miou'], path),
        training=None if training is None else parse_training(training),
        seed=None if training is None else int(training['seed']),
        weights=_text(held['weights']),
        config_hash=_text(held['config_hash']),
        checkpoint=_text(held['checkpoint']),
        export=_text(config['evaluate']['export']),
        commit=_text(held['commit']),
        device=_text(held['device']),
    )


def parse_training(held: Json) -> Training:
    """How a training was, as it records it."""
    height, width = held['crop_size']
    return Training(int(held['steps']), int(held['batch_size']), (int(height), int(width)), _text(held['init']))


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError(f'{value!r} stands where a text should be')
    return value


def with_training(rows: Sequence[Row]) -> list[Row]:
    """Rows of evaluations alone get the training of their weights, where the row of that training is among them."""
    trained = {row.weights: row for row in rows if row.training is not None}
    return [
        dataclasses.replace(row, training=trained[row.weights].training, seed=trained[row.weights].seed)
        if row.training is None and row.weights in trained
        else row
        for row in rows
    ]


# ---- many rows ------------------------------------------------------------------------------------------------------


def matching(rows: Iterable[Row], wanted: Settings) -> list[Row]:
    """Rows of real images with that network, data and protocol."""
    return [row for row in rows if row.settings == wanted and not row.generated]


def groups(rows: Iterable[Row]) -> list[list[Row]]:
    """Rows that differ in the seed alone are together; the best group first, those without a score last."""
    found: dict[tuple[Any, ...], list[Row]] = collections.defaultdict(list)
    for row in rows:
        found[row.settings, row.origin, row.miou is None].append(row)
    return sorted(found.values(), key=lambda group: -best(group))


def best(group: Sequence[Row]) -> float:
    """The highest score; -1 where there is none."""
    return max((row.miou for row in group if row.miou is not None), default=-1.0)


def mean_and_std(values: Sequence[float]) -> str:
    """Mean and sample standard deviation in %, of two or more values: 75.38 ± 0.20."""
    return f'{100 * statistics.fmean(values):.2f} ± {100 * statistics.stdev(values):.2f}'


def reached(group: Sequence[Row]) -> str:
    """The score of a group in %, or what became of one without labels."""
    scores = [row.miou for row in group if row.miou is not None]
    if len(scores) > 1:
        return f'{100 * max(scores):.2f} (mean {mean_and_std(scores)})'
    if scores:
        return f'{100 * scores[0]:.2f}'
    exported = sorted({row.export for row in group if row.export})
    if exported:
        return f'labels exported to {", ".join(exported)}, the server scores them'
    return 'no score: the images have no labels, and none were exported'


def facts(group: Sequence[Row]) -> list[str]:
    """Number of runs, where the weights come from, commits, devices."""
    commits, devices = (sorted({getattr(row, name) for row in group}) for name in ('commit', 'device'))
    return [str(len(group)), group[0].origin, ', '.join(commits), ', '.join(devices)]


FACTS = ('runs', 'weights', 'commit', 'device')
"""Heads of the columns that `facts` fills."""


def warn(faults: Iterable[str]) -> None:
    """A line to standard error for each file that was skipped."""
    for fault in faults:
        print(f'skipped: {fault}', file=sys.stderr)


def markdown_table(heads: Sequence[str], lines: Iterable[Sequence[str]], *, left: int = 1) -> str:
    """Markdown; the first `left` columns are words, the others numbers."""
    rule = [':--'] * left + ['--:'] * (len(heads) - left)
    return '\n'.join(_lines(heads, rule, lines))


def _lines(heads: Sequence[str], rule: Sequence[str], lines: Iterable[Sequence[str]]) -> Iterator[str]:
    for cells in (heads, rule, *lines):
        yield f'| {" | ".join(cell.replace("|", "/") for cell in cells)} |'
