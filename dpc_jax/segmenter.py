"""A whole network: backbone, context module, perhaps a decoder, logits (official model.py)."""

from collections.abc import Mapping

import flax.linen as nn
import jax
from jaxtyping import Array, Float

from dpc_jax.aspp import ASPP
from dpc_jax.base import Size
from dpc_jax.cell import DensePredictionCell
from dpc_jax.decoder import Decoder, Logits


class Segmenter(nn.Module):
    """Images to logits.

    Attributes:
      backbone: one of `dpc_jax.backbones`.
      context: what stands on its features; None leaves them as they are.
      num_classes: L.
      decoder: None gives logits at the backbone's output stride.

    Variables are named `backbone`, `context`, `decoder`, `logits`, and below that like the official scopes.
    """

    backbone: nn.Module
    context: ASPP | DensePredictionCell | None
    num_classes: int
    decoder: Decoder | None = None

    @property
    def scopes(self) -> Mapping[str, str]:
        """Official scope of each part that there is; '' where its variables have no prefix."""
        scopes = {'backbone': self.backbone.official_scope}
        if self.context is not None:
            scopes['context'] = 'meta_architecture' if isinstance(self.context, DensePredictionCell) else ''
        if self.decoder is not None:
            scopes['decoder'] = 'decoder'
        return {**scopes, 'logits': 'logits/semantic'}

    @property
    def output_stride(self) -> int:
        """Of the features."""
        stride: int = self.backbone.output_stride
        return stride

    @property
    def logits_stride(self) -> int:
        """Image / logits resolution."""
        return self.output_stride if self.decoder is None else self.decoder.output_stride

    @nn.compact
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
        endpoints = self.backbone(images, train)
        x = endpoints['features']
        if self.context is not None:
            pooled_size = None if pool_crop is None else scale_size(pool_crop, 1 / self.output_stride)
            x = self.context(x, train, dropout_key, pooled_size)
        if self.decoder is not None:
            size = scale_size((images.shape[1], images.shape[2]), 1 / self.decoder.output_stride)
            x = self.decoder(x, endpoints[self.backbone.low_level], size, train)
        return Logits(self.num_classes, name='logits')(x)


def scale_size(size: Size, scale: float) -> Size:
    """int((side - 1) * scale + 1) of both sides: the official scale_dimension, which keeps corners on corners."""
    height, width = (int((side - 1) * scale + 1) for side in size)
    return height, width
