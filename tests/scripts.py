"""Scripts as modules: those of experiments, several in one process though they define the same flags; and any file."""

import importlib
import importlib.util
import pathlib
import types

import grain  # noqa: F401 -- defines flags of its own, which must be known before a script's are forgotten
from absl import flags


def load(name: str) -> types.ModuleType:
    """The module `experiments.<name>`, whose flags are forgotten."""
    known = set(flags.FLAGS)
    module = importlib.import_module(f'experiments.{name}')
    for flag in set(flags.FLAGS) - known:
        delattr(flags.FLAGS, flag)
    return module


def module_at(path: pathlib.Path) -> types.ModuleType:
    """The Python file as a module."""
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
