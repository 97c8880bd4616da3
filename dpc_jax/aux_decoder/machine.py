"""The one program that runs every tape: a loop over instructions, each of which has static shapes and works in place.

A `while` of no or one round stands for a branch, and its carry is what the instruction writes, nothing else: of a
`lax.switch`, XLA copies the whole memory in every branch (measured on a CPU: 150 ms against 0.3 ms an instruction).
For the same reason every read of the memory must come before the write in the flow of data (`_after`).
"""

import dataclasses
import functools
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Int

from dpc_jax import ops
from dpc_jax.aux_decoder import kernels, tape
from dpc_jax.aux_decoder.kernels import Maps, Norm, Weights
from dpc_jax.aux_decoder.tape import ADAPTERS, FIELDS, KINDS, LEVELS, SLOTS, Tape
from dpc_jax.base import Size

Memory = Float[Array, 'M A']


class Params(NamedTuple):
    """Weights of all units, used or not: one shape for every genotype."""

    adapters: tuple[Float[Array, '_ A'], ...]  # by level, [C, A]
    pointwise: Float[Array, 'U A A']
    dense: Float[Array, 'U 3 3 A A']
    depthwise: Float[Array, 'U 5 5 A']  # a kernel of three is in the middle
    projection: Float[Array, '3 A A']  # by place in the concatenation
    scale: Float[Array, 'V A']  # of batch norms, by slot
    bias: Float[Array, 'V A']
    heads: Float[Array, '4 3 3 A L']  # the last is the main one
    head_bias: Float[Array, '4 L']


class Stats(NamedTuple):
    """Moving averages, by slot."""

    mean: Float[Array, 'V A']
    var: Float[Array, 'V A']


@dataclasses.dataclass(frozen=True)
class Shape:
    """What the program is compiled for."""

    batch: int
    sizes: tuple[Size, ...]  # (h, w) by level
    filters: int
    classes: int

    @property
    def rows(self) -> tuple[int, ...]:
        """Of a map, by level."""
        return tuple(self.batch * height * width for height, width in self.sizes)

    def maps(self, level: int) -> tuple[int, int, int, int]:
        """The shape of maps at a level."""
        return (self.batch, *self.sizes[level], self.filters)


State = dict[str, Array]
"""`memory`; `mean`, `inv`, `var` of the norms by slot; `logits` by head; backward, `grad_...` of each weight."""

Body = Callable[[State, Array], State]


class Operation(NamedTuple):
    """One opcode at one level."""

    opcode: int
    body: Body  # (state, instruction) -> what it writes
    writes: tuple[str, ...]
    reads: tuple[str, ...] = ()  # besides


def run(code: Int[Array, 'T fields'], length: Int[Array, ''], state: State, table: list[list[Operation]]) -> State:
    """Runs the first `length` instructions; `table` has the operations of each level."""

    def field(counter: Array, name: str) -> Array:
        return code[jnp.minimum(counter, code.shape[0] - 1), FIELDS.index(name)]

    def at_level(level: int, counter: Array) -> Array:
        return (counter < length) & (field(counter, 'level') == level)

    def one_level(level: int, state: State) -> State:
        for operation in table[level]:

            def wanted(carry: State, opcode: int = operation.opcode) -> Array:
                return at_level(level, carry['counter']) & (field(carry['counter'], 'opcode') == opcode)

            def step(carry: State, operation: Operation = operation, whole: State = state) -> State:
                seen = {**{name: whole[name] for name in operation.reads}, **carry}
                written = operation.body(seen, code[carry['counter']])
                return {**carry, **written, 'counter': carry['counter'] + 1}

            carry = {name: state[name] for name in (*operation.writes, 'counter')}
            state = {**state, **lax.while_loop(wanted, step, carry)}
        return state

    def all_levels(state: State) -> State:
        for level in range(LEVELS):
            here = functools.partial(at_level, level)
            state = lax.while_loop(
                lambda state, here=here: here(state['counter']), functools.partial(one_level, level), state
            )
        return state

    state = lax.while_loop(lambda state: state['counter'] < length, all_levels, {**state, 'counter': jnp.int32(0)})
    return {name: value for name, value in state.items() if name != 'counter'}


# ---- access ---------------------------------------------------------------------------------------------------------


def _get(instruction: Array, name: str) -> Array:
    return instruction[FIELDS.index(name)]


def _raw(memory: Memory, row: Array, shape: Shape, level: int) -> Maps:
    found = lax.dynamic_slice(memory, (row, jnp.zeros_like(row)), (shape.rows[level], shape.filters))
    return found.reshape(shape.maps(level))


