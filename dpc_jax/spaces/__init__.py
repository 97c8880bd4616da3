"""The menu of search spaces: `make({'name': 'dpc', 'num_branches': 5})`; and what the project asks of each.

Each file or folder here exposes `Genotype` and `Space`, whose fields are those of `config.space` and which has a class
method `of(genotype)`. A space is integers, words and the text of files: it builds no layer and draws no line. Whoever
needs something of a space (study, samplers, report, scripts) uses the methods below, and never its name.
"""

import importlib
import inspect
import pkgutil
from collections.abc import Mapping
from typing import Any, NamedTuple, Protocol, runtime_checkable

import jax

from dpc_jax.base import Genotype, InputError, Size, as_int32


class Node(NamedTuple):
    """One operator of a genotype, as it is drawn."""

    lines: tuple[str, ...]  # what stands in its box
    colour: str  # a key of `palette.PAIRS`
    reads: tuple[int, ...]  # index of each earlier node that it reads, or FEATURES


class Graph(NamedTuple):
    """A genotype as it is drawn: nodes in order, each after those that it reads."""

    nodes: tuple[Node, ...]
    outputs: tuple[int, ...]  # the nodes that the output is made of
    source: str = 'features'  # what stands at the bottom
    sink: str = 'concat'  # what stands at the top


class OperatorGroup(NamedTuple):
    """Operators of one kind, for the picture of scores by operator."""

    name: str
    colour: str  # a key of `palette.PAIRS`
    operators: tuple[int, ...]  # row by row of `values` over height and width, where there are any
    values: tuple[int, ...] = ()  # of an argument that height and width have, e.g. the rates
    argument: str = ''  # what they are called
    title: str = ''  # of the map over height and width


@runtime_checkable
class SearchSpace(Protocol):
    """What study and samplers ask of a space."""

    @property
    def size(self) -> int:
        """Number of genotypes, exact."""

    def choices(self) -> Mapping[str, tuple[Any, ...]]:
        """Parameter name -> allowed values, in order: the space as Optuna and its dashboard know it."""

    def to_params(self, genotype: Genotype) -> Mapping[str, Any]:
        """The genotype (unbatched) as one of the `choices`."""

    def from_params(self, params: dict[str, Any]) -> Genotype:
        """Inverse of `to_params`; parameters with other names are ignored."""

    def canonical_key(self, genotype: Genotype) -> str:
        """A text that is equal for genotypes that are the same function, and different for all others."""

    def sample(self, key: jax.Array, count: int | None = None) -> Genotype:
        """Draws uniformly: one genotype, or where a count is given a population with that leading axis."""

    def neighbours_by_gene(self, genotype: Genotype, reach: Any = 'adjacent') -> Mapping[str, list[Genotype]]:
        """Gene -> the genotypes that differ from `genotype` in that gene alone."""


@runtime_checkable
class Space(SearchSpace, Protocol):
    """The whole of what the project asks of a space."""

    @property
    def names(self) -> tuple[str, ...]:
        """What `named` knows."""

    def named(self, name: str) -> Genotype:
        """A genotype known by name; InputError lists the names."""

    def validate(self, genotype: Genotype) -> None:
        """InputError, which names the gene and the allowed values, unless the genotype (unbatched) is of this space."""

    def to_json(self, genotype: Genotype) -> str:
        """The genotype as the text of a file."""

    def from_json(self, text: str, source: str = 'genotype') -> Genotype:
        """Inverse of `to_json`; InputError, prefixed by `source`, for whatever is not a genotype of this space."""

    def graph(self, genotype: Genotype) -> Graph:
        """The genotype (its cell, where it has more) as it is drawn."""

    def further_graphs(self, genotype: Genotype) -> Mapping[str, Graph]:
        """What else there is to draw of it, by name; usually nothing."""

    def operator_groups(self) -> tuple[OperatorGroup, ...]:
        """The operators by kind; together they are numbered from 0 without a gap."""

    def operators_of(self, genotype: Genotype) -> frozenset[int]:
        """Numbers of the operators that the genotype contains."""

    def at_size(self, genotype: Genotype, sizes: Mapping[int, Size]) -> Genotype:
        """A genotype that is the same function on maps of at most these sizes, one for all that are equal there.

        `sizes` are those of the features by output stride. A space that knows of none gives the genotype back.
        """

    def cost(self, genotype: Genotype, settings: Mapping[str, Any]) -> dict[str, int]:
        """What the genotype costs in inference for one image, under a study's settings (nested).

        At least 'params' (weights) and 'macs' (multiply-adds), which are shown in reports; others stand in the CSV.
        Nothing where the settings, of an older study, do not say what the costs depend on.
        """

    def how_to_read(self, costs: Mapping[str, int]) -> str:
        """The words below a ranking: how keys are read, and what `costs` count (those of any genotype, or none)."""


def names() -> tuple[str, ...]:
    """What `make` accepts."""
    return tuple(sorted(module.name for module in pkgutil.iter_modules(__path__) if not module.name.startswith('_')))


def make(settings: Mapping[str, Any]) -> Space:
    """The space that `config.space`, or the same part of a study's settings, names; InputError for bad values.

    Fields that only other spaces have are ignored: a config has those of the space that it was written for.
    """
    fields = dict(settings)
    name = fields.pop('name', '')
    if name not in names():
        raise InputError(f"space.name is '{name}'; allowed: {', '.join(names())}")
    kinds = {other: importlib.import_module(f'{__name__}.{other}').Space for other in names()}
    takes = {other: tuple(inspect.signature(kind).parameters) for other, kind in kinds.items()}
    for field in fields:
        if not any(field in taken for taken in takes.values()):
            raise InputError(f"space {name} has no field '{field}'; allowed: {', '.join(takes[name]) or 'none'}")
    space: Space = kinds[name](**{field: value for field, value in fields.items() if field in takes[name]})
    return space


def find(genotype: Genotype) -> tuple[str, Space]:
    """The space that an unbatched genotype is of, and its name; InputError if it is of no space."""
    for name in names():
        module = importlib.import_module(f'{__name__}.{name}')
        if isinstance(genotype, module.Genotype):
            space: Space = module.Space.of(genotype)
            space.validate(as_int32(genotype))
            return name, space
    raise InputError(f'{str(genotype)[:60]!r} is not a genotype of a known space; there are: {", ".join(names())}')
