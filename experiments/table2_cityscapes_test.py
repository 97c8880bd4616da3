"""Table 2 of the paper: mIoU on the test set of Cityscapes, whose labels only its server has.

python experiments/table2_cityscapes_test.py --rows=experiments/results,runs

Chen et al. 2018, arXiv:1809.04184, Table 2. The protocol is that of the model zoo's checkpoint (82.66): output stride
8, scales 0.75 to 2 and mirrored images.
"""

from collections.abc import Sequence

from absl import app, flags

from dpc_jax import command_line
from experiments import common, rows
from experiments.rows import Published

COMMAND = rows.evaluate_command(
    'cityscapes',
    'cityscapes_coarse',
    'cityscapes_test',
    '--config.backbone.output_stride=8',
    '--config.evaluate.split=test',
    '--config.evaluate.export=runs/cityscapes_test/labels',
    '--config.evaluate.flip=True',
    '--config.evaluate.scales="(0.75, 1.0, 1.25, 1.5, 1.75, 2.0)"',
)
WANTED = {
    'dataset': 'cityscapes',
    'split': 'test',
    'images': 1525,
    **rows.FULL_SIZE,
    'config.backbone.name': ('xception_71', 'xception_65'),
    'config.backbone.output_stride': 8,
    'config.context.name': 'dpc',
    'config.context.genotype': 'dpc_top1',
    'scales': [0.75, 1.0, 1.25, 1.5, 1.75, 2.0],
    'flip': True,
}
PUBLISHED = (
    Published('PSPNet', 81.2),
    Published('Mapillary Research', 82.0),
    Published('DeepLabv3+', 82.1),
    Published('DPC', 82.7, wanted=WANTED, command=COMMAND),
)
NOTES = (
    'The training behind it: configs/cityscapes.py, then on trainval_coarse; steps and learning rate of the latter are'
    ' published nowhere. Submit the exported labels to https://www.cityscapes-dataset.com/submit/.',
)

flags.adopt_module_key_flags(rows)


def main(argv: Sequence[str]) -> None:
    """Prints the table."""
    del argv
    found, faults = rows.find(rows.ROWS.value)
    rows.show(rows.table('Table 2: Cityscapes test', PUBLISHED, found, NOTES), faults)


if __name__ == '__main__':
    app.run(common.one_line_errors(main), flags_parser=command_line.parse_flags)
