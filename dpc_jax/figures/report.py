"""The report of a study: `report.md` with the ranking and pictures, `ranking.csv` with every candidate and field.

A ranking is never shown without what it depends on: how many candidates, which budget, seed and settings. Given the
same candidates the same bytes are written; each file replaces an older one in one step.
"""

import bisect
import csv
import io
import json
import math
import pathlib
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import matplotlib.style
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from dpc_jax import files
from dpc_jax.base import Genotype
from dpc_jax.counting import Counts
from dpc_jax.figures import pictures
from dpc_jax.figures.cell_drawing import cell_figure, cells_figure, draw_on
from dpc_jax.figures.pictures import is_scored, percent, scored_references
from dpc_jax.progress import duration
from dpc_jax.spaces.dpc import Space
from dpc_jax.study import Candidate, ranking

Count = Callable[[Genotype], Counts]
Row = dict[str, int | float | str]

FIELDS = (
    *('rank', 'number', 'reference', 'score', 'state', 'key', 'genotype'),
    *('params', 'macs', 'projection_params', 'projection_macs'),
    *('steps', 'seed', 'rung', 'config_hash', 'commit', 'device', 'seconds', 'worker', 'finished', 'failure'),
    *('curve', 'losses'),
)
DPI = 150
STYLE: list[str | dict[str, str]] = [
    'default',
    {'svg.hashsalt': 'cell'},
]  # whatever the user's matplotlibrc says; the salt makes names repeat
TABLE_ROWS = 20  # of the ranking in report.md; the CSV has all
CELLS_DRAWN = 4
FAILURES_SHOWN = 10
CAPTIONS = {
    'cells.png': 'The best cells and the references',
    'progress.png': 'Each score, and the best so far',
    'scores.png': 'Distribution of the scores',
    'operators.png': 'Scores of the cells that contain an operator',
    'cost.png': 'Scores against multiply-adds',
}
HOW_TO_READ = (
    'How to read a cell: `F` are the features, `c1x1` a 1×1 convolution, `s6x12` a 3×3 separable convolution at rate '
    '6 (height) × 12 (width), `p2x4` pooling on a grid of 2 × 4; `a[b,c]` are the branches b and c that read a.'
)


def rows(candidates: Sequence[Candidate], *, space: Space, count: Count) -> list[Row]:
    """One row per candidate with all its fields, in ranking order; the dearest rung first where there are several.

    `rank` counts from 1 among the sampled candidates of a rung that are complete; equal scores share it. It is ''
    for references (they are in order with the others) and for pruned and failed candidates, which come last.
    `params` and `macs` are those of the branches, as in the paper's Table 1; the projection's are beside them.
    """
    return [_row(candidate, rank, space, count(candidate.genotype)) for candidate, rank in _ranked(candidates)]


def _row(candidate: Candidate, rank: int | None, space: Space, counts: Counts) -> Row:
    row: Row = {
        'rank': '' if rank is None else rank,
        'genotype': json.dumps(json.loads(space.to_json(candidate.genotype))),
        'params': counts.branch_params,
        'macs': counts.branch_macs,
        'projection_params': counts.projection_params,
        'projection_macs': counts.projection_macs,
        'curve': ' '.join(map(repr, candidate.curve)),
        'losses': ' '.join(map(repr, candidate.losses)),
    }
    return {name: row[name] if name in row else getattr(candidate, name) for name in FIELDS}


def _ranked(candidates: Sequence[Candidate]) -> list[tuple[Candidate, int | None]]:
    """Candidates in the order of `rows`, each with its rank."""
    table: list[tuple[Candidate, int | None]] = []
    for group in _by_rung(candidates).values():
        scores = sorted(c.score for c in group if _has_rank(c))
        for candidate in ranking(sorted(group, key=lambda c: c.number)):
            better = len(scores) - bisect.bisect_right(scores, candidate.score)
            table.append((candidate, better + 1 if _has_rank(candidate) else None))
    return table


def _has_rank(candidate: Candidate) -> bool:
    return is_scored(candidate) and not candidate.reference


def _by_rung(candidates: Sequence[Candidate]) -> dict[str, list[Candidate]]:
    """Rung -> its candidates; the rung that trains for the most steps first."""
    rungs: dict[str, list[Candidate]] = {}
    for candidate in candidates:
        rungs.setdefault(candidate.rung, []).append(candidate)
    return dict(sorted(rungs.items(), key=lambda item: (-max(c.steps for c in item[1]), item[0])))


def write_report(
    candidates: Sequence[Candidate],
    directory: pathlib.Path | str,
    *,
    space: Space,
    settings: Mapping[str, Any],
    count: Count,
) -> list[pathlib.Path]:
    """Writes the report of `candidates` (of one rung or of several) into `directory`; the paths, `report.md` first.

    `settings` is the configuration (`config.to_dict()`), printed at the head; `count` is `counting.count` with all but
    the genotype given. Pictures that would show nothing are not made, and those of an older report go.
    """
    directory = pathlib.Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    table = rows(candidates, space=space, count=count)
    with matplotlib.style.context(STYLE):
        figures = _figures(candidates, count)
        images = [_save(figure, directory / name) for name, figure in figures.items()]
    ranking_path = files.write(directory / 'ranking.csv', _csv(table))
    text = _markdown(candidates, table, settings=settings, images=list(figures))
    paths = [files.write(directory / 'report.md', text), ranking_path, *images]
    for old in {*directory.glob('cell_*.svg'), *(directory / name for name in CAPTIONS)} - set(images):
        old.unlink(missing_ok=True)
    return paths