def _write(memory: Memory, row: Array, maps: Maps, *others: Array) -> Memory:
    """Writes maps; `others` are all else that was computed from the memory (see the head of the file)."""
    row = _after(row, maps, *others)
    return lax.dynamic_update_slice(memory, maps.reshape(-1, maps.shape[-1]), (row, jnp.zeros_like(row)))


def _after(row: Array, *values: Array) -> Array:
    """The row, by way of all values: XLA drops barriers before it decides what to copy."""
    number = functools.reduce(jnp.add, (value.ravel()[0] for value in values))
    return jnp.where(jnp.isnan(number), jnp.zeros_like(row), row)


def _set(table: Array, index: Array, value: Array) -> Array:
    return lax.dynamic_update_index_in_dim(table, value, index, 0)


def _pick(table: Array, index: Array) -> Array:
    return lax.dynamic_index_in_dim(table, index, 0, keepdims=False)


class _Access:
    """How instructions read: maps through their norms, weights by their number."""

    def __init__(self, params: Params, shape: Shape) -> None:
        identity = jnp.ones((1, shape.filters), params.scale.dtype)
        self.params, self.shape = params, shape
        self.scale = jnp.concatenate([params.scale, identity])
        self.bias = jnp.concatenate([params.bias, 0 * identity])

    def norm(self, state: State, slot: Array) -> Norm:
        return Norm(*(_pick(table, slot) for table in (state['mean'], state['inv'], self.scale, self.bias)))

    def map(self, state: State, instruction: Array, name: str, level: int) -> Maps:
        z = _raw(state['memory'], _get(instruction, name), self.shape, level)
        return kernels.normalised(z, self.norm(state, _get(instruction, f'{name}_slot')))

    def raw(self, state: State, instruction: Array, name: str, level: int) -> Maps:
        return _raw(state['memory'], _get(instruction, name), self.shape, level)

    def weights(self, number: Array) -> Weights:
        return Weights(*(_pick(getattr(self.params, name), number) for name in Weights._fields))

    def up(self, x: Maps, level: int) -> Maps:
        return ops.resize_half_pixel(x, self.shape.sizes[level])

    def up_back(self, grad: Maps, small: int) -> Maps:
        size = (grad.shape[1], grad.shape[2])
        if size == self.shape.sizes[small]:
            return grad
        pairs = zip(self.shape.sizes[small], size, strict=True)
        rows, columns = (jnp.asarray(ops.half_pixel_matrix(*pair).T, grad.dtype) for pair in pairs)
        return ops.along_axes(grad, rows, columns)


# ---- forward --------------------------------------------------------------------------------------------------------

NORMS = ('mean', 'inv', 'var')


def _forward_table(access: _Access, train: bool) -> list[list[Operation]]:
    return [list(_forward_operations(access, level, train)) for level in range(LEVELS)]


def _forward_operations(access: _Access, level: int, train: bool) -> Iterator[Operation]:
    stats = NORMS if train else ()
    tables = () if train else ('mean', 'inv')

    def store(state: State, instruction: Array, z: Maps, slot: Array) -> State:
        """A map before its norm, and in training its moments."""
        if not train:
            return {'memory': _write(state['memory'], _get(instruction, 'out'), z)}
        mean, var = kernels.moments(z)
        z, mean, var = lax.optimization_barrier((z, mean, var))
        return {
            'memory': _write(state['memory'], _get(instruction, 'out'), z, mean, var),
            'mean': _set(state['mean'], slot, mean),
            'var': _set(state['var'], slot, var),
            'inv': _set(state['inv'], slot, kernels.inverse(var)),
        }

    def unit(kind: int, state: State, instruction: Array) -> State:
        number = _get(instruction, 'number')
        z = kernels.mix(kind, access.map(state, instruction, 'x', level), access.weights(number))
        return store(state, instruction, z, number)

    def project(state: State, instruction: Array) -> State:
        parts = zip('xyz', access.params.projection, strict=True)
        z = functools.reduce(jnp.add, (access.map(state, instruction, name, level) @ kernel for name, kernel in parts))
        return store(state, instruction, z, jnp.asarray(tape.PROJECTION, instruction.dtype))

    def add(state: State, instruction: Array) -> State:
        total = access.map(state, instruction, 'x', level) + access.map(state, instruction, 'y', level)
        return {'memory': _write(state['memory'], _get(instruction, 'out'), total)}

    def up(small: int, state: State, instruction: Array) -> State:
        enlarged = access.up(access.map(state, instruction, 'y', small), level)
        total = access.map(state, instruction, 'x', level) + enlarged
        return {'memory': _write(state['memory'], _get(instruction, 'out'), total)}

    def head(state: State, instruction: Array) -> State:
        number = _get(instruction, 'number')
        kernel, bias = _pick(access.params.heads, number), _pick(access.params.head_bias, number)
        y = kernels.dense(access.map(state, instruction, 'x', level), kernel, 1) + bias[None, None, None, :]
        return {'logits': _set(state['logits'], number, access.up(y, 0))}

    for kind in range(len(KINDS)):
        yield Operation(tape.UNIT + kind, functools.partial(unit, kind), ('memory', *stats), tables)
    norms = ('mean', 'inv')
    yield Operation(tape.ADD, add, ('memory',), norms)
    yield Operation(tape.PROJECT, project, ('memory', *stats), tables)
    yield Operation(tape.HEAD, head, ('logits',), ('memory', *norms))
    for small in range(level + 1, LEVELS):
        yield Operation(tape.UP + small, functools.partial(up, small), ('memory',), norms)


