"""How the scripts about data read the folder of a data set from the command line."""

from collections.abc import Sequence

import ml_collections
from absl import flags

from dpc_jax import datasets
from dpc_jax.base import InputError
from dpc_jax.datasets import Dataset
from experiments import common

DATASET = flags.DEFINE_string('dataset', '', 'Which data set it is; or --config, whose dataset is taken.')
ROOT = flags.DEFINE_string('root', '', 'The folder of the data set.')
SPLITS = flags.DEFINE_list('splits', [], 'The splits that are wanted; by default all that are there.')


def chosen(needed: str = '') -> ml_collections.ConfigDict:
    """The data set that the flags name: `--config` and its fields, or `--dataset`; both with `--root`.

    InputError, which says what else is `needed`, where neither is given, or both.
    """
    if bool(DATASET.value) == (common.CONFIG.value is not None):
        raise InputError(
            f"--dataset is '{DATASET.value}'; needed are a data set ({', '.join(datasets.names())}) or a --config"
            f' that has one, and {needed or "--root"}'
        )
    if common.CONFIG.value is None:
        return ml_collections.ConfigDict({'name': DATASET.value, 'root': ROOT.value})
    config = common.CONFIG.value.dataset.copy_and_resolve_references()
    with config.unlocked():
        config.root = ROOT.value or config.get('root', '')
    return config


def opened(
    config: ml_collections.ConfigDict, wanted: Sequence[str]
) -> tuple[list[Dataset], dict[str, str], type[Dataset]]:
    """The splits that are there, why the others are not, and what is known of all; InputError if none is there."""
    if config.name in datasets.names():
        datasets.open_root(config.root, config.name)
    kind = datasets.kind(config)
    for split in wanted:
        datasets.check_split(config, split)
    there: list[Dataset] = []
    absent: dict[str, str] = {}
    for split in wanted or kind.splits:
        try:
            there.append(datasets.load(config.name, config, split))
        except InputError as error:
            absent[split] = str(error)
    if not there:
        raise InputError(next(iter(absent.values())))
    return there, absent, kind
