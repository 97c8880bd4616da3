"""A head together with its encoder: what the second stage of a search trains, on images instead of features.

It is a head of stride 1, whose features are images, so the programs of the proxy train and score it as any other.
"""

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any, NamedTuple, Unpack

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float

from dpc_jax import checks
from dpc_jax.base import Genotype, InputError, PyTree
from dpc_jax.heads import Features, Head, HeadOutputs, Learned, Loss, More, Shapes
from dpc_jax.proxy_settings import ProxySettings

IMAGES = 1
"""The stride of images."""


class Both(NamedTuple):
    """What the encoder has, and what the head has: parameters, moving averages, gradients."""

    encoder: PyTree
    head: PyTree


@dataclasses.dataclass(frozen=True)
class EndToEnd:
    """See `heads.Head`. The head must give gradients of its features (`Learned.features`)."""

    head: Head
    encoder: nn.Module

    strides = (IMAGES,)
    end_to_end = False

    @property
    def num_classes(self) -> int:
        """L."""
        return self.head.num_classes

    @property
    def auxiliary_weights(self) -> Mapping[str, float]:
        """The head's."""
        return self.head.auxiliary_weights

    @property
    def largest_chunk(self) -> int | None:
        """The head's."""
        return self.head.largest_chunk

    def init(self, key: jax.Array, genotype: Genotype, channels: Mapping[int, int]) -> tuple[Both, Both]:
        """Both drawn; a search begins with the weights that it has instead (`two_stages`)."""
        key_encoder, key_head = jax.random.split(key)
        images = jnp.zeros((1, 65, 65, channels[IMAGES]))
        variables = self.encoder.init(key_encoder, images)
        maps = jax.eval_shape(lambda: self._maps(variables['params'], variables['batch_stats'], images, train=False)[0])
        params, stats = self.head.init(key_head, genotype, {stride: x.shape[-1] for stride, x in maps.items()})
        return Both(variables['params'], params), Both(variables['batch_stats'], stats)

    def encode(self, genotypes: Genotype, shapes: Shapes, *, train: bool) -> PyTree:
        """The head's code, for maps of images of this shape."""
        return self.head.encode(genotypes, self._shapes(tuple(shapes[IMAGES])), train=train)

    def scratch(self, shapes: Shapes) -> PyTree:
        """The head's."""
        return self.head.scratch(self._shapes(tuple(shapes[IMAGES])))

    def uses(self, codes: PyTree) -> PyTree:
        """The head's."""
        return self.head.uses(codes)

    def decayed(self, params: Both) -> Both:
        """The whole encoder (release), and what the head names."""
        return Both(jax.tree.map(lambda _: True, params.encoder), self.head.decayed(params.head))

    def multipliers(self, params: Both) -> Both:
        """1 for the encoder."""
        return Both(jax.tree.map(lambda _: 1.0, params.encoder), self.head.multipliers(params.head))

    def apply(
        self, params: Both, stats: Both, code: PyTree, features: Features, *, train: bool, **more: Unpack[More]
    ) -> tuple[HeadOutputs, Both]:
        """Class scores of images, and the new moving averages (unbatched)."""
        maps, moved = self._maps(params.encoder, stats.encoder, features[IMAGES], train=train)
        outputs, averages = self.head.apply(params.head, stats.head, code, maps, train=train, **more)
        return outputs, Both(moved, averages)

    def learn(
        self,
        params: Both,
        stats: Both,
        code: PyTree,
        features: Features,
        loss_of: Loss,
        scratch: PyTree,
        **more: Unpack[More],
    ) -> Learned:
        """The head's gradients, carried on through the encoder."""
        of_params = functools.partial(self._maps, stats=stats.encoder, images=features[IMAGES], train=True)
        maps, back, moved = jax.vjp(of_params, params.encoder, has_aux=True)
        found = self.head.learn(params.head, stats.head, code, maps, loss_of, scratch, **more)
        (grads,) = back(found.features)
        return found._replace(stats=Both(moved, found.stats), grads=Both(grads, found.grads), features=None)

    def _maps(
        self, params: PyTree, stats: PyTree, images: Float[Array, 'B H W 3'], *, train: bool
    ) -> tuple[dict[int, Float[Array, 'B _ _ _']], PyTree]:
        """The encoder's maps by stride, and its moving averages."""
        held, names = {'params': params, 'batch_stats': stats}, self._names
        endpoints: Any
        if not train:
            endpoints = self.encoder.apply(held, images)
            return {stride: endpoints[names[stride]] for stride in self.head.strides}, stats
        endpoints, mutated = self.encoder.apply(held, images, True, mutable=['batch_stats'])
        return {stride: endpoints[names[stride]] for stride in self.head.strides}, mutated['batch_stats']

    @property
    def _names(self) -> Mapping[int, str]:
        encoder: Any = self.encoder
        names: Mapping[int, str] = encoder.by_stride
        return names

    def _shapes(self, images: tuple[int, ...]) -> Shapes:
        """Of the maps of so many images."""

        def made() -> dict[int, Array]:
            x = jnp.zeros(images)
            variables = self.encoder.init(jax.random.key(0), x)
            return self._maps(variables['params'], variables['batch_stats'], x, train=False)[0]

        return {stride: maps.shape for stride, maps in jax.eval_shape(made).items()}


@dataclasses.dataclass(frozen=True)
class EndToEndSettings(ProxySettings):
    """Those of the head's part as in the proxy; the encoder learns by momentum SGD of its own, at a constant rate."""

    encoder_learning_rate: float = 1e-3
    encoder_momentum: float = 0.9

    def __post_init__(self) -> None:
        super().__post_init__()
        checks.below_one('proxy.encoder_momentum', self.encoder_momentum)
        if not self.encoder_learning_rate > 0:
            raise InputError(f'proxy.encoder_learning_rate is {self.encoder_learning_rate}; it must be greater than 0')

    def rule(self) -> optax.GradientTransformation:
        """One rule for each part, each clipped alone (release)."""
        encoder = optax.sgd(self.encoder_learning_rate, momentum=self.encoder_momentum)
        return optax.partition({'encoder': self.chain(self.head.decayed, encoder), 'head': super().rule()}, _rules)


def _rules(params: Both) -> Both:
    """The name of the rule of each parameter."""
    return Both(*(jax.tree.map(lambda _, part=part: part, getattr(params, part)) for part in Both._fields))
