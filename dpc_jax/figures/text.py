"""The text of a report, `report.md`: the ranking with what it depends on, the pictures, what failed."""

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from dpc_jax.base import with_unit
from dpc_jax.figures import pictures
from dpc_jax.figures import rungs as ladder
from dpc_jax.figures.pictures import is_scored
from dpc_jax.figures.table import Row, by_rung, code
from dpc_jax.progress import duration
from dpc_jax.spaces import Space
from dpc_jax.study import Candidate

TABLE_ROWS = 20  # of the ranking in report.md; the CSV has all
FAILURES_SHOWN = 10
CAPTIONS = {
    'ladder.png': 'How many candidates got how far',
    'rerank.png': 'Scores of the last rung against those of the first',
    'cells.png': 'The best cells and the references',
    'progress.png': 'Each score, and the best so far',
    'scores.png': 'Distribution of the scores',
    'operators.png': 'Scores of the cells that contain an operator',
    'cost.png': 'Scores against multiply-adds',
}


def markdown(
    candidates: Sequence[Candidate],
    table: Sequence[Row],
    *,
    space: Space,
    settings: Mapping[str, Any],
    images: Sequence[str],
) -> str:
    """The whole text. `table` are the `rows` of the candidates, `images` the names of the pictures that there are."""
    parts = [
        f'# Ranking of {_plural(len(pictures.sampled(candidates)), "cell")}',
        '\n'.join(_facts(candidates, settings)),
    ]
    rungs = by_rung(candidates)
    for rung in rungs:
        parts += [f'## Ranking: {rung}', *_ranking_part([row for row in table if row['rung'] == rung])]
    parts += ladder.text(candidates)
    parts += [_how_to_read(candidates, space, settings)] if table else []
    parts += [f'## {CAPTIONS[name]}\n\n![{CAPTIONS[name]}]({name})' for name in CAPTIONS if name in images]
    if 'cost.png' in images:
        parts += _front_part([row for row in table if row['rung'] == max(rungs, key=lambda rung: len(rungs[rung]))])
    drawings = [f'[{name}]({name})' for name in images if name.endswith('.svg')]
    parts += [f'Drawings that scale: {", ".join(drawings)}.'] if drawings else []
    failed = sorted((row for row in table if row['state'] == 'failed'), key=lambda row: int(row['number']))
    parts += ['## Failed', '\n'.join(_failure_lines(failed))] if failed else []
    return '\n\n'.join([*parts, 'Every candidate with all its fields: [ranking.csv](ranking.csv).']) + '\n'


def _facts(candidates: Sequence[Candidate], settings: Mapping[str, Any]) -> list[str]:
    """What the ranking depends on, as a list."""
    found = pictures.sampled(candidates)
    states = [f'{sum(c.state == state for c in found)} {state}' for state in ('complete', 'pruned', 'failed')]
    references = _plural(len(candidates) - len(found), 'reference')
    lines = [f'- **candidates**: {len(found)} sampled ({", ".join(states)}), {references}']
    for rung, group in by_rung(candidates).items():
        seconds, times = sum(c.seconds for c in group), [c.finished for c in group]
        steps = _some(c.steps for c in group if is_scored(c)) or 'no'
        budget = f'{steps} training steps each, seed {_some(c.seed for c in group)}'
        span = f'finished {min(times)} to {max(times)}'
        each = f'{duration(seconds)} of evaluation in all, {duration(seconds / len(group))} each'
        lines.append(f'- **budget of {rung}**: {budget}; {each}; {span}')
    for name in ('device', 'commit', 'config_hash'):
        lines += [f'- **{name.replace("_", " ")}**: {_some(getattr(c, name) for c in candidates)}'] * bool(candidates)
    return lines + [f'- **{name}**: {_setting(value)}' for name, value in settings.items()]


def _some(values: Iterable[int | str]) -> str:
    """The different values, in order; a range where there are many."""
    different = sorted(set(values))
    if len(different) > 4:
        return f'{different[0]} to {different[-1]} ({len(different)} different)'
    return ', '.join(map(str, different))


