"""Cells as people have them: names and their neighbours, files, folders, tables of reports, samples, standard input."""

import contextlib
import csv
import gzip
import io
import json
import math
import pathlib
import re
import statistics
import sys
import zlib
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from dpc_jax import files, found_cells
from dpc_jax.base import Genotype, InputError, key_from_seed, unstack
from dpc_jax.spaces import Space

STDIN = '-'
SAMPLE = 'sample:'
NEAR = 'near:'
ALL_NAMED = 'named'
COLUMN = 'genotype'  # of a report's ranking.csv
SCORED = 'json'  # of the cells.csv of experiments/evaluate_cells.py
FORMS = (
    f'a name ({{names}}), {ALL_NAMED} for all of those, {NEAR}NAME for its neighbours, a .json file, a folder of them,'
    f' a .jsonl file with a genotype in each line, a ranking.csv or cells.csv, {SAMPLE}NUMBER, or {STDIN} for'
    ' standard input'
)


class NamedCell(NamedTuple):
    """A cell, and what it is called in tables: its name, its file, or its place in the source."""

    name: str
    genotype: Genotype  # unbatched


def read_cells(sources: Sequence[str], space: Space, *, seed: int = 0) -> list[NamedCell]:
    """All cells that the sources give, in order; `seed` draws those of `sample:NUMBER`, uniformly over the space.

    A source is a name that the space knows or a found cell has (`found_cells`), `named` for all names that the space
    knows and has a cell for, `near:NAME` for the cells that differ from that one in one gene (adjacent values of a rate
    or grid), a JSON file in the space's format, a folder of such files, a file of JSON lines, a CSV with a column
    `genotype` (a report's `ranking.csv`), the `cells.csv` or `cells.csv.gz` of `experiments/evaluate_cells.py` (each
    cell once, the best mean score first), `sample:NUMBER`, or `-` for JSON lines or names on standard input. A line of
    JSON is a genotype in the space's format, or an object of its fields (`{"inputs": [-1], "ops": [3]}`).

    Raises:
      InputError: a source that is none of these or gives no cell; what is not a cell of the space, with its place.
    """
    cells = [cell for source in sources for cell in _read(source, space, seed)]
    if not cells:
        raise InputError(f'there are no cells; allowed: {FORMS.format(names=_names(space))}')
    return cells


def _read(source: str, space: Space, seed: int) -> list[NamedCell]:
    if not source:
        raise InputError(f'an empty source of cells; allowed: {FORMS.format(names=_names(space))}')
    if found_cells.is_named(space, source):
        return [NamedCell(source, found_cells.named(space, source))]
    if source == ALL_NAMED:
        return _all_named(space)
    if source.startswith(NEAR):
        return _neighbours(source, space)
    if source.startswith(SAMPLE):
        return _sampled(source, space, seed)
    if source == STDIN:
        return _of_lines(sys.stdin.read(), 'standard input', space)
    try:
        path = pathlib.Path(source).expanduser()
        listed = list(path.iterdir()) if path.is_dir() else None
    except (OSError, RuntimeError, ValueError) as error:  # no such user, a name that is too long, no permission
        raise InputError(f"cells '{source[:80]}': {getattr(error, 'strerror', None) or error}") from error
    if listed is None:
        return _of_file(path, space)
    found = sorted(file for file in listed if file.suffix == '.json' and not file.name.startswith('.'))
    if not found:
        raise InputError(f"cells '{source}': the folder has no .json files")
    return [cell for file in found for cell in _of_file(file, space)]


def _names(space: Space) -> str:
    return ', '.join((*space.names, *found_cells.names()))


def _all_named(space: Space) -> list[NamedCell]:
    """A space of few branches lacks those of more."""
    found = []
    for name in space.names:
        with contextlib.suppress(InputError):
            found.append(NamedCell(name, space.named(name)))
    return found


def _neighbours(source: str, space: Space) -> list[NamedCell]:
    """Called by the cell, the gene in which they differ, and their place among its values."""
    name = source.removeprefix(NEAR)
    if not found_cells.is_named(space, name):
        raise InputError(f"cells '{source[:80]}': {NEAR} takes one of these names: {_names(space)}")
    groups = space.neighbours_by_gene(found_cells.named(space, name))
    return [
        NamedCell(f'{name} {gene} {place}', genotype)
        for gene, values in groups.items()
        for place, genotype in enumerate(values)
    ]


def _sampled(source: str, space: Space, seed: int) -> list[NamedCell]:
    number = source.removeprefix(SAMPLE)
    if not re.fullmatch(r'0*[1-9][0-9]{0,6}', number):
        raise InputError(f"cells '{source[:40]}': {SAMPLE} takes a whole number of at least 1 and below 10,000,000")
    found = unstack(space.sample(key_from_seed(seed), int(number)))
    return [NamedCell(f'sample {place}', genotype) for place, genotype in enumerate(found)]


