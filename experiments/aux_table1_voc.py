"""Table 1 of Nekrasov et al. (CVPR 2019, arXiv:1810.10804): segmentation on PASCAL VOC 2012 val, published and reached.

  python experiments/aux_table1_voc.py --runs=runs

The published mIoU is quoted from memory and not verified; it was reached after training on COCO, the augmented VOC and
VOC, which configs/voc_aux.py does not do. Rows whose training is not finished below --runs are named with the command.
"""

import pathlib
from collections.abc import Sequence

from absl import app, flags

from dpc_jax import command_line
from experiments import common, published
from experiments.published import Published

RUNS = flags.DEFINE_string('runs', 'runs', 'The folder in which the trainings lie.')

ROOT = '/data/VOCdevkit'


def rows() -> list[Published]:
    """The rows of the table."""
    found = [
        Published(
            name,
            {'mIoU %': miou},
            f'voc_{name}',
            published.command('configs/voc_aux.py', f'voc_{name}', ROOT, f'--config.context.genotype={name}'),
        )
        for name, miou in (('arch0', '78.0'), ('arch1', '77.1'), ('arch2', '77.3'))
    ]
    aspp = published.command(
        'configs/pascal_voc.py', 'voc_aspp', ROOT, '--config.backbone.name=mobilenet_v2 --config.context.name=aspp'
    )
    return [Published('DeepLab-v3-ASPP', {'mIoU %': '75.7'}, 'voc_aspp', aspp), *found]


def main(argv: Sequence[str]) -> None:
    """Prints the table."""
    del argv
    print('\n'.join(published.table(rows(), {'mIoU %': ('miou', 100.0)}, pathlib.Path(RUNS.value).expanduser())))


if __name__ == '__main__':
    app.run(common.one_line_errors(main), flags_parser=command_line.parse_flags)
