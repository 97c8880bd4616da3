"""Tables of evaluated cells, read again: the `cells.csv` or `cells.csv.gz` that `evaluate_cells.py` writes."""

import csv
import gzip
import io
import math
import pathlib
import zlib
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from dpc_jax.base import Genotype, InputError
from dpc_jax.spaces import Space

COLUMNS = (
    *('cell', 'key', 'seed', 'score', 'state', 'failure', 'curve'),
    *('parameters', 'multiply_adds', 'seconds', 'json'),
)
"""Those that are read; IoU of each class and further scores stand beside them."""


class TableCell(NamedTuple):
    """What a table says of one cell; mappings are by seed, in the table's order."""

    name: str  # the first one that it has in the table
    genotype: Genotype  # unbatched
    scores: Mapping[int, float]  # mIoU in 0..1; NaN where the cell failed or was stopped early
    curves: Mapping[int, tuple[float, ...]]  # the score at each evaluation
    seconds: Mapping[int, float]
    parameters: int
    multiply_adds: int

    @property
    def score(self) -> float:
        """The mean over the seeds; NaN if the cell failed under any."""
        return float(np.mean(list(self.scores.values())))


def read(paths: Sequence[pathlib.Path | str], space: Space) -> dict[str, TableCell]:
    """Canonical key -> what the tables say, in order of their rows; InputError for what is no such table of the space.

    A cell may stand in several rows: with further seeds, or under another name with the same score.
    """
    found: dict[str, TableCell] = {}
    for path in paths:
        for line, row in enumerate(_rows(pathlib.Path(path).expanduser()), 2):
            _add(found, row, f'{path}: line {line}', space)
    if not found:
        raise InputError(f'{", ".join(map(str, paths)) or "no file"}: there are no cells')
    return found


def _rows(path: pathlib.Path) -> list[dict[str, str]]:
    try:
        data = path.read_bytes()
        text = (gzip.decompress(data) if path.suffix == '.gz' else data).decode()
    except (OSError, EOFError, zlib.error, ValueError) as error:
        why = getattr(error, 'strerror', None) or ('no gzip file' if path.suffix == '.gz' else 'not a text file')
        raise InputError(f"table '{path}': {why}; evaluate_cells.py writes cells.csv and cells.csv.gz") from error
    try:
        reader = csv.DictReader(io.StringIO(text))
        columns, rows = reader.fieldnames or [], list(reader)
    except csv.Error as error:
        raise InputError(f'{path}: it is not a CSV file: {error}') from error
    missing = [name for name in COLUMNS if name not in columns]
    if missing:
        raise InputError(f'{path}: there is no column {", ".join(missing)}; evaluate_cells.py writes such tables')
    return rows


def _add(found: dict[str, TableCell], row: Mapping[str, str], place: str, space: Space) -> None:
    """Adds a row to what is known of its cell."""
    genotype = space.from_json(row['json'] or '', place)
    key = space.canonical_key(genotype)
    if key != row['key']:
        raise InputError(f"{place}: the key is '{row['key']}', but the cell in the column json is '{key}'")
    try:
        seed, curve = int(row['seed']), tuple(map(float, row['curve'].split()))
        score = float(row['score']) if row['state'] == 'complete' else math.nan
        costs, seconds = (int(row['parameters']), int(row['multiply_adds'])), float(row['seconds'])
    except (TypeError, ValueError, AttributeError) as error:
        raise InputError(f'{place}: {error}') from error
    cell = found.setdefault(key, TableCell(row['cell'], genotype, {}, {}, {}, *costs))
    known = cell.scores.get(seed, score)
    if not (known == score or (math.isnan(known) and math.isnan(score))):
        raise InputError(f'{place}: the score of {key} under seed {seed} is {score}, and {known} in an earlier row')
    if costs != (cell.parameters, cell.multiply_adds):
        raise InputError(
            f'{place}: {key} has {costs[0]} parameters and {costs[1]} multiply-adds, and in an earlier row'
            f' {cell.parameters} and {cell.multiply_adds}: the tables are of different networks'
        )
    found[key] = cell._replace(
        scores={**cell.scores, seed: score},
        curves={**cell.curves, seed: curve},
        seconds={**cell.seconds, seed: seconds},
    )
