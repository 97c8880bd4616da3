"""What a context is: a module that stands on the maps of a backbone, and what it gives to the rest of a network."""

from collections.abc import Mapping
from typing import Any, ClassVar, NamedTuple

import flax.linen as nn
import jax
from jaxtyping import Array, Float

from dpc_jax.base import Size


class ContextOutput(NamedTuple):
    """What a network makes its logits from."""

    features: Float[Array, 'B h w D']  # what the decoder reads, or the logits where there is none
    auxiliary: Mapping[str, Float[Array, 'B _ _ _']]  # further maps by name, each with logits and a loss in training


class Context(nn.Module):
    """The base of all contexts; its defaults suit those that read the features and give one map.

    Such a context defines `__call__(features, train, dropout_key, pooled_size)` alone. One that reads maps of several
    strides, or gives auxiliary maps, overrides what follows. Its parameters are named `context/...` in a network.
    """

    official_scope: ClassVar[str] = ''
    """What the names of the official variables start with; '' where they have no prefix."""

    @property
    def auxiliary_weights(self) -> Mapping[str, float]:
        """Name -> weight of its loss, of each auxiliary map; the loss of the network's own logits has weight 1."""
        return {}

    @property
    def logits_settings(self) -> Mapping[str, Any]:
        """Fields of `decoder.Logits` in which the logits of a network with this context differ from those of others."""
        return {}

    def stride(self, output_stride: int) -> int:
        """Image / `ContextOutput.features` resolution on a backbone of that output stride."""
        return output_stride

    def of_maps(
        self,
        maps: Mapping[int, Float[Array, 'B _ _ _']],
        train: bool,
        dropout_key: jax.Array | None,
        pooled_size: Size | None,
    ) -> ContextOutput:
        """`maps` are those of the backbone by stride (`by_stride`); the one of the largest stride is the features.

        `dropout_key` draws the dropout mask when training; `pooled_size` (in cells of the features) is that of
        `ops.pool`.
        """
        return ContextOutput(self(maps[max(maps)], train, dropout_key, pooled_size), {})
