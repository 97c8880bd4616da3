"""Tables of published numbers beside those that were reached: rows of finished trainings, commands for the others."""

import json
import pathlib
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from dpc_jax.base import InputError

METRICS = 'evaluation/metrics.json'  # in a work folder of a training


class Published(NamedTuple):
    """A row of a paper."""

    name: str  # of the network
    numbers: Mapping[str, str]  # by column, as printed
    folder: str  # where its training lies below the folder of runs
    command: str  # that trains it; '' where the project does not have the network


def table(rows: Sequence[Published], columns: Mapping[str, tuple[str, float]], runs: pathlib.Path) -> list[str]:
    """Markdown: published / reached for each column, then the commands of rows that were not run.

    Args:
      columns: name of a column -> (score in `metrics.json`, factor of what is shown).
      runs: the folder in which the trainings lie.
    """
    lines = [f'| network | {" | ".join(columns)} |', '|:--|' + '--:|' * len(columns)]
    missing = []
    for row in rows:
        found = _reached(runs / row.folder / METRICS) if row.folder else None
        cells = []
        for column, (score, factor) in columns.items():
            printed = row.numbers.get(column, '–')
            value = None if found is None else found.get(score)
            cells.append(f'{printed} / {"–" if value is None else f"{factor * value:.3g}"}')
        lines.append(f'| {row.name} | {" | ".join(cells)} |')
        if found is None:
            missing.append(row)
    lines += ['', 'Published / reached; – was not run, or is not published.']
    if missing:
        lines += ['', 'Not run:', '']
        lines += [f'- {row.name}: {f"`{row.command}`" if row.command else "not built here"}' for row in missing]
    return lines


def _reached(path: pathlib.Path) -> Mapping[str, float] | None:
    if not path.is_file():
        return None
    try:
        held: Mapping[str, float] = json.loads(path.read_text(encoding='utf-8'))
    except (OSError, ValueError) as error:
        raise InputError(f'{path} cannot be read: {error}') from error
    return held


def command(config: str, folder: str, root: str, more: str = '') -> str:
    """The training of a row."""
    words = [f'python run.py --config={config} --workdir=runs/{folder} --config.dataset.root={root}']
    return ' '.join([*words, *[more] * bool(more), '--config.train.init.checkpoint=/data/mobilenet_v2.npz'])
