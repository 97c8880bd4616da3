"""The parts of a cell in kernels that read and write each map once (`fused`), for NVIDIA GPUs.

Maps are [B, n, C] inside, with n = h w, and a branch that reads an output has zeros in the channels beyond D.
"""

import dataclasses
import functools

import jax.numpy as jnp
from jaxtyping import Array, Float

from dpc_jax import fused
from dpc_jax.base import FEATURES
from dpc_jax.dynamic_cell.facts import Branch, Facts, table_of, with_sums
from dpc_jax.dynamic_cell.params import Unit
from dpc_jax.dynamic_cell.passes import Frame, Kept, Mixed, Rows, Sources
from dpc_jax.fused import Launch
from dpc_jax.ops import Moments

Map = Float[Array, 'B n M']


@dataclasses.dataclass(frozen=True)
class Fast:
    """See `passes.Parts`."""

    frame: Frame
    launch: Launch

    def prepare(self, features: Float[Array, 'B h w C']) -> Map:
        """Channels that are missing to D are 0."""
        missing = max(0, self.frame.filters - features.shape[-1])
        return _cells(jnp.pad(features, ((0, 0), (0, 0), (0, 0), (0, missing))))

    # ---- forward ----

    def spread(self, branch: Branch, sources: Sources) -> tuple[Map, Moments]:
        """The depthwise convolution or pooling."""
        read = [_cells(output) for output in sources.outputs]
        x, parts = fused.spread(
            self.launch, branch.ints, branch.kernel, branch.down, sources.features, read, size=self.frame.size
        )
        return x, Moments(*fused.total_moments(parts))

    def product(self, branch: Branch, x: Map, table: Array) -> tuple[Rows, Moments, None]:
        """Keeps nothing: the activation is done again."""
        kernel = branch.pointwise.kernel.astype(x.dtype)
        y, parts = fused.product(self.launch, branch.ints, [_rows(x)], kernel, size=self.frame.size, table=table)
        return self._map(y), Moments(*fused.total_moments(parts)), None

    def settle(self, branch: Branch, y: Rows, table: Array) -> Rows:
        """See `passes.Parts`."""
        return self._map(fused.settle(self.launch, branch.ints, table, branch.up, _cells(y), size=self.frame.size))

    def project(self, facts: Facts, mixed: Mixed) -> tuple[Rows, Moments, None]:
        """See `passes.Parts`."""
        rows, scale, size = [_rows(output) for output in mixed.outputs], self.frame.scale, self.frame.size
        kernel, keep = mixed.kernel.astype(rows[0].dtype), _mask(mixed.keep)
        y, parts = fused.product(self.launch, facts.whole, rows, kernel, size=size, keep=keep, scale=scale)
        return self._map(y), Moments(*fused.total_moments(parts)), None

    def finish(self, facts: Facts, y: Rows, table: Array, logits: Array | None) -> Float[Array, 'B h w _']:
        """Factors of the logits have the type of the maps, sums and result are float32."""
        size = self.frame.size
        if logits is None:
            return self._map(fused.settle(self.launch, facts.whole, table, _first(facts.up), _cells(y), size=size))
        kernel = logits.astype(y.dtype)
        found, _ = fused.product(self.launch, facts.whole, [_rows(y)], kernel, size=size, table=table, wide_result=True)
        return self._map(found)

    # ---- backward ----

    def finish_backward(
        self, facts: Facts, grad: Array, y: Rows, table: Array, logits: Array | None
    ) -> tuple[Rows, Array, Array | None]:
        """See `passes.Parts`."""
        size, nobody = self.frame.size, jnp.full(1, FEATURES - 1, jnp.int32)
        if logits is None:
            up = _first(facts.up)
            cells, x = _cells(grad), _cells(y)
            found, parts = fused.collect(
                self.launch, facts.whole, table, up, x, grad=cells, readers=nobody, others=[], size=size
            )
            return self._map(found), parts.sum(0), None
        x, grad = _rows(y), _rows(grad).astype(y.dtype)
        weights_grad: Array = fused.weight_gradient(self.launch, [x], grad, table=table)
        nothing = jnp.zeros(grad.shape[-1], table.dtype)
        no_norm = table_of(Moments(nothing, nothing), Unit(nothing, nothing, nothing), active=False)
        _, (entering,), parts = fused.product_backward(
            self.launch,
            facts.whole,
            logits.astype(x.dtype),
            no_norm,
            grad,
            grad,
            size=size,
            widths=[x.shape[-1]],
            before=(x, table),
        )
        return self._map(entering), parts.sum(0), weights_grad

    def project_backward(
        self, facts: Facts, after: Kept, grad: Rows, mixed: Mixed, kept: None
    ) -> tuple[list[Rows], Array]:
        """See `passes.Parts`."""
        rows, keep = [_rows(output) for output in mixed.outputs], _mask(mixed.keep)
        found, entering, _ = fused.product_backward(
            self.launch,
            facts.whole,
            mixed.kernel.astype(grad.dtype),
            after.table,
            _rows(grad),
            _rows(after.x),
            size=self.frame.size,
            widths=[self.frame.filters] * len(rows),
            keep=keep,
            scale=self.frame.scale,
        )
        gradient = fused.weight_gradient(self.launch, rows, found, keep=keep)
        return [self._map(one) for one in entering], gradient

    def collect(
        self, branch: Branch, y: Rows, table: Array, grad: Rows, read: list[tuple[Array, Map]]
    ) -> tuple[Rows, Array]:
        """See `passes.Parts`."""
        sources = jnp.stack([source for source, _ in read]) if read else jnp.full(1, FEATURES - 1, jnp.int32)
        found, parts = fused.collect(
            self.launch,
            branch.ints,
            table,
            branch.up,
            _cells(y),
            grad=_cells(grad),
            readers=sources,
            others=[other for _, other in read],
            size=self.frame.size,
        )
        return self._map(found), parts.sum(0)

    def enter_backward(
        self, branch: Branch, after: Kept, grad: Rows, before: Kept, sources: Sources, kept: None
    ) -> tuple[Map | None, Array, Unit]:
        """See `passes.Parts`."""
        x, size, (features, outputs) = before.x, self.frame.size, sources
        found, (entering,), parts = fused.product_backward(
            self.launch,
            branch.ints,
            branch.pointwise.kernel.astype(grad.dtype),
            after.table,
            _rows(grad),
            _rows(after.x),
            size=size,
            widths=[x.shape[-1]],
            before=(_rows(x), before.table),
        )
        gradient = fused.weight_gradient(self.launch, [_rows(x)], found, table=before.table)
        table, norm = with_sums(before.table, before.values, parts.sum(0), branch.separable)
        wanted = features.shape[-1] if not self.frame.features_fixed else self.frame.filters if outputs else 0
        x_grad, parts = fused.spread_backward(
            self.launch,
            branch.ints,
            branch.kernel,
            table,
            branch.down,
            grad=entering.reshape(x.shape),
            x=x,
            features=features,
            outputs=[_cells(output) for output in outputs],
            size=size,
            wanted=wanted,
        )
        kernel = jnp.where(branch.separable, parts.sum(0), 0).reshape(3, 3, -1)
        return x_grad, gradient, Unit(kernel, *norm)

    def features_grad(self, facts: Facts, read: list[Map]) -> Float[Array, 'B h w C']:
        """See `passes.Parts`."""
        sources = facts.branches[:, fused.SOURCE]
        mine = [jnp.where(source == FEATURES, grad, 0) for source, grad in zip(sources, read, strict=True)]
        return self._map(functools.reduce(jnp.add, mine))[..., : self.frame.channels]

    def _map(self, x: Array) -> Float[Array, 'B h w D']:
        return x.reshape(self.frame.batch, *self.frame.size, x.shape[-1])


def _cells(x: Float[Array, 'B h w C']) -> Float[Array, 'B n C']:
    return x.reshape(x.shape[0], -1, x.shape[-1])


def _rows(x: Float[Array, 'B ... C']) -> Float[Array, 'r C']:
    return x.reshape(-1, x.shape[-1])


def _mask(keep: Array | None) -> Array | None:
    return None if keep is None else keep.astype(jnp.uint8).reshape(-1, keep.shape[-1])


def _first(matrices: tuple[Array, Array]) -> tuple[Array, Array]:
    return matrices[0][0], matrices[1][0]
