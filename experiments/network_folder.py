"""The folder that exported networks are written into: what may lie there, and where weights come from."""

import pathlib
from collections.abc import Sequence

import ml_collections

from dpc_jax import described, networks, weights
from dpc_jax.base import InputError, PyTree, key_from_seed
from dpc_jax.segmenter import Segmenter

LOADER, PROGRAM = 'run_network.py', 'network.jaxexport'


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
