"""Table 2 of Nekrasov et al. (CVPR 2019, arXiv:1810.10804): poses on MPII and COCO, published and reached.

  python experiments/aux_table2_pose.py --runs=runs

The published numbers of COCO are with the boxes of Simple Baselines' detector (`--config.dataset.detections`);
ResNet-50 is that of arXiv:1804.06208. Rows whose training is not finished below --runs are named with the command.
"""

import pathlib
from collections.abc import Sequence

from absl import app, flags

from dpc_jax import command_line
from experiments import common, published
from experiments.published import Published

RUNS = flags.DEFINE_string('runs', 'runs', 'The folder in which the trainings lie.')

MPII = {'PCKh@0.5 %': ('pckh_0.5', 100.0), 'PCKh@0.1 %': ('pckh_0.1', 100.0)}
COCO = {'AP': ('ap', 1.0), 'AR': ('ar', 1.0)}
NUMBERS = {
    'DeepLab-v3+': (('86.6', '31.7'), ('0.668', '0.700')),
    'ResNet-50': (('88.5', '33.9'), ('0.704', '0.763')),
    'arch0': (('86.5', '31.4'), ('0.658', '0.691')),
    'arch1': (('87.0', '32.0'), ('0.659', '0.694')),
    'arch2': (('87.1', '31.8'), ('0.659', '0.693')),
}


def rows(data: str) -> list[Published]:
    """The rows of one data set, 'mpii' or 'coco'."""
    found = []
    columns = MPII if data == 'mpii' else COCO
    for name, (mpii, coco) in NUMBERS.items():
        folder = f'{data}_{"deeplab" if name.startswith("DeepLab") else name}'
        config = f'configs/{data}_pose.py' + ':deeplab' * name.startswith('DeepLab')
        genotype = f'--config.context.genotype={name}' if name.startswith('arch') else ''
        command = '' if name.startswith('ResNet') else published.command(config, folder, f'/data/{data}', genotype)
        numbers = dict(zip(columns, mpii if data == 'mpii' else coco, strict=True))
        found.append(Published(name, numbers, folder, command))
    return found


def main(argv: Sequence[str]) -> None:
    """Prints both halves of the table."""
    del argv
    runs = pathlib.Path(RUNS.value).expanduser()
    for data, title, columns in (('mpii', 'MPII val', MPII), ('coco', 'COCO val2017', COCO)):
        print('\n'.join([f'## {title}', '', *published.table(rows(data), columns, runs), '']))


if __name__ == '__main__':
    app.run(common.one_line_errors(main), flags_parser=command_line.parse_flags)
