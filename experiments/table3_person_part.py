"""Table 3 of the paper: mIoU on the val set of PASCAL-Person-Part, several scales.

python experiments/table3_person_part.py --rows=experiments/results,runs

Chen et al. 2018, arXiv:1809.04184, Table 3. It does not list its scales; those of DeepLabv3 on PASCAL are taken.
"""

from collections.abc import Sequence

from absl import app, flags

from dpc_jax import command_line
from experiments import common, rows
from experiments.rows import Published

SCALES = [0.5, 0.75, 1.0, 1.25, 1.5, 1.75]  # arXiv:1706.05587 §4
COMMAND = rows.evaluate_command(
    'person_part',
    'person_part',
    'person_part_scales',
    '--config.evaluate.flip=True',
    f'--config.evaluate.scales="{tuple(SCALES)}"',
)
WANTED = {
    'dataset': 'person_part',
    'split': 'val',
    'images': 1817,
    **rows.FULL_SIZE,
    'config.backbone.name': ('xception_71', 'xception_65'),
    'config.context.name': 'dpc',
    'config.context.genotype': 'dpc_top1',
    'scales': SCALES,
    'flip': True,
}
PUBLISHED = (
    Published('Liang et al.', 63.57),
    Published('Xia et al.', 64.39),
    Published('Fang et al.', 67.60),
    Published('DPC', 71.34, wanted=WANTED, command=COMMAND),
)
NOTES = (f'The training before it: `{rows.train_command("person_part", "person_part")}`.',)

flags.adopt_module_key_flags(rows)


def main(argv: Sequence[str]) -> None:
    """Prints the table."""
    del argv
    found, faults = rows.find(rows.ROWS.value)
    rows.show(rows.table('Table 3: PASCAL-Person-Part val', PUBLISHED, found, NOTES), faults)


if __name__ == '__main__':
    app.run(common.one_line_errors(main), flags_parser=command_line.parse_flags)
