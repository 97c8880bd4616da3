"""An official TensorFlow checkpoint as one of ours, which --config.checkpoint can name; TensorFlow is not needed.

python experiments/import_checkpoint.py --config=configs/cityscapes.py --out=runs/imported \\
  --checkpoint=deeplab_cityscapes_xception71_trainfine_2018_09_08.tar.gz

The checkpoint is a tarball of the model zoo, a folder, model.ckpt-90000 or one of its files, or an .npz with official
names. The config says which network it is for. Logits of another number of classes are left out, and the network's
are drawn from config.seed; so is everything else with --backbone_only.
"""

import pathlib
from collections.abc import Sequence

import jax
from absl import app, flags

from dpc_jax import command_line, datasets, described, networks, weights
from dpc_jax.base import InputError, PyTree, key_from_seed
from dpc_jax.segmenter import Segmenter
from experiments import common

CHECKPOINT = flags.DEFINE_string('checkpoint', '', 'What to import.')
OUT = flags.DEFINE_string('out', '', 'Folder for the checkpoint that is written; new or empty.')
BACKBONE_ONLY = flags.DEFINE_bool('backbone_only', False, 'Import the backbone alone, as from an ImageNet checkpoint.')
NPZ = flags.DEFINE_string('npz', '', 'Also write all variables into this file, with official names.')

flags.adopt_module_key_flags(common)  # so that --help lists them


def main(argv: Sequence[str]) -> None:
    """Reads, reports, writes."""
    del argv
    config = common.CONFIG.value
    if config is None or not CHECKPOINT.value or not OUT.value:
        raise InputError('--config, --checkpoint and --out are needed; --help explains them')
    common.check_whole_network(config)
    source, out = (pathlib.Path(flag.value).expanduser() for flag in (CHECKPOINT, OUT))
    weights.check_target(out)
    classes = datasets.classes(config.dataset)
    network = networks.make(config, len(classes))
    stored = weights.read_official(source)
    variables, report = weights.assign_official(
        networks.variable_shapes(network),
        stored,
        network.scopes,
        source=f"checkpoint '{source}'",
        only=('backbone',) if BACKBONE_ONLY.value else None,
        drop_logits=True,
    )
    print(report)
    for word in ('missing', 'unused', 'dropped'):
        for name in getattr(report, word):
            print(f'{word}: {name}')
    for name in report.dropped[:1]:
        held = stored[name].shape[-1]
        print(f'logits left out: the checkpoint has {held} classes, {config.dataset.name} has {len(classes)}')
    variables = filled(variables, network, config.seed)
    weights.save(out, variables, beside=described.files(described.of(config)))
    print(out)
    if NPZ.value:
        weights.save_npz(pathlib.Path(NPZ.value).expanduser(), weights.to_official(variables, network.scopes))
        print(NPZ.value)


def filled(variables: PyTree, network: Segmenter, seed: int) -> PyTree:
    """Fresh values for leaves that are only shapes; as no others are drawn, compiling is quick."""
    leaves, tree = jax.tree.flatten(variables)
    absent = [index for index, leaf in enumerate(leaves) if not isinstance(leaf, jax.Array)]

    def draw(key: jax.Array) -> dict[int, jax.Array]:
        fresh = jax.tree.leaves(networks.init_variables(key, network))
        return {index: fresh[index] for index in absent}

    drawn = jax.jit(draw)(key_from_seed(seed)) if absent else {}
    return jax.tree.unflatten(tree, [drawn.get(index, leaf) for index, leaf in enumerate(leaves)])


if __name__ == '__main__':
    app.run(common.one_line_errors(main), flags_parser=command_line.parse_flags)
