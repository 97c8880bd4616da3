"""The menu of heads, what a search trains on cached features: `make(config, num_classes)`; and what is asked of each.

A head belongs to a space and has its name: it turns every genotype of the space into class scores, with the genotype as
data, so that one compiled program serves all. Each file exposes `make(config, num_classes) -> Head`. Beside this
*dynamic* view there is a *static* one, the Flax module that a context is made of; a test proves that they are the same
function.

All methods work on one candidate, unbatched; `population` batches them.
"""

import importlib
import pkgutil
from collections.abc import Mapping
from typing import NamedTuple, Protocol, runtime_checkable

import jax
import ml_collections
from jaxtyping import Array, Float

from dpc_jax import checks, fused
from dpc_jax.base import Genotype, PyTree

Features = Mapping[int, Float[Array, 'B _ _ _']]
"""Output stride -> the backbone's features there; h, w and C are of each stride."""


class HeadOutputs(NamedTuple):
    """Class scores, classes second, at any stride: who reads them resizes them to the labels."""

    logits: Float[Array, 'B L _ _']
    auxiliary: Mapping[str, Float[Array, 'B L _ _']]  # take part in the loss alone, by `Head.auxiliary_weights`


@runtime_checkable
class Head(Protocol):
    """What the proxy asks of a head. It is hashable and compared by value: a program is compiled once for each."""

    @property
    def num_classes(self) -> int:
        """L."""

    @property
    def strides(self) -> tuple[int, ...]:
        """Output strides of the features that it reads."""

    @property
    def auxiliary_weights(self) -> Mapping[str, float]:
        """Weight in the loss of each auxiliary output; empty where there is none."""

    def init(self, key: jax.Array, genotype: Genotype, channels: Mapping[int, int]) -> tuple[PyTree, PyTree]:
        """Fresh parameters and moving averages, of one shape for every genotype; `channels` are C by stride."""

    def apply(
        self,
        params: PyTree,
        stats: PyTree,
        genotype: Genotype,
        features: Features,
        *,
        train: bool,
        dropout_key: jax.Array | None = None,
        used: PyTree = None,
        kernels: fused.Kernels = 'auto',
    ) -> tuple[HeadOutputs, PyTree]:
        """Class scores, and the new moving averages. `used` is what `uses` says of a population.

        A head that has kernels for a GPU obeys `kernels`; others have no choice.
        """

    def uses(self, genotypes: Genotype) -> PyTree:
        """The parts of the head that any of these (a population or one) needs; changes the time and nothing else."""

    def decayed(self, params: PyTree) -> PyTree:
        """True for each tensor that weight decay applies to."""

    def multipliers(self, params: PyTree) -> PyTree:
        """Factor on the gradient of each tensor."""


def names() -> tuple[str, ...]:
    """The spaces that have a head."""
    return tuple(sorted(module.name for module in pkgutil.iter_modules(__path__)))


def make(config: ml_collections.ConfigDict, num_classes: int) -> Head:
    """The head of the config's space; InputError for a bad value of what it reads."""
    checks.one_of('space.name', config.space.name, names())
    head: Head = importlib.import_module(f'{__name__}.{config.space.name}').make(config, num_classes)
    return head
