"""What reach is worth in the procedural street scenes: one operator beside four 1x1 convolutions, by how far it reads.

  python experiments/scenes_reach.py --config=configs/scenes_search.py --workdir=runs/scenes

Four pairs of classes in the scenes can be told apart only by a cue far away, sideways, upwards or anywhere
(`dpc_jax/datasets/scenes.py`), so a cell without context must lose to one that reaches the cues. Trains each cell with
`--seeds` seeds by the config's proxy and writes `reach.md`, `reach.csv` and `reach.png` to `workdir/report`.
"""

from collections.abc import Sequence

import numpy as np
from absl import app, flags

from dpc_jax import command_line
from dpc_jax.base import InputError
from dpc_jax.spaces import Space, dpc
from dpc_jax.spaces.dpc import Genotype
from experiments import common

SEEDS = flags.DEFINE_integer('seeds', 2, 'Seeds per cell.')

OPERATORS = ('sep 1x1', 'sep 3x3', 'sep 9x1', 'sep 1x9', 'sep 1x18', 'sep 9x18', 'pool 4x4', 'pool 1x1')
"""From local to global; height first."""

flags.adopt_module_key_flags(common)  # so that --help lists them


def cells(space: Space) -> dict[str, Genotype]:
    """Name -> genotype: no context, one operator of growing reach, all at once (ASPP, the released cell)."""
    plain = space.named('conv1x1')
    found = {'no context': plain}
    for name in OPERATORS:
        operators = plain.ops.copy()
        operators[-1] = dpc.OP_NAMES.index(name)
        found[name] = Genotype(plain.inputs, operators)
    return found | {name: space.named(name) for name in ('aspp', 'dpc_top1')}


def main(argv: Sequence[str]) -> None:
    """Trains the cells and writes what came out."""
    del argv
    if SEEDS.value < 2:
        raise InputError(f'--seeds is {SEEDS.value}; it must be at least 2')
    config, workdir = common.config_and_workdir()
    scores = common.scores_under_seeds(config, workdir, cells(dpc.Space(config.space.num_branches)), range(SEEDS.value))
    means = {name: 100 * float(np.mean(values)) for name, values in scores.items()}
    best = max(means, key=lambda name: means[name])
    gap = means[best] - means['no context']
    common.write_scores(scores, workdir / 'report', 'reach', f'No context to {best}: {gap:.1f} points of mIoU.')


if __name__ == '__main__':
    app.run(common.one_line_errors(main), flags_parser=command_line.parse_flags)
