"""How the scripts about data read the folder of a data set from the command line."""

from collections.abc import Sequence

import ml_collections
from absl import flags

from dpc_jax import datasets
from dpc_jax.base import InputError
from dpc_jax.datasets import Dataset

DATASET = flags.DEFINE_string('dataset', '', 'Which data set it is.')
ROOT = flags.DEFINE_string('root', '', 'The folder of the data set.')
SPLITS = flags.DEFINE_list('splits', [], 'The splits that are wanted; by default all that are there.')


def opened(name: str, root: str, wanted: Sequence[str]) -> tuple[list[Dataset], dict[str, str]]:
    """The splits that are there, and why the others are not; InputError if none is."""
    config = ml_collections.ConfigDict({'name': name, 'root': root})
    if name in datasets.names():
        datasets.open_root(root, name)
    kind = datasets.kind(config)
    for split in wanted:
        datasets.check_split(config, split)
    there: list[Dataset] = []
    absent: dict[str, str] = {}
    for split in wanted or kind.splits:
        try:
            there.append(datasets.load(name, config, split))
        except InputError as error:
            absent[split] = str(error)
    if not there:
        raise InputError(next(iter(absent.values())))
    return there, absent