def forward(
    params: Params,
    stats: Stats,
    program: Tape,
    features: Mapping[int, Float[Array, 'B _ _ _']],
    memory: Memory,
    *,
    shape: Shape,
    train: bool,
) -> State:
    """Runs the forward pass of one candidate; `features` by level.

    Gives the state that `backward` takes: `logits` [4, B, h, w, L] are those of the heads at level 0 (zeros where there
    is none), `mean` and `var` those of the norms that were computed.
    """
    access = _Access(params, shape)
    one = jnp.ones((1, shape.filters), params.scale.dtype)
    held = (stats.mean, kernels.inverse(stats.var), stats.var)
    state: State = {
        name: jnp.concatenate([table, last]) for name, table, last in zip(NORMS, held, (0 * one, one, one), strict=True)
    }
    state['memory'] = memory
    state['logits'] = jnp.zeros((tape.MAIN + 1, *shape.maps(0)[:3], shape.classes), memory.dtype)
    for level, kernel in enumerate(params.adapters):
        z = features[level] @ kernel
        slot = ADAPTERS + level
        if train:
            mean, var = kernels.moments(z)
            new = zip(NORMS, (mean, kernels.inverse(var), var), strict=True)
            state |= {name: state[name].at[slot].set(value) for name, value in new}
        state['memory'] = _write(state['memory'], program.adapters[level], z)
    return run(program.forward, program.lengths[0], state, _forward_table(access, train))


def moved(stats: Stats, state: State, program: Tape, decay: float) -> Stats:
    """The moving averages after a step: of unbiased variances, and those of norms that were not computed stay."""
    counts = program.counts.astype(stats.var.dtype)[:, None]
    unbiased, used = state['var'][:SLOTS] * (counts / jnp.maximum(counts - 1, 1)), counts > 0
    return Stats(
        jnp.where(used, decay * stats.mean + (1 - decay) * state['mean'][:SLOTS], stats.mean),
        jnp.where(used, decay * stats.var + (1 - decay) * unbiased, stats.var),
    )


# ---- backward -------------------------------------------------------------------------------------------------------


def _backward_table(access: _Access, given: Float[Array, '4 B h w L']) -> list[list[Operation]]:
    return [list(_backward_operations(access, level, given)) for level in range(LEVELS)]