def _of_file(path: pathlib.Path, space: Space) -> list[NamedCell]:
    text = read_text(path, FORMS.format(names=_names(space)))
    if path.name.endswith(('.csv', '.csv.gz')):
        return _of_table(text, str(path), space)
    if path.suffix == '.json':
        return [NamedCell(path.stem, space.from_json(text, str(path)))]
    return _of_lines(text, str(path), space)


def read_text(path: pathlib.Path, allowed: str) -> str:
    """The text of a file that holds cells; InputError, which lists what is `allowed`, if it cannot be read."""
    packed = path.suffix == '.gz'
    try:
        data = path.read_bytes()
        return files.text(gzip.decompress(data) if packed else data)
    except (OSError, EOFError, zlib.error, ValueError) as error:
        why = getattr(error, 'strerror', None) or ('no gzip file' if packed else 'not a text file')
        raise InputError(f"cells '{path}': {why}; allowed: {allowed}") from error


def _of_table(text: str, source: str, space: Space) -> list[NamedCell]:
    try:
        reader = csv.DictReader(io.StringIO(text))
        columns, found = reader.fieldnames or [], list(reader)
    except csv.Error as error:
        raise InputError(f'{source}: it is not a CSV file: {error}') from error
    column = next((name for name in (COLUMN, SCORED) if name in columns), None)
    if column is None:
        raise InputError(
            f"{source}: there is no column '{COLUMN}' or '{SCORED}'; its columns are: {', '.join(columns) or 'none'}"
        )
    cells = []
    for line, row in enumerate(found, 2):
        ranked = f'rank {row["rank"]}, number {row.get("number", line)}' if row.get('rank') else f'line {line}'
        name = row.get('reference') or row.get('cell') or ranked
        cells.append(NamedCell(name, _parsed(row[column] or '', f'{source}: line {line}', space)))
    return cells if column == COLUMN else _best_first(cells, found, source, space)


def _best_first(
    cells: Sequence[NamedCell], rows: Sequence[Mapping[str, str]], source: str, space: Space
) -> list[NamedCell]:
    """Each cell of a table of scores once, by its mean over the seeds; those that failed under one come last."""
    first: dict[str, NamedCell] = {}
    scores: dict[str, dict[str, float]] = {}  # of each cell by seed
    for line, (cell, row) in enumerate(zip(cells, rows, strict=True), 2):
        key = space.canonical_key(cell.genotype)
        first.setdefault(key, cell)
        try:
            seed, score = row['seed'], float(row['score']) if row['state'] == 'complete' else math.nan
        except (KeyError, TypeError, ValueError) as error:
            raise InputError(f'{source}: line {line}: there is no seed, state and score: {error}') from error
        known = scores.setdefault(key, {}).setdefault(seed, score)
        if not (known == score or (math.isnan(known) and math.isnan(score))):
            raise InputError(
                f'{source}: line {line}: the score under seed {seed} is {score}, and {known} in a row before'
            )
    means = {key: statistics.fmean(values.values()) for key, values in scores.items()}
    return [first[key] for key in sorted(first, key=lambda key: (math.isnan(means[key]), -means[key]))]


def _of_lines(text: str, source: str, space: Space) -> list[NamedCell]:
    cells = []
    for number, line in enumerate(text.splitlines(), 1):
        word = line.strip()
        if found_cells.is_named(space, word):
            cells.append(NamedCell(word, found_cells.named(space, word)))
        elif word:
            cells.append(NamedCell(f'line {number}', _parsed(word, f'{source}: line {number}', space)))
    return cells


def _parsed(text: str, source: str, space: Space) -> Genotype:
    """A genotype in the space's format, or an object of its fields."""
    fields = _fields_of(text)
    if fields is None:
        return space.from_json(text, source)
    like = space.sample(jax.random.key(0))
    if set(fields) != set(like._fields):
        raise InputError(f'{source}: fields {", ".join(fields) or "none"}; expected {", ".join(like._fields)}')
    if not all(isinstance(genes, list) and all(type(gene) is int for gene in genes) for genes in fields.values()):
        raise InputError(f'{source}: the fields of a genotype are lists of whole numbers')
    try:
        genotype = type(like)(**{name: np.array(fields[name], np.int32) for name in like._fields})
    except OverflowError as error:
        raise InputError(f'{source}: {error}') from error
    try:
        space.validate(genotype)
    except InputError as error:
        raise InputError(f'{source}: {error}') from error
    return genotype


def _fields_of(text: str) -> dict[str, Any] | None:
    try:
        fields = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return fields if isinstance(fields, dict) else None