def _setting(value: Any) -> str:
    """One setting, or a group of them in a line; passwords in URLs are not shown."""
    if isinstance(value, Mapping):
        return ', '.join(f'{name} {_setting(inner)}' for name, inner in value.items())
    text = re.sub(r'(://[^:/@\s]*):[^@/\s]*@', r'\1:***@', str(value)) or "''"
    return f'`{_one_line(text)}`'


def _one_line(text: str) -> str:
    """Text that ends neither a table's cell nor a line nor a code span."""
    return ' '.join(text.split()).replace('|', '/').replace('`', "'")


def _ranking_part(table: Sequence[Row]) -> list[str]:
    """The first ranks, and the references wherever they stand, as a table that says what it leaves out."""
    scored = [row for row in table if row['state'] == 'complete' and math.isfinite(float(row['score']))]
    if not scored:
        return ['No candidate has a score yet.']
    lines = ['| rank | mIoU % | cell | parameters | multiply-adds | number |', '|--:|--:|:--|--:|--:|--:|']
    hidden = 0
    for at, row in enumerate(scored):
        if not row['reference'] and int(row['rank']) > TABLE_ROWS:
            hidden += 1
        else:
            lines += _gap(hidden)
            hidden, score = 0, float(row['score'])
            better = sum(not above['reference'] for above in scored[:at] if float(above['score']) > score)
            lines.append(_table_line(row, better))
    lines += _gap(hidden)
    return ['\n'.join(lines)]


def _front_part(table: Sequence[Row]) -> list[str]:
    """The sampled cells than which no other is as good or better at the same or fewer multiply-adds, by these.

    Cells of equal score and multiply-adds are all listed. `table` are the rows of the rung that the picture shows.
    """
    at = {row['number']: (float(row['macs']), float(row['score'])) for row in table if row['rank'] != ''}
    front = set(pictures.pareto_front(list(at.values())))
    if not front:
        return []
    lines = ['| cell of the Pareto front | mIoU % | multiply-adds | parameters | rank |', '|:--|--:|--:|--:|--:|']
    for row in sorted((row for row in table if at.get(row['number']) in front), key=lambda row: at[row['number']]):
        costs = f'{_count(row["macs"])} | {_count(row["params"])}'
        lines.append(f'| {code(str(row["key"]))} | {100 * float(row["score"]):.2f} | {costs} | {row["rank"]} |')
    return ['\n'.join(lines)]


def _how_to_read(candidates: Sequence[Candidate], space: Space, settings: Mapping[str, Any]) -> str:
    """How to read keys, in the space's words, and what is counted if the table shows counts."""
    scored = next((candidate for candidate in candidates if is_scored(candidate)), None)
    return space.how_to_read(space.cost(scored.genotype, settings) if scored else {})


def _table_line(row: Row, better: int) -> str:
    cell, rank = code(str(row['key'])), str(row['rank'])
    if row['reference']:
        cell, rank = f'**reference {_one_line(str(row["reference"]))}** ({better} better) {cell}', '–'
    costs = f'{_count(row["params"])} | {_count(row["macs"])}'
    return f'| {rank} | {100 * float(row["score"]):.2f} | {cell} | {costs} | {row["number"]} |'


def _gap(hidden: int) -> list[str]:
    return [f'| … | | {hidden} more | | | |'] * bool(hidden)


def _failure_lines(failed: Sequence[Row]) -> list[str]:
    lines = [f'- {row["number"]}, `{row["key"]}`: {_one_line(str(row["failure"]))}' for row in failed[:FAILURES_SHOWN]]
    rest = len(failed) - len(lines)
    return lines + [f'- and {rest} more'] * bool(rest)


def _plural(number: int, word: str) -> str:
    return f'{number} {word}' + 's' * (number != 1)


def _count(value: int | float | str) -> str:
    return '–' if value == '' else with_unit(int(value))
