"""The report of a study: `report.md` with the ranking and pictures, `ranking.csv` with every candidate and field.

A ranking is never shown without what it depends on: how many candidates, which budget, seed and settings. Given the
same candidates the same bytes are written; each file replaces an older one in one step.
"""

import io
import pathlib
import re
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib.style
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.text import Text

from dpc_jax import files, metrics
from dpc_jax.base import Genotype
from dpc_jax.figures import pictures
from dpc_jax.figures import rungs as ladder
from dpc_jax.figures.cell_drawing import cell_figure, cells_figure, draw_on
from dpc_jax.figures.pictures import percent, scored_references
from dpc_jax.figures.table import by_rung, ranked, rows, to_csv
from dpc_jax.figures.text import CAPTIONS, markdown
from dpc_jax.spaces import Graph, Space
from dpc_jax.study import Candidate

DPI = 150
STYLE: list[str | dict[str, str]] = [
    'default',
    {'svg.hashsalt': 'cell'},
]  # over the user's matplotlibrc; the salt makes names repeat
CELLS_DRAWN = 4
SCORE = metrics.LABELS['miou']


def write_report(
    candidates: Sequence[Candidate], directory: pathlib.Path | str, *, space: Space, settings: Mapping[str, Any]
) -> list[pathlib.Path]:
    """Writes the report of `candidates` (of one or more rungs) into `directory`; gives the paths, `report.md` first.

    `settings` are the study's, nested; they are printed at the head, and the costs are those that the space counts
    under them. Pictures that would show nothing are not made, and those of an older report are removed.
    """
    directory = pathlib.Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    table = rows(candidates, space=space, settings=settings)
    label = metrics.label_of(settings)
    with matplotlib.style.context(STYLE):
        figures = _figures(candidates, space, settings)
        for figure in figures.values():
            _name_score(figure, label)
        images = [_save(figure, directory / name) for name, figure in figures.items()]
    ranking_path = files.write(directory / 'ranking.csv', to_csv(table))
    text = markdown(candidates, table, space=space, settings=settings, images=list(figures)).replace(SCORE, label)
    paths = [files.write(directory / 'report.md', text), ranking_path, *images]
    for old in {*directory.glob('cell_*.svg'), *(directory / name for name in CAPTIONS)} - set(images):
        old.unlink(missing_ok=True)
    return paths


def draw_cell(graph: Graph, target: Axes | pathlib.Path | str, *, title: str = '') -> None:
    """Draws what `Space.graph` gives, on axes or into a file whose suffix (.svg, .png, .pdf) says the format."""
    if isinstance(target, Axes):
        draw_on(target, graph, title)
        return
    with matplotlib.style.context(STYLE):
        _save(cell_figure(graph, title), pathlib.Path(target))


def _figures(candidates: Sequence[Candidate], space: Space, settings: Mapping[str, Any]) -> dict[str, Figure]:
    """File name -> figure. Cells are the best of the dearest rung, all else is of the rung with most candidates."""
    rungs = list(by_rung(candidates).values())
    most = max(rungs, key=len, default=[])
    figures: dict[str, Figure | None] = {}
    cells = _cells(rungs[0], space, metrics.label_of(settings)) if rungs else {}
    if cells:
        figures['cells.png'] = cells_figure(list(cells.values()))
    figures['ladder.png'] = ladder.flow(candidates)
    figures['rerank.png'] = ladder.comparison(candidates)
    figures['scores.png'] = pictures.histogram(most)
    figures['progress.png'] = pictures.progress(most)
    figures['operators.png'] = pictures.operators(most, space)
    if most and space.cost(most[0].genotype, settings):
        figures['cost.png'] = pictures.cost(most, lambda genotype: space.cost(genotype, settings)['macs'])
    figures |= {f'cell_{name}.svg': cell_figure(*cell) for name, cell in cells.items()}
    return {name: figure for name, figure in figures.items() if figure is not None}


def _cells(candidates: Sequence[Candidate], space: Space, label: str) -> dict[str, tuple[Graph, str]]:
    """Name -> graph and title of the best cells (each once, whatever it was named or seeded) and of the references."""
    best: dict[str, tuple[Candidate, int]] = {}
    for candidate, rank in ranked(candidates):
        if rank is not None:
            best.setdefault(candidate.key, (candidate, rank))
    cells = {}

    def add(name: str, genotype: Genotype, title: str) -> None:
        cells[name] = (space.graph(genotype), title)
        for part, graph in space.further_graphs(genotype).items():
            cells[f'{name}_{part}'] = (graph, f'{title} ({part})')

    for place, (candidate, rank) in enumerate(list(best.values())[:CELLS_DRAWN], 1):
        add(f'{place:02d}', candidate.genotype, f'rank {rank}: {percent(candidate):.2f} % {label}')
    for name, group in scored_references(candidates).items():
        file_name = re.sub(r'[^\w.-]', '_', name)
        add(f'reference_{file_name}', group[0].genotype, f'{name}: {percent(group[0]):.2f} % {label}')
    return cells


def _name_score(figure: Figure, label: str) -> None:
    """Texts say mIoU; where a search ranks by another score, its name takes that place."""
    for text in figure.findobj(Text):
        if SCORE in text.get_text():
            text.set_text(text.get_text().replace(SCORE, label))


def _save(figure: Figure, path: pathlib.Path) -> pathlib.Path:
    data, kind = io.BytesIO(), path.suffix.removeprefix('.')
    dates = {'svg': {'Date': None}, 'pdf': {'CreationDate': None}}
    figure.savefig(data, format=kind, dpi=DPI, metadata=dates.get(kind))
    return files.write(path, data.getvalue())