def draw_cell(genotype: Genotype, target: Axes | pathlib.Path | str, *, title: str = '') -> None:
    """Draws one cell `[K]` on axes, or into a file whose suffix (.svg, .png, .pdf) says the format."""
    if isinstance(target, Axes):
        draw_on(target, genotype, title)
        return
    with matplotlib.style.context(STYLE):
        _save(cell_figure(genotype, title), pathlib.Path(target))


# ---- pictures -----------------------------------------------------------------------------------------------


def _figures(candidates: Sequence[Candidate], count: Count) -> dict[str, Figure]:
    """File name -> figure. Cells are the best of the dearest rung, all else is of the rung with most candidates."""
    rungs = list(_by_rung(candidates).values())
    most = max(rungs, key=len, default=[])
    figures: dict[str, Figure | None] = {}
    cells = _cells(rungs[0]) if rungs else {}
    if cells:
        figures['cells.png'] = cells_figure(list(cells.values()))
    figures['scores.png'] = pictures.histogram(most)
    figures['progress.png'] = pictures.progress(most)
    figures['operators.png'] = pictures.operators(most)
    figures['cost.png'] = pictures.cost(most, lambda genotype: count(genotype).branch_macs)
    figures |= {f'cell_{name}.svg': cell_figure(*cell) for name, cell in cells.items()}
    return {name: figure for name, figure in figures.items() if figure is not None}


def _cells(candidates: Sequence[Candidate]) -> dict[str, tuple[Genotype, str]]:
    """Name -> cell and title of the best cells (each once, whatever it was named or seeded) and of the references."""
    best: dict[str, tuple[Candidate, int]] = {}
    for candidate, rank in _ranked(candidates):
        if rank is not None:
            best.setdefault(candidate.key, (candidate, rank))
    cells = {}
    for place, (candidate, rank) in enumerate(list(best.values())[:CELLS_DRAWN], 1):
        cells[f'{place:02d}'] = (candidate.genotype, f'rank {rank}: {percent(candidate):.2f} % mIoU')
    for name, group in scored_references(candidates).items():
        file_name = re.sub(r'[^\w.-]', '_', name)
        cells[f'reference_{file_name}'] = (group[0].genotype, f'{name}: {percent(group[0]):.2f} % mIoU')
    return cells


# ---- text ---------------------------------------------------------------------------------------------------


def _markdown(
    candidates: Sequence[Candidate], table: Sequence[Row], *, settings: Mapping[str, Any], images: Sequence[str]
) -> str:
    parts = [
        f'# Ranking of {_plural(len(pictures.sampled(candidates)), "cell")}',
        '\n'.join(_facts(candidates, settings)),
    ]
    rungs = _by_rung(candidates)
    for rung in rungs:
        parts += [f'## Ranking: {rung}', *_ranking_part([row for row in table if row['rung'] == rung])]
    parts += [HOW_TO_READ] if table else []
    parts += [f'## {CAPTIONS[name]}\n\n![{CAPTIONS[name]}]({name})' for name in CAPTIONS if name in images]
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
    for rung, group in _by_rung(candidates).items():
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
    """The first ranks, and the references wherever they stand, as a table; what was left out is said."""
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
    projection = f'{_short(int(table[0]["projection_params"]))} and {_short(int(table[0]["projection_macs"]))}'
    return [
        '\n'.join(lines),
        f'Counted are the weights of the branches; the projection has {projection} in every cell.',
    ]


def _table_line(row: Row, better: int) -> str:
    cell, rank = f'`{row["key"]}`', str(row['rank'])
    if row['reference']:
        cell, rank = f'**reference {_one_line(str(row["reference"]))}** ({better} better) {cell}', '–'
    costs = f'{_short(int(row["params"]))} | {_short(int(row["macs"]))}'
    return f'| {rank} | {100 * float(row["score"]):.2f} | {cell} | {costs} | {row["number"]} |'


def _gap(hidden: int) -> list[str]:
    return [f'| … | | {hidden} more | | | |'] * bool(hidden)


def _failure_lines(failed: Sequence[Row]) -> list[str]:
    lines = [f'- {row["number"]}, `{row["key"]}`: {_one_line(str(row["failure"]))}' for row in failed[:FAILURES_SHOWN]]
    rest = len(failed) - len(lines)
    return lines + [f'- and {rest} more'] * bool(rest)


def _plural(number: int, word: str) -> str:
    return f'{number} {word}' + 's' * (number != 1)


def _short(number: int) -> str:
    """Four digits and a unit: 84.80 K, 2.986 G."""
    for unit, size in (('G', 10**9), ('M', 10**6), ('K', 10**3)):
        if number >= size:
            return f'{number / size:#.4g} {unit}'
    return str(number)


# ---- files --------------------------------------------------------------------------------------------------


def _csv(table: Sequence[Row]) -> str:
    """Numbers as Python writes them, so that reading them gives the same numbers; sequences with spaces between."""
    text = io.StringIO()
    writer = csv.DictWriter(text, FIELDS, lineterminator='\n')
    writer.writeheader()
    writer.writerows(table)
    return text.getvalue()


def _save(figure: Figure, path: pathlib.Path) -> pathlib.Path:
    data, kind = io.BytesIO(), path.suffix.removeprefix('.')
    dates = {'svg': {'Date': None}, 'pdf': {'CreationDate': None}}
    figure.savefig(data, format=kind, dpi=DPI, metadata=dates.get(kind))
    return files.write(path, data.getvalue())
