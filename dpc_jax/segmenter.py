"""A whole network: backbone, context, perhaps a decoder, logits (official model.py)."""

from collections.abc import Mapping
from typing import NamedTuple

import flax.linen as nn
import jax
from jaxtyping import Array, Float

from dpc_jax.base import Size
from dpc_jax.context import Context, ContextOutput
from dpc_jax.decoder import AuxiliaryLogits, Decoder, Logits


class Outputs(NamedTuple):
    """What a network gives in training."""

    logits: Float[Array, 'B h w L']
    auxiliary: Mapping[str, Float[Array, 'B _ _ L']]  # logits of the context's auxiliary maps; for their losses alone


class Segmenter(nn.Module):
    """Images to logits.

    Attributes:
      backbone: one of `dpc_jax.backbones`.
      context: what stands on its maps; None leaves the features as they are.
      num_classes: L.
      decoder: None gives logits at the stride of the context.

    Variables are named `backbone`, `context`, `decoder`, `logits`, `auxiliary`, and below that like the official
    scopes.
    """

    backbone: nn.Module
    context: Context | None
    num_classes: int
    decoder: Decoder | None = None

    @property
    def scopes(self) -> Mapping[str, str]:
        """Official scope of each part of the network; '' where its variables have no prefix."""
        scopes = {'backbone': self.backbone.official_scope}
        if self.context is not None:
            scopes['context'] = self.context.official_scope
        if self.decoder is not None:
            scopes['decoder'] = 'decoder'
        if self.auxiliary_weights:  # the official models have none
            scopes['auxiliary'] = 'auxiliary'
        return {**scopes, 'logits': 'logits/semantic'}

    @property
    def auxiliary_weights(self) -> Mapping[str, float]:
        """Name -> weight of its loss, of each of the auxiliary logits."""
        return {} if self.context is None else self.context.auxiliary_weights

    @property
    def output_stride(self) -> int:
        """Image / features resolution."""
        stride: int = self.backbone.output_stride
        return stride

    @property
    def logits_stride(self) -> int:
        """Image / logits resolution."""
        if self.decoder is not None:
            return self.decoder.output_stride
        return self.output_stride if self.context is None else self.context.stride(self.output_stride)

    def __call__(
        self,
        images: Float[Array, 'B H W 3'],
        train: bool = False,
        dropout_key: jax.Array | None = None,
        pool_crop: Size | None = None,
    ) -> Float[Array, 'B h w L']:
        """Logits at `logits_stride` of images in 0..255.

        `train` normalises by batch statistics and moves the averages. `dropout_key` draws the dropout mask, which
        there is if `train` or a key is given: with a key alone, batch norms are frozen. `pool_crop` (pixels) is the
        size of image that pooling windows are made for (official image_pooling_crop_size), by default that of `images`.
        """
        return self.outputs(images, train, dropout_key, pool_crop).logits

    @nn.compact
    def outputs(
        self,
        images: Float[Array, 'B H W 3'],
        train: bool = False,
        dropout_key: jax.Array | None = None,
        pool_crop: Size | None = None,
    ) -> Outputs:
        """The logits, as `__call__` gives them, and the auxiliary ones; under jit, what nobody reads costs nothing."""
        endpoints = self.backbone(images, train)
        found = ContextOutput(endpoints['features'], {})
        if self.context is not None:
            maps = {stride: endpoints[name] for stride, name in self.backbone.by_stride.items()}
            pooled_size = None if pool_crop is None else scale_size(pool_crop, 1 / self.output_stride)
            found = self.context.of_maps(maps, train, dropout_key, pooled_size)
        x = found.features
        if self.decoder is not None:
            size = scale_size((images.shape[1], images.shape[2]), 1 / self.decoder.output_stride)
            x = self.decoder(x, endpoints[self.backbone.low_level], size, train)
        settings = {} if self.context is None else self.context.logits_settings
        heads = AuxiliaryLogits(self.num_classes, settings, name='auxiliary')
        auxiliary = heads(found.auxiliary) if found.auxiliary else {}
        return Outputs(Logits(self.num_classes, **settings, name='logits')(x), auxiliary)


def scale_size(size: Size, scale: float) -> Size:
    """int((side - 1) * scale + 1) of both sides: the official scale_dimension, which keeps corners on corners."""
    height, width = (int((side - 1) * scale + 1) for side in size)
    return height, width