def _backward_operations(access: _Access, level: int, given: Float[Array, '4 B h w L']) -> Iterator[Operation]:
    norms = ('mean', 'inv')

    def add_held(state: State, instruction: Array, grad: Maps, here: int) -> Maps:
        return grad + access.raw(state, instruction, 'held', here)

    def unit(kind: int, state: State, instruction: Array) -> State:
        number = _get(instruction, 'number')
        z, grad = access.raw(state, instruction, 'own', level), access.raw(state, instruction, 'grad', level)
        inner, scale, bias = kernels.norm_back(z, grad, access.norm(state, number))
        inner = lax.optimization_barrier(inner)
        x = access.map(state, instruction, 'x', level)
        x_grad, grads = kernels.mix_back(kind, x, inner, access.weights(number))
        x_grad, grads, scale, bias = lax.optimization_barrier(
            (add_held(state, instruction, x_grad, level), grads, scale, bias)
        )
        written = {**grads, 'scale': scale, 'bias': bias}
        return {
            'memory': _write(state['memory'], _get(instruction, 'out'), x_grad, *written.values()),
            **{f'grad_{name}': _set(state[f'grad_{name}'], number, value) for name, value in written.items()},
        }

    def project(state: State, instruction: Array) -> State:
        slot = jnp.asarray(tape.PROJECTION, instruction.dtype)
        z, grad = access.raw(state, instruction, 'own', level), access.raw(state, instruction, 'grad', level)
        inner, scale, bias = kernels.norm_back(z, grad, access.norm(state, slot))
        inner = lax.optimization_barrier(inner)
        flat = inner.reshape(-1, inner.shape[-1])
        reads = [access.map(state, instruction, name, level) for name in 'xyz']
        kernel = jnp.stack([x.reshape(flat.shape).T @ flat for x in reads])
        outs = [inner @ part.T for part in access.params.projection]
        outs, kernel, scale, bias = lax.optimization_barrier((outs, kernel, scale, bias))
        memory = state['memory']
        for name, out in zip(('out', 'out2', 'out3'), outs, strict=True):
            memory = _write(memory, _get(instruction, name), out, kernel, scale, bias, *outs)
        return {
            'memory': memory,
            'grad_projection': kernel,
            'grad_scale': _set(state['grad_scale'], slot, scale),
            'grad_bias': _set(state['grad_bias'], slot, bias),
        }

    def plus(state: State, instruction: Array) -> State:
        total = access.raw(state, instruction, 'x', level) + access.raw(state, instruction, 'y', level)
        return {'memory': _write(state['memory'], _get(instruction, 'out'), total)}

    def up(small: int, state: State, instruction: Array) -> State:
        grad = access.up_back(access.raw(state, instruction, 'grad', level), small)
        total = add_held(state, instruction, grad, small)
        return {'memory': _write(state['memory'], _get(instruction, 'out'), total)}

    def head(state: State, instruction: Array) -> State:
        number = _get(instruction, 'number')
        grad = lax.optimization_barrier(access.up_back(_pick(given, number), level))
        x = access.map(state, instruction, 'x', level)
        kernel = _pick(access.params.heads, number)
        x_grad = kernels.dense(grad, kernel[::-1, ::-1].transpose(0, 1, 3, 2), 1)
        kernel_grad, bias = kernels.dense_kernel_grad(x, grad, 1), grad.sum((0, 1, 2))
        total = add_held(state, instruction, x_grad, level)
        total, kernel_grad, bias = lax.optimization_barrier((total, kernel_grad, bias))
        return {
            'memory': _write(state['memory'], _get(instruction, 'out'), total, kernel_grad, bias),
            'grad_heads': _set(state['grad_heads'], number, kernel_grad),
            'grad_head_bias': _set(state['grad_head_bias'], number, bias),
        }

    for kind in range(len(KINDS)):
        grads = tuple(f'grad_{name}' for name in (*kernels.needs(kind), 'scale', 'bias'))
        yield Operation(tape.UNIT_BACK + kind, functools.partial(unit, kind), ('memory', *grads), norms)
    yield Operation(tape.PLUS, plus, ('memory',))
    of_projection = ('grad_projection', 'grad_scale', 'grad_bias')
    yield Operation(tape.PROJECT_BACK, project, ('memory', *of_projection), norms)
    yield Operation(tape.HEAD_BACK, head, ('memory', 'grad_heads', 'grad_head_bias'), norms)
    for small in range(level + 1, LEVELS):
        yield Operation(tape.UP_BACK + small, functools.partial(up, small), ('memory',))


def backward(
    params: Params,
    program: Tape,
    features: Mapping[int, Float[Array, 'B _ _ _']],
    state: State,
    given: Float[Array, '4 B h w L'],
    *,
    shape: Shape,
) -> tuple[Params, Memory]:
    """Gradients of all weights from `given`, that of `logits`, after `forward` in training; and the memory."""
    access = _Access(params, shape)
    names = [name for name in Params._fields if name != 'adapters']
    state = {
        **{name: state[name] for name in ('memory', 'mean', 'inv')},
        **{f'grad_{name}': jnp.zeros_like(getattr(params, name)) for name in names},
    }
    state = run(program.backward, program.lengths[1], state, _backward_table(access, given))
    grads: dict[str, Any] = {name: state[f'grad_{name}'] for name in names}
    adapters = []
    for level, kernel in enumerate(params.adapters):
        slot, x = ADAPTERS + level, features[level]
        grad = _raw(state['memory'], program.adapter_grads[level], shape, level)
        grad = jnp.where(program.adapters_read[level] > 0, grad, 0)
        norm = Norm(state['mean'][slot], state['inv'][slot], params.scale[slot], params.bias[slot])
        inner, scale, bias = kernels.norm_back(x @ kernel, grad, norm)
        adapters.append(x.reshape(-1, x.shape[-1]).T @ inner.reshape(-1, inner.shape[-1]))
        grads['scale'] = grads['scale'].at[slot].set(scale)
        grads['bias'] = grads['bias'].at[slot].set(bias)
    return Params(adapters=tuple(adapters), **grads), state['memory']
