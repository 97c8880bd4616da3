"""Experiment scripts as modules: several in one process, though they define flags of the same names."""

import importlib
import types

from absl import flags


def load(name: str) -> types.ModuleType:
    """The module `experiments.<name>`, whose flags are forgotten."""
    known = set(flags.FLAGS)
    module = importlib.import_module(f'experiments.{name}')
    for flag in set(flags.FLAGS) - known:
        delattr(flags.FLAGS, flag)
    return module
