"""The head of the Dense Prediction Cell: a cell on one map of features, and its logits (paper §3)."""

import dataclasses
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import ml_collections
from jaxtyping import Array, Float

from dpc_jax import cell, checks, fused, initial, ops
from dpc_jax.base import InputError, PyTree
from dpc_jax.cell import CellParams, CellSettings, CellStats, Uses
from dpc_jax.decoder import LOGITS_STDDEV
from dpc_jax.heads import Derived, Features, HeadOutputs
from dpc_jax.spaces.dpc import Genotype

BIAS_GRADIENT_FACTOR = 2.0  # official train_utils.get_model_gradient_multipliers: biases learn twice as fast


class HeadParams(NamedTuple):
    """Trained parameters of one candidate."""

    cell: CellParams
    logits_kernel: Float[Array, 'D L']
    logits_bias: Float[Array, ' L']


@dataclasses.dataclass(frozen=True)
class Head(Derived):
    """See `heads.Head`; `cell.output_stride` is the one stride that it reads."""

    num_classes: int
    cell: CellSettings

    def __post_init__(self) -> None:
        checks.below_one('proxy.bn_decay', self.cell.decay)

    @property
    def strides(self) -> tuple[int, ...]:
        """The output stride of the backbone's features."""
        return (self.cell.output_stride,)

    @property
    def auxiliary_weights(self) -> Mapping[str, float]:
        """There are no auxiliary outputs."""
        return {}

    def init(self, key: jax.Array, genotype: Genotype, channels: Mapping[int, int]) -> tuple[HeadParams, CellStats]:
        """Fresh parameters and moving averages of an unbatched genotype `[K]`."""
        key_cell, key_logits = jax.random.split(key)
        params, stats = cell.init(key_cell, genotype, channels[self.cell.output_stride], self.cell.filters)
        shape = (self.cell.filters, self.num_classes)
        kernel = initial.truncated_normal(LOGITS_STDDEV)(key_logits, shape)
        return HeadParams(params, kernel, jnp.zeros(self.num_classes)), stats

    def apply(
        self,
        params: HeadParams,
        stats: CellStats,
        genotype: Genotype,
        features: Features,
        *,
        train: bool,
        dropout_key: jax.Array | None = None,
        used: Uses | None = None,
        kernels: fused.Kernels = 'auto',
    ) -> tuple[HeadOutputs, CellStats]:
        """Class scores at the features' stride, and the new moving averages (unbatched)."""
        x, kernel = features[self.cell.output_stride], params.logits_kernel
        y, moved = cell.apply(
            params.cell,
            stats,
            genotype,
            x,
            settings=self.cell,
            train=train,
            dropout_key=dropout_key,
            used=used,
            logits=kernel,
            kernels=kernels,
            features_fixed=True,  # they come from a cache
        )
        return HeadOutputs((y + params.logits_bias[None, None, None, :]).transpose(0, 3, 1, 2), {}), moved

    def uses(self, genotypes: Genotype) -> Uses:
        """Which branches read all channels of the features, which convolve, and which pool."""
        return cell.uses(genotypes)

    def decayed(self, params: PyTree) -> PyTree:
        """True for the 1x1 kernels and the logits only (official train_utils)."""
        flags: Any = jax.tree.map(lambda _: False, params)
        kept = flags.cell._replace(
            pointwise=flags.cell.pointwise._replace(kernel=True),
            projection=flags.cell.projection._replace(kernel=True),
        )
        return flags._replace(cell=kept, logits_kernel=True)

    def multipliers(self, params: PyTree) -> PyTree:
        """2 for the bias of the logits, 1 for the rest."""
        ones: Any = jax.tree.map(lambda _: 1.0, params)
        return ones._replace(logits_bias=BIAS_GRADIENT_FACTOR)


FIELDS = ('pooling', 'dropout_rate', 'filters')  # of `config.cell`


def make(config: ml_collections.ConfigDict, num_classes: int) -> Head:
    """The head that `config.cell` describes, for the backbone's output stride."""
    settings, stride = config.cell, config.backbone.output_stride
    if missing := [name for name in FIELDS if name not in settings]:
        raise InputError(f'the config has no cell.{missing[0]}, which the space dpc needs: it is one for another space')
    checks.one_of('cell.pooling', settings.pooling, ops.POOLINGS)
    checks.below_one('cell.dropout_rate', settings.dropout_rate)
    checks.at_least(1, cell__filters=settings.filters)
    cell.rate_multiplier(stride)
    return Head(
        num_classes,
        CellSettings(settings.filters, stride, settings.pooling, settings.dropout_rate, config.proxy.bn_decay),
    )
