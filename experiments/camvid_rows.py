"""CamVid val: what each context module reached; nothing is published for it.

python experiments/camvid_rows.py --rows=experiments/results,runs
"""

from collections.abc import Sequence

import numpy as np
from absl import app, flags

from dpc_jax import command_line
from experiments import common, rows
from experiments.rows import Row

WANTED = {'dataset': 'camvid', 'split': 'val', 'images': 101, **rows.SINGLE_SCALE, **rows.FULL_SIZE}
COMMAND = rows.train_command('camvid', 'camvid_dpc_0', '--config.train.init.checkpoint=mobilenet_v2.npz')

flags.adopt_module_key_flags(rows)


def table(found: Sequence[Row]) -> str:
    """A row for each network and budget, mean and standard deviation over its seeds."""
    lines = ['## CamVid val, single scale', '', '| network | steps | runs | mIoU % | commit | device |']
    lines.append('|:--|--:|--:|--:|:--|:--|')
    trained = [row for row in found if rows.matches(row, WANTED) and 'training' in row and row['miou'] is not None]
    groups: dict[tuple[str, int], list[Row]] = {}
    for row in trained:
        name = f'{row["config"]["backbone"]["name"]}, {rows.module_of(row)}'
        groups.setdefault((name, row['training']['steps']), []).append(row)
    for (name, steps), group in sorted(groups.items()):
        scores = 100 * np.array([row['miou'] for row in group])
        spread = f' ± {scores.std(ddof=1):.2f}' if len(scores) > 1 else ''
        commits = ', '.join(sorted({row['commit'] for row in group}))
        lines.append(
            f'| {name} | {steps} | {len(group)} | {scores.mean():.2f}{spread} | {commits} | {group[0]["device"]} |'
        )
    if not trained:
        lines.append(f'| not run: `{COMMAND}` | | | | | |')
    return '\n'.join([*lines, ''])


def main(argv: Sequence[str]) -> None:
    """Prints the table."""
    del argv
    found, faults = rows.find(rows.ROWS.value)
    rows.show(table(found), faults)


if __name__ == '__main__':
    app.run(common.one_line_errors(main), flags_parser=command_line.parse_flags)
