"""The menu of tasks: what the output of a network means, by `config.task.name`.

Each file of the folder exposes `make(fields, facts) -> Task`: a frozen task (`dpc_jax.task`) made from the fields of
`config.task` and from what is known of the data set without its images.
"""

import importlib
import pkgutil
from collections.abc import Mapping
from typing import Any

import ml_collections

from dpc_jax import checks, datasets
from dpc_jax.base import InputError
from dpc_jax.datasets import Facts
from dpc_jax.task import Task

DEFAULT: Mapping[str, Any] = {'name': 'segmentation'}
"""The task of configs and checkpoints that are older than the menu, and of every search."""

MEANINGS = ('output', 'stride')
"""Fields of `config.task` that say what a network's outputs mean, so that they belong to its weights."""


def names() -> tuple[str, ...]:
    """What `config.task.name` may be."""
    return tuple(sorted(module.name for module in pkgutil.iter_modules(__path__)))


def make(config: ml_collections.ConfigDict) -> Task:
    """The task of a config, on the data set that it names; InputError where the data set has nothing for it."""
    return of(fields_of(config), datasets.facts(config.dataset))


def fields_of(config: ml_collections.ConfigDict) -> dict[str, Any]:
    """`config.task`, or that of a config that is older than the menu."""
    given = config.get('task', None)
    return dict(DEFAULT) if given is None else {name: value for name, value in given.items() if value is not None}


def of(fields: Mapping[str, Any], facts: Facts) -> Task:
    """The task with these fields of `config.task`; InputError names what is wrong."""
    name = fields.get('name', DEFAULT['name'])
    checks.one_of('task.name', name, names())
    task: Task = importlib.import_module(f'{__name__}.{name}').make(fields, facts)
    missing = [target for target in task.needs if target not in facts.targets]
    if missing:
        raise InputError(
            f"task.name is '{name}', which needs a data set with {' and '.join(task.needs)}; {facts.name} has"
            f' {", ".join(facts.targets)}'
        )
    return task


def field(fields: Mapping[str, Any], task: str, name: str) -> Any:
    """A field of `config.task` that must be there; InputError."""
    if name not in fields:
        raise InputError(f"task.name is '{task}', which needs config.task.{name}, which the config does not have")
    return fields[name]
