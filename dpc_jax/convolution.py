"""Convolution, batch normalisation, activation: the one unit that every static network here is built of.

Parameters are named and nested like the official variables, so that `tf_import` maps them by rule and `counting` finds
every multiplication by looking for this module.

Convolutions are written in a form that a CPU does fast: 1x1 as a matrix product, depthwise as nine shifted
reads. On 2 cores the shifted reads took 1/10 to 1/50 of the time of XLA's grouped convolution forward and 1/3 to 1/30
with its gradient, measured on maps of MobileNet-v2 (batch 8, 9x9x576 to 65x65x96).
"""

import dataclasses
import functools
import itertools
from collections.abc import Callable
from typing import Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float, Int

from dpc_jax import ops
from dpc_jax.base import Size

Padding = Literal['same', 'symmetric']
"""Where a strided convolution begins: TensorFlow's SAME (slim's MobileNet-v2), or as many cells before as after
(official xception.fixed_padding). They are the same for stride 1 and on maps of odd size."""

Activation = Callable[[Array], Array]

MANY_FILTERS = 32
"""From so many on, products are the faster way to the gradient of a kernel on a CPU (measured with 16 to 256)."""


def margins(size: int, taps: int, *, stride: int = 1, rate: int = 1, padding: Padding = 'same') -> tuple[int, int]:
    """Cells of zeros (before, after) on an axis of `size` cells, for ceil(size / stride) outputs."""
    reach = rate * (taps - 1)
    needed = max((-(-size // stride) - 1) * stride + reach + 1 - size, 0)
    before = needed // 2 if padding == 'same' else reach // 2
    return before, max(needed - before, 0)


def dense(
    x: Float[Array, 'B h w C'],
    kernel: Float[Array, 'i j C D'],
    *,
    stride: int = 1,
    rate: Size = (1, 1),
    padding: Padding = 'same',
) -> Float[Array, 'B _ _ D']:
    """Convolution; a 1x1 kernel is a matrix product."""
    taps = kernel.shape[:2]
    if taps == (1, 1):
        return ops.product(x[:, ::stride, ::stride], kernel[0, 0])
    window = _Window.of((x.shape[1], x.shape[2]), (taps[0], taps[1]), stride=stride, rate=rate, padding=padding)
    wide = stride == 1 and kernel.shape[-1] >= MANY_FILTERS and x.dtype in (jnp.float32, jnp.float64)
    return (_many_filters if wide else _dense)(window, x, kernel)


def depthwise(
    x: Float[Array, 'B h w C'],
    kernel: Float[Array, 'i j 1 C'],
    *,
    stride: int = 1,
    rate: Size = (1, 1),
    padding: Padding = 'same',
) -> Float[Array, 'B _ _ C']:
    """Depthwise convolution as shifted reads of the padded input; adds up in float32 or wider.

    A tap that reads nothing but padding, because its rate exceeds the map, costs nothing.
    """
    taps, size = (kernel.shape[0], kernel.shape[1]), (x.shape[1], x.shape[2])
    return _depthwise(_Window.of(size, taps, stride=stride, rate=rate, padding=padding), x, kernel)


@dataclasses.dataclass(frozen=True)
class _Window:
    """Where the taps of a kernel read a map; pairs are (height, width)."""

    size: Size  # of the map
    taps: Size
    stride: int
    rate: Size
    before: Size  # cells of zeros in front
    after: Size

    @classmethod
    def of(cls, size: Size, taps: Size, *, stride: int, rate: Size, padding: Padding) -> '_Window':
        sides = [
            margins(n, t, stride=stride, rate=r, padding=padding) for n, t, r in zip(size, taps, rate, strict=True)
        ]
        (top, bottom), (left, right) = sides
        return cls(size, taps, stride, rate, (top, left), (bottom, right))

    @property
    def span(self) -> Size:
        """From the first cell that a tap reads to the last."""
        rows, columns = (-(-n // self.stride) * self.stride - self.stride + 1 for n in self.size)
        return rows, columns

    @property
    def padding(self) -> tuple[tuple[int, int], ...]:
        """As `jnp.pad` takes it."""
        return ((0, 0), *zip(self.before, self.after, strict=True), (0, 0))

    def reads(self) -> list[tuple[Size, Size]]:
        """The taps that read the map at all, each with the first cell that it reads of the padded map."""
        found = []
        for i, j in itertools.product(*map(range, self.taps)):
            first = (i * self.rate[0], j * self.rate[1])
            within = zip(first, self.span, self.size, self.before, strict=True)
            if all(start + span > margin and start < margin + size for start, span, size, margin in within):
                found.append(((i, j), first))
        return found

    def read(self, padded: Float[Array, 'B _ _ C'], first: Size) -> Float[Array, 'B _ _ C']:
        """What a tap reads for every output."""
        batch, _, _, channels = padded.shape
        last = (batch, first[0] + self.span[0], first[1] + self.span[1], channels)
        return lax.slice(padded, (0, *first, 0), last, (1, self.stride, self.stride, 1))


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _depthwise(window: _Window, x: Float[Array, 'B h w C'], kernel: Float[Array, 'i j 1 C']) -> Float[Array, 'B _ _ C']:
    """Its gradient is written out: what JAX derives keeps all that the taps have read, nine maps for one."""
    wide = np.promote_types(x.dtype, np.float32)
    padded, weights = jnp.pad(x, window.padding).astype(wide), kernel.astype(wide)
    total = [window.read(padded, first) * weights[i : i + 1, j : j + 1] for (i, j), first in window.reads()]
    return functools.reduce(jnp.add, total).astype(x.dtype)


def _depthwise_forward(window: _Window, x: Array, kernel: Array) -> tuple[Array, tuple[Array, Array]]:
    return _depthwise(window, x, kernel), (x, kernel)


def _depthwise_backward(window: _Window, kept: tuple[Array, Array], grad: Array) -> tuple[Array, Array]:
    """The map's gradient is the same convolution of the spread gradient, its taps turned by half a turn."""
    x, kernel = kept
    wide = np.promote_types(x.dtype, np.float32)
    grad, weights = grad.astype(wide), kernel.astype(wide)
    reach = [rate * (taps - 1) for rate, taps in zip(window.rate, window.taps, strict=True)]
    margin = [
        (far - before, size + before - span)
        for far, before, size, span in zip(reach, window.before, window.size, window.span, strict=True)
    ]
    spread = [(low, high, window.stride - 1) for low, high in margin]
    padded = ops.once(lax.pad(grad, jnp.zeros((), wide), ((0, 0, 0), *spread, (0, 0, 0))))
    parts = []
    for (i, j), first in window.reads():
        start = (reach[0] - first[0], reach[1] - first[1])
        seen = padded[:, start[0] : start[0] + window.size[0], start[1] : start[1] + window.size[1]]
        parts.append(seen * weights[i : i + 1, j : j + 1])
    sums = _kernel_gradient(window, jnp.pad(x, window.padding).astype(wide), grad)
    return functools.reduce(jnp.add, parts).astype(x.dtype), sums.astype(kernel.dtype)


def _kernel_gradient(
    window: _Window, padded: Float[Array, 'B _ _ C'], grad: Float[Array, 'B _ _ C']
) -> Float[Array, 'i j 1 C']:
    """The gradient of the kernel: for each tap, the sum over images and cells of what it reads times the gradient."""
    cpu, default = (functools.partial(sums, window) for sums in (_sums_in_a_loop, _sums_written_out))
    found = lax.platform_dependent(padded, grad, cpu=cpu, default=default)
    taps = [tap for tap, _ in window.reads()]  # a block of the kernel: each axis decides by itself what is read
    rows, columns = (sorted(set(places)) for places in zip(*taps, strict=True))
    margins = [(places[0], n - 1 - places[-1]) for places, n in zip((rows, columns), window.taps, strict=True)]
    return jnp.pad(found.reshape(len(rows), len(columns), 1, -1), (*margins, (0, 0), (0, 0)))


def _sums_written_out(
    window: _Window, padded: Float[Array, 'B _ _ C'], grad: Float[Array, 'B _ _ C']
) -> Float[Array, 'taps C']:
    return jnp.stack([(window.read(padded, first) * grad).sum((0, 1, 2)) for _, first in window.reads()])


def _sums_in_a_loop(
    window: _Window, padded: Float[Array, 'B _ _ C'], grad: Float[Array, 'B _ _ C']
) -> Float[Array, 'taps C']:
    """The same for a CPU: one loop over the taps, because nine times the code takes nine times as long to compile.

    XLA there adds up along the outer axes channel by channel, in steps of C; so images are added first, which is plain
    arithmetic on maps, and the cells by a product with ones.
    """
    padded, grad = lax.optimization_barrier((padded, grad))
    size, zero = (*window.span, padded.shape[-1]), jnp.int32(0)

    def of_tap(first: Int[Array, ' 2']) -> Float[Array, ' C']:
        total = jnp.zeros((), grad.dtype)
        for image in range(len(padded)):
            seen = lax.dynamic_slice(padded, (jnp.int32(image), *first, zero), (1, *size))[0]
            total = total + seen[:: window.stride, :: window.stride] * grad[image]
        cells = lax.optimization_barrier(total.reshape(-1, size[-1]))
        return jnp.ones(len(cells), cells.dtype) @ cells

    return lax.map(of_tap, jnp.array([first for _, first in window.reads()], jnp.int32))


_depthwise.defvjp(_depthwise_forward, _depthwise_backward)


def _dense(window: _Window, x: Float[Array, 'B h w C'], kernel: Float[Array, 'i j C D']) -> Float[Array, 'B _ _ D']:
    sides = tuple(zip(window.before, window.after, strict=True))
    strides, axes = (window.stride, window.stride), ('NHWC', 'HWIO', 'NHWC')
    return lax.conv_general_dilated(x, kernel, strides, sides, rhs_dilation=window.rate, dimension_numbers=axes)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _many_filters(
    window: _Window, x: Float[Array, 'B h w C'], kernel: Float[Array, 'i j C D']
) -> Float[Array, 'B h w D']:
    """The same of stride 1, but for the gradient of its kernel on a CPU: there it is a matrix product for each tap.

    XLA makes a convolution of it whose kernel is a whole map: with 64 filters at 57x73 cells it takes four times as
    long as the products.
    """
    return _dense(window, x, kernel)


def _many_filters_backward(window: _Window, kept: tuple[Array, Array], grad: Array) -> tuple[Array, Array]:
    x, kernel = kept
    (of_x,) = jax.vjp(lambda x: _dense(window, x, kernel), x)[1](grad)

    def default(x: Array, grad: Array) -> Array:
        (found,) = jax.vjp(lambda kernel: _dense(window, x, kernel), kernel)[1](grad)
        return found

    of_kernel = lax.platform_dependent(x, grad, cpu=functools.partial(_products, window), default=default)
    return of_x, of_kernel


def _products(window: _Window, x: Float[Array, 'B h w C'], grad: Float[Array, 'B h w D']) -> Float[Array, 'i j C D']:
    """The gradient of a kernel, tap by tap: what it reads times the gradient of what it gives."""
    padded, zero = lax.optimization_barrier(jnp.pad(x, window.padding)), jnp.int32(0)
    taps = list(itertools.product(*map(range, window.taps)))

    def of_tap(first: Int[Array, ' 2']) -> Float[Array, 'C D']:
        seen = lax.dynamic_slice(padded, (zero, *first, zero), x.shape)
        return seen.reshape(-1, x.shape[-1]).T @ grad.reshape(-1, grad.shape[-1])

    firsts = jnp.array([(i * window.rate[0], j * window.rate[1]) for i, j in taps], jnp.int32)
    return lax.map(of_tap, firsts).reshape(*window.taps, x.shape[-1], grad.shape[-1])


_many_filters.defvjp(lambda window, x, kernel: (_dense(window, x, kernel), (x, kernel)), _many_filters_backward)


class ConvUnit(nn.Module):
    """Convolution without bias, BN, activation. In [B, h, w, C], out [B, h / stride, w / stride, filters or C].

    Attributes:
      filters: output channels; None makes it depthwise.
      kernel_init: of the kernel [kh, kw, C, filters], or [kh, kw, 1, C] of a depthwise one.
      activation: None leaves the output linear.
      decay, epsilon: of the batch norm.
      normalize: False leaves the batch norm out.

    Parameters (`kernel`, `BatchNorm`) are float32; the computation is in the dtype of the input.
    """

    filters: int | None
    kernel_init: ops.Initializer
    kernel_size: Size = (1, 1)
    stride: int = 1
    rate: Size = (1, 1)
    padding: Padding = 'same'
    activation: Activation | None = nn.relu
    decay: float = ops.BN_DECAY
    epsilon: float = ops.BN_EPSILON
    normalize: bool = True

    @nn.compact
    def __call__(self, x: Float[Array, 'B h w C'], train: bool) -> Float[Array, 'B _ _ D']:
        """Batch statistics normalise, and move the averages, if `train`; else the averages normalise."""
        channels = x.shape[-1]
        fans = (1, channels) if self.filters is None else (channels, self.filters)
        x = self.convolve(x, self.param('kernel', self.kernel_init, (*self.kernel_size, *fans)))
        if self.normalize:
            x = ops.BatchNorm(self.decay, self.epsilon, name='BatchNorm')(x, use_running_average=not train)
        return self.activate(x)

    @nn.nowrap
    def convolve(self, x: Float[Array, 'B h w C'], kernel: Float[Array, 'i j _ _']) -> Float[Array, 'B _ _ D']:
        """The convolution alone, with that kernel."""
        convolve = depthwise if self.filters is None else dense
        return convolve(x, kernel.astype(x.dtype), stride=self.stride, rate=self.rate, padding=self.padding)

    @nn.nowrap
    def activate(self, x: Float[Array, 'B h w D']) -> Float[Array, 'B h w D']:
        """The activation alone."""
        return x if self.activation is None else self.activation(x)


def separable(
    x: Float[Array, 'B h w C'],
    train: bool,
    filters: int,
    *,
    name: str,
    rate: Size = (1, 1),
    decay: float = ops.BN_DECAY,
) -> Float[Array, 'B h w D']:
    """Depthwise 3x3, BN, ReLU, pointwise, BN, ReLU, in the compact module that calls it.

    The parts are named `{name}_depthwise` and `{name}_pointwise`, with their initialisers (official model.py,
    split_separable_conv2d; the same in dense_prediction_cell.py).
    """
    unit = functools.partial(ConvUnit, decay=decay)
    x = unit(None, ops.depthwise_init, kernel_size=(3, 3), rate=rate, name=f'{name}_depthwise')(x, train)
    return unit(filters, ops.pointwise_init, name=f'{name}_pointwise')(x, train)
