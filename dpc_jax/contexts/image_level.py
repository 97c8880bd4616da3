"""The context of the released MobileNet-v2 models: image-level feature and 1x1 convolution (official model.py)."""

import ml_collections

from dpc_jax.aspp import ASPP

FIELDS = ('separable',)


def make(config: ml_collections.ConfigDict, *, decay: float) -> ASPP:
    """ASPP without atrous convolutions; of `config.context` it takes filters and dropout rate."""
    context = config.context
    return ASPP(
        context.filters,
        (),
        config.backbone.output_stride,
        image_pooling=True,
        separable=context.separable,
        dropout_rate=context.dropout_rate,
        decay=decay,
    )
