"""The ranking of a study as rows, and `ranking.csv`, which has every candidate with all its fields."""

import bisect
import csv
import io
import json
import statistics
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from dpc_jax.figures.pictures import is_scored
from dpc_jax.spaces import Space
from dpc_jax.study import Candidate, ranking

Row = dict[str, int | float | str]

FIRST = ('rank', 'number', 'reference', 'score', 'state', 'key', 'genotype')
COSTS = ('params', 'macs')  # which every space has; the others of a space follow
LAST = (
    *('steps', 'seed', 'rung', 'config_hash', 'commit', 'device', 'seconds', 'worker', 'finished', 'failure'),
    *('curve', 'losses'),
)


def rows(candidates: Sequence[Candidate], *, space: Space, settings: Mapping[str, Any]) -> list[Row]:
    """One row per candidate with all its fields, in ranking order; the dearest rung first where there are several.

    `rank` counts from 1 among the sampled candidates of a rung that are complete; equal scores share it. It is ''
    for references (they are in order with the others) and for pruned and failed candidates, which come last.
    All rows have the same columns: `FIRST`, what the space counts under these settings, `LAST`. A value that is not
    known is ''.
    """
    table = ranked(candidates)
    costs = [space.cost(candidate.genotype, settings) for candidate, _ in table]
    names = _names([dict.fromkeys(COSTS, 0), *costs])
    return [
        _row(candidate, rank, space) | _filled(names, cost) | {name: _field(candidate, name) for name in LAST}
        for (candidate, rank), cost in zip(table, costs, strict=True)
    ]


def _row(candidate: Candidate, rank: int | None, space: Space) -> Row:
    made: Row = {
        'rank': '' if rank is None else rank,
        'genotype': json.dumps(json.loads(space.to_json(candidate.genotype))),
    }
    return {name: made[name] if name in made else _field(candidate, name) for name in FIRST}


def _field(candidate: Candidate, name: str) -> int | float | str:
    """A field of a candidate; sequences with spaces between."""
    value: Any = getattr(candidate, name)
    return ' '.join(map(repr, value)) if isinstance(value, tuple) else value


def _names(values: Iterable[Mapping[str, int | float]]) -> tuple[str, ...]:
    """The names in any of them, in order of appearance."""
    return tuple(dict.fromkeys(name for named in values for name in named))


def _filled(names: Iterable[str], values: Mapping[str, int | float]) -> Row:
    return {name: values.get(name, '') for name in names}


def ranked(candidates: Sequence[Candidate]) -> list[tuple[Candidate, int | None]]:
    """Candidates in the order of `rows`, each with its rank."""
    table: list[tuple[Candidate, int | None]] = []
    for group in by_rung(candidates).values():
        scores = sorted(c.score for c in group if _has_rank(c))
        for candidate in ranking(sorted(group, key=lambda c: c.number)):
            better = len(scores) - bisect.bisect_right(scores, candidate.score)
            table.append((candidate, better + 1 if _has_rank(candidate) else None))
    return table


def _has_rank(candidate: Candidate) -> bool:
    return is_scored(candidate) and not candidate.reference


def by_rung(candidates: Sequence[Candidate]) -> dict[str, list[Candidate]]:
    """Rung -> its rows; the last rung of the ladder first: few candidates, each dear."""
    rungs: dict[str, list[Candidate]] = {}
    for candidate in candidates:
        rungs.setdefault(candidate.rung, []).append(candidate)
    cells = {name: len({c.key for c in group if not c.reference}) for name, group in rungs.items()}
    seconds = {name: statistics.fmean(c.seconds for c in group) for name, group in rungs.items()}
    order = sorted(rungs, key=lambda name: (cells[name], -max(c.steps for c in rungs[name]), -seconds[name], name))
    return {name: rungs[name] for name in order}


def code(key: str) -> str:
    """A key within a cell of a table in Markdown, where a bar would end the cell, in code too."""
    escaped = key.replace('|', '\\|')
    return f'`{escaped}`'


def to_csv(table: Sequence[Row]) -> str:
    """Numbers as Python writes them, so that reading them gives the same numbers."""
    text = io.StringIO()
    writer = csv.DictWriter(text, table[0] if table else (*FIRST, *COSTS, *LAST), lineterminator='\n')
    writer.writeheader()
    writer.writerows(table)
    return text.getvalue()
