"""Rows of results, and the paper's tables beside them: what the scripts of the tables share.

A row is a `metrics.json` that an evaluation wrote. Beside it the user may put a `server.json`, `{"miou": 0.827}`, with
what the server of a test set answered, whose labels are not public.
"""

import json
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from absl import flags

from dpc_jax.base import InputError

ROWS = flags.DEFINE_list('rows', ['experiments/results', 'runs'], 'Folders in which rows are looked for.')
MARKDOWN = flags.DEFINE_string('markdown', '', 'Write the table into this file, too.')

Row = Mapping[str, Any]
PAPER = 'Chen et al. 2018, arXiv:1809.04184'
SINGLE_SCALE: dict[str, Any] = {'scales': [1.0], 'flip': False}
FULL_SIZE: dict[str, Any] = {'config.backbone.width': 1.0, 'config.context.filters': 256}  # and no toy


class Published(NamedTuple):
    """A row of a table of the paper."""

    name: str
    miou: float  # %
    source: str = PAPER
    wanted: Mapping[str, Any] = {}  # of a row of ours: field (with dots, of the row) -> one value or several allowed
    command: str = ''  # that makes such a row; '' is a competitor


def find(folders: Sequence[str]) -> tuple[list[Row], list[str]]:
    """All rows below these folders, by path; and a line for each file that is none."""
    found, faults = [], []
    for folder in folders:
        for path in sorted(pathlib.Path(folder).expanduser().rglob('metrics.json')):
            try:
                found.append(_read(path))
            except (OSError, ValueError, TypeError, KeyError) as error:
                faults.append(f'{path} is passed over: {type(error).__name__} {error}')
    unique = {(row['config_hash'], row.get('training', {}).get('seed'), row['weights']): row for row in found}
    return list(unique.values()), faults


def _read(path: pathlib.Path) -> Row:
    row: dict[str, Any] = json.loads(path.read_text(encoding='utf-8'))
    for field in ('dataset', 'split', 'miou', 'config', 'config_hash', 'weights', 'commit', 'device'):
        row[field]  # KeyError names what is lacking
    server = path.with_name('server.json')
    if server.is_file():
        row['server_miou'] = float(json.loads(server.read_text(encoding='utf-8'))['miou'])
    return row


def module_of(row: Row) -> str:
    """`ASPP`, `DPC` (the released cell), `DPC of cell.json`, ..."""
    context = row['config']['context']
    if context['name'] != 'dpc':
        return str(context['name']).upper() if context['name'] == 'aspp' else str(context['name'])
    genotype = context['genotype']
    return 'DPC' if genotype == 'dpc_top1' else f'DPC of {pathlib.PurePath(genotype).name}'


def matches(row: Row, wanted: Mapping[str, Any]) -> bool:
    """Whether every wanted field of the row has the value, or one of the values."""
    return all(
        _value(row, field) in (value if isinstance(value, tuple) else (value,)) for field, value in wanted.items()
    )


def _value(row: Row, field: str) -> Any:
    value: Any = row
    for name in field.split('.'):
        value = value.get(name) if isinstance(value, Mapping) else None
    return value


def reached(found: Sequence[Row], published: Published) -> str:
    """What our rows say, or how to get one; '' of a competitor."""
    if not published.command:
        return ''
    ours = [row for row in found if matches(row, published.wanted)]
    scores = [100 * score for row in ours for score in (row.get('server_miou', row['miou']),) if score is not None]
    if scores:
        text = f'**{max(scores):.2f}**'
        if len(scores) > 1:
            text += f' (mean {np.mean(scores):.2f} ± {np.std(scores, ddof=1):.2f}, {len(scores)} runs)'
        best = max(ours, key=lambda row: row.get('server_miou', row['miou']) or 0)
        return f'{text}; {best["device"]}, commit {best["commit"]}'
    if ours:
        exported = ours[-1]['config']['evaluate']['export'] or 'nowhere: set evaluate.export'
        return f'labels are in {exported}; the server scores them, then write server.json beside metrics.json'
    return f'not run: `{published.command}`'


def table(title: str, published: Sequence[Published], found: Sequence[Row], notes: Sequence[str] = ()) -> str:
    """Markdown: paper and reached side by side."""
    lines = [f'## {title}', '', '| method | published mIoU % | source | reached |', '|:--|--:|:--|:--|']
    for row in published:
        lines.append(f'| {row.name} | {row.miou:.2f} | {row.source} | {reached(found, row)} |')
    return '\n'.join([*lines, *(f'\n{note}' for note in notes), ''])


def show(text: str, faults: Sequence[str]) -> None:
    """Prints the table and what was passed over, and writes the table where --markdown says."""
    print(text)
    print('\n'.join(faults), end='\n' * bool(faults))
    if MARKDOWN.value:
        path = pathlib.Path(MARKDOWN.value).expanduser()
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding='utf-8')
        except OSError as error:
            raise InputError(f"--markdown: '{path}' cannot be written: {error.strerror}") from error
        print(path)


def train_command(config: str, workdir: str, *more: str) -> str:
    """How a training is started."""
    name = config.partition(':')[0]
    argv = (f'python run.py --config=configs/{name}.py{config[len(name) :]}', f'--workdir=runs/{workdir}')
    return ' '.join([*argv, f'--config.dataset.root=/data/{name}', *more])


def evaluate_command(config: str, checkpoint: str, workdir: str, *more: str) -> str:
    """How its weights are evaluated in another way."""
    journey = ('--config.journey=evaluate', f'--config.checkpoint=runs/{checkpoint}/weights')
    return train_command(config, workdir, *journey, *more)
