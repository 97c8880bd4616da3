"""What the scripts that export networks share: flags, the folder they write into, where weights come from."""

import pathlib
from collections.abc import Sequence

import ml_collections
from absl import flags

from dpc_jax import described, export, networks, weights
from dpc_jax.base import InputError, PyTree, Size, key_from_seed
from dpc_jax.segmenter import Segmenter
from experiments import image_size

CHECKPOINT = flags.DEFINE_string('checkpoint', '', 'Weights of the whole network; by default config.checkpoint.')
IMAGE_SIZE = flags.DEFINE_string('image_size', '', 'Height x width; by default config.evaluate.crop_size.')
IMAGE_DTYPE = flags.DEFINE_enum('image_dtype', 'uint8', export.IMAGE_DTYPES, 'What the program takes.')

LOADER, PROGRAM = 'run_network.py', 'network.jaxexport'


def size_of_images(by_default: Sequence[int]) -> Size:
    """(height, width) by the flag, or by default; InputError where neither says it."""
    if IMAGE_SIZE.value:
        return image_size.parse(IMAGE_SIZE.value, 'image_size')
    height, width = by_default
    if not (height and width):
        raise InputError('--image_size is needed: config.evaluate.crop_size gives none')
    return height, width


def check(out: pathlib.Path, names: Sequence[str]) -> None:
    """InputError if the folder holds other files than those that a script writes."""
    if out.exists() and not out.is_dir():
        raise InputError(f"--out: '{out}' is a file")
    others = sorted(path.name for path in out.iterdir() if path.name not in names) if out.exists() else []
    if others:
        raise InputError(f"--out: '{out}' holds {others[0]}, which this script did not write; give a folder of its own")


def of_checkpoint(
    config: ml_collections.ConfigDict, network: Segmenter, path: str, *, with_data: bool = True
) -> tuple[PyTree, str]:
    """The variables of a checkpoint, and words for where they come from; drawn from the seed where none is given."""
    if not path:
        drawn = f'drawn from seed {config.seed}, not trained'
        return networks.init_variables(key_from_seed(config.seed), network), drawn
    described.settled(config, pathlib.Path(path), with_data=with_data)
    variables = weights.restore(pathlib.Path(path).expanduser(), networks.variable_shapes(network))
    return variables, f'checkpoint {path}'


def write_loader(out: pathlib.Path) -> None:
    """The script that runs the program, as it is."""
    (out / LOADER).write_text(pathlib.Path(__file__).with_name(LOADER).read_text())
