"""The menu of heads, what a search trains on cached features: `make(config, num_classes)`; and what is asked of each.

A head belongs to a space and has its name: it turns every genotype of the space into class scores, with the genotype as
data, so that one compiled program serves all. Each file exposes `make(config, num_classes) -> Head`. Beside this
*dynamic* view there is a *static* one, the Flax module that a context is made of; a test proves that they are the same
function.

All methods work on one candidate, unbatched; `population` batches them.
"""

import importlib
import pkgutil
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, Protocol, TypedDict, Unpack, runtime_checkable

import jax
import ml_collections
from jaxtyping import Array, Float

from dpc_jax import checks, fused
from dpc_jax.base import Genotype, PyTree

Features = Mapping[int, Float[Array, 'B _ _ _']]
"""Output stride -> the backbone's features there; h, w and C are of each stride. `TEACHER` may be among them."""

TEACHER, TEACHER_STRIDE = 0, 4
"""The key of a teacher's logits among features, which is no stride, and the stride at which they are kept."""


Shapes = Mapping[int, tuple[int, ...]]
"""Output stride -> (B, h, w, C) of the features there."""


class HeadOutputs(NamedTuple):
    """Class scores, classes second, at any stride: who reads them resizes them to the labels."""

    logits: Float[Array, 'B L _ _']
    auxiliary: Mapping[str, Float[Array, 'B L _ _']]  # take part in the loss alone, by `Head.auxiliary_weights`


class More(TypedDict, total=False):
    """What a head may be told besides; one that has no dropout, or no kernels, passes over it."""

    dropout_key: jax.Array | None
    used: PyTree  # what `uses` says of a population of codes
    kernels: fused.Kernels  # who does the work on a GPU; 'auto' unless given


Loss = Callable[[HeadOutputs], Float[Array, '']]
"""The loss of one minibatch."""


class Learned(NamedTuple):
    """What a training step learns from a minibatch."""

    loss: Float[Array, '']
    stats: PyTree  # new moving averages
    grads: PyTree  # of the parameters
    scratch: PyTree  # for the next step
    features: Mapping[int, Array] | None  # their gradients, of heads that can be trained end to end


@runtime_checkable
class Head(Protocol):
    """What the proxy asks of a head. It is hashable and compared by value: a program is compiled once for each.

    Programs get what `encode` makes of a genotype. A head whose gradients JAX derives says nothing of `encode`,
    `scratch` and `learn`: `Derived` does.
    """

    @property
    def num_classes(self) -> int:
        """L."""

    @property
    def strides(self) -> tuple[int, ...]:
        """Output strides of the features that it reads."""

    @property
    def auxiliary_weights(self) -> Mapping[str, float]:
        """Weight in the loss of each auxiliary output; empty where there is none."""

    @property
    def end_to_end(self) -> bool:
        """Whether `learn` gives gradients of the features, so that the encoder can be trained, too."""

    @property
    def largest_chunk(self) -> int | None:
        """Candidates within one vmap, at most; None where any number makes sense."""

    def init(self, key: jax.Array, genotype: Genotype, channels: Mapping[int, int]) -> tuple[PyTree, PyTree]:
        """Fresh parameters and moving averages, of one shape for every genotype; `channels` are C by stride."""

    def apply(
        self,
        params: PyTree,
        stats: PyTree,
        code: PyTree,
        features: Features,
        *,
        train: bool,
        **more: Unpack[More],
    ) -> tuple[HeadOutputs, PyTree]:
        """Class scores, and the new moving averages."""

    def encode(self, genotypes: Genotype, shapes: Shapes, *, train: bool) -> PyTree:
        """What programs get in place of these genotypes [P, ...]: made on the host, for features of these shapes.

        InputError for a genotype that this head has no room for.
        """

    def scratch(self, shapes: Shapes) -> PyTree:
        """Memory that one training step hands to the next; what lies in it changes no result."""

    def learn(
        self,
        params: PyTree,
        stats: PyTree,
        code: PyTree,
        features: Features,
        loss_of: Loss,
        scratch: PyTree,
        **more: Unpack[More],
    ) -> Learned:
        """The loss of the outputs in training, and its gradients; `code` is what `encode` made of the genotype."""

    def uses(self, codes: PyTree) -> PyTree:
        """The parts of the head that any of these (a population or one) needs; changes the time and nothing else."""

    def decayed(self, params: PyTree) -> PyTree:
        """True for each tensor that weight decay applies to."""

    def multipliers(self, params: PyTree) -> PyTree:
        """Factor on the gradient of each tensor."""


def shapes_of(features: Mapping[int, Any], batch: int) -> Shapes:
    """The shapes of so many images of an array of each stride."""
    return {stride: (batch, *array.shape[1:]) for stride, array in features.items()}


class Derived:
    """A head whose gradients JAX derives from `apply`, with the genotype itself as its code."""

    largest_chunk: int | None = None
    end_to_end = False

    def encode(self, genotypes: Genotype, shapes: Shapes, *, train: bool) -> PyTree:
        """The genotypes."""
        del shapes, train
        return genotypes

    def scratch(self, shapes: Shapes) -> PyTree:
        """None is needed."""
        del shapes
        return ()

    def learn(
        self: Head,
        params: PyTree,
        stats: PyTree,
        code: PyTree,
        features: Features,
        loss_of: Loss,
        scratch: PyTree,
        **more: Unpack[More],
    ) -> Learned:
        """See `Head.learn`."""

        def total(params: PyTree) -> tuple[jax.Array, PyTree]:
            outputs, moved = self.apply(params, stats, code, features, train=True, **more)
            return loss_of(outputs), moved

        (loss, moved), grads = jax.value_and_grad(total, has_aux=True)(params)
        return Learned(loss, moved, grads, scratch, None)


def names() -> tuple[str, ...]:
    """The spaces that have a head."""
    return tuple(sorted(module.name for module in pkgutil.iter_modules(__path__)))


def make(config: ml_collections.ConfigDict, num_classes: int) -> Head:
    """The head of the config's space; InputError for a bad value of what it reads."""
    checks.one_of('space.name', config.space.name, names())
    head: Head = importlib.import_module(f'{__name__}.{config.space.name}').make(config, num_classes)
    return head
