"""Depth of Nekrasov et al. (CVPR 2019, arXiv:1810.10804) on NYU Depth v2: what is known of it, and what was reached.

  python experiments/aux_depth.py --runs=runs

The published RMSE of the three decoders is quoted from memory (about 0.52 to 0.53 m) and not verified, and so is that
of the authors' joint model of depth and segmentation (about 0.565 m). Rows whose training is not finished below --runs
are named with the command.
"""

import pathlib
from collections.abc import Sequence

from absl import app, flags

from dpc_jax import command_line
from experiments import common, published
from experiments.published import Published

RUNS = flags.DEFINE_string('runs', 'runs', 'The folder in which the trainings lie.')

COLUMNS = {
    **{'RMSE m': ('rmse', 1.0), 'absolute relative': ('absolute_relative', 1.0), 'δ < 1.25 %': ('delta1', 100.0)},
    'mIoU %': ('miou', 100.0),
}


def rows() -> list[Published]:
    """The three decoders, and the joint network."""
    found = [
        Published(
            name,
            {'RMSE m': '~0.52'},
            f'nyud_{name}',
            published.command(
                'configs/nyud_depth.py', f'nyud_{name}', '/data/nyudv2', f'--config.context.genotype={name}'
            ),
        )
        for name in ('arch0', 'arch1', 'arch2')
    ]
    joint = published.command('configs/nyud_joint.py', 'nyud_joint', '/data/nyudv2')
    return [*found, Published('joint, arch0', {'RMSE m': '~0.565'}, 'nyud_joint', joint)]


def main(argv: Sequence[str]) -> None:
    """Prints the table."""
    del argv
    print('\n'.join(published.table(rows(), COLUMNS, pathlib.Path(RUNS.value).expanduser())))


if __name__ == '__main__':
    app.run(common.one_line_errors(main), flags_parser=command_line.parse_flags)
