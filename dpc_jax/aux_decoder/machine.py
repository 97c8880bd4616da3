"""Every decoder by one program: the forward and the backward pass of a tape, instruction by instruction."""

import functools
from collections.abc import Iterator, Mapping
from typing import Any

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from dpc_jax.aux_decoder import kernels, tape
from dpc_jax.aux_decoder.interpreter import Operation, run
from dpc_jax.aux_decoder.kernels import Maps, Norm
from dpc_jax.aux_decoder.registers import Access, Memory, Params, Shape, State, Stats, get, pick, put, raw, write
from dpc_jax.aux_decoder.tape import ADAPTERS, KINDS, LEVELS, SLOTS, Tape

# ---- forward --------------------------------------------------------------------------------------------------------

NORMS = ('mean', 'inv', 'var')


def _forward_table(access: Access, train: bool) -> list[list[Operation]]:
    return [list(_forward_operations(access, level, train)) for level in range(LEVELS)]


def _forward_operations(access: Access, level: int, train: bool) -> Iterator[Operation]:
    stats = NORMS if train else ()
    tables = () if train else ('mean', 'inv')

    def store(state: State, instruction: Array, z: Maps, slot: Array) -> State:
        """A map before its norm, and in training its moments."""
        if not train:
            return {'memory': write(state['memory'], get(instruction, 'out'), z)}
        mean, var = kernels.moments(z)
        z, mean, var = lax.optimization_barrier((z, mean, var))
        return {
            'memory': write(state['memory'], get(instruction, 'out'), z, mean, var),
            'mean': put(state['mean'], slot, mean),
            'var': put(state['var'], slot, var),
            'inv': put(state['inv'], slot, kernels.inverse(var)),
        }

    def unit(kind: int, state: State, instruction: Array) -> State:
        number = get(instruction, 'number')
        z = kernels.mix(kind, access.map(state, instruction, 'x', level), access.weights(number))
        return store(state, instruction, z, number)

    def project(state: State, instruction: Array) -> State:
        parts = zip('xyz', access.params.projection, strict=True)
        z = functools.reduce(jnp.add, (access.map(state, instruction, name, level) @ kernel for name, kernel in parts))
        return store(state, instruction, z, jnp.asarray(tape.PROJECTION, instruction.dtype))

    def add(state: State, instruction: Array) -> State:
        total = access.map(state, instruction, 'x', level) + access.map(state, instruction, 'y', level)
        return {'memory': write(state['memory'], get(instruction, 'out'), total)}

    def up(small: int, state: State, instruction: Array) -> State:
        enlarged = access.up(access.map(state, instruction, 'y', small), level)
        total = access.map(state, instruction, 'x', level) + enlarged
        return {'memory': write(state['memory'], get(instruction, 'out'), total)}

    def head(state: State, instruction: Array) -> State:
        number = get(instruction, 'number')
        kernel, bias = pick(access.params.heads, number), pick(access.params.head_bias, number)
        y = kernels.dense(access.map(state, instruction, 'x', level), kernel, 1) + bias[None, None, None, :]
        return {'logits': put(state['logits'], number, access.up(y, 0))}

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
    access = Access(params, shape)
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
        state['memory'] = write(state['memory'], program.adapters[level], z)
    return run(jnp.asarray(program.forward), program.lengths[0], state, _forward_table(access, train))


def moved(stats: Stats, state: State, program: Tape, decay: float) -> Stats:
    """The moving averages after a step: of unbiased variances, and those of norms that were not computed stay."""
    counts = program.counts.astype(stats.var.dtype)[:, None]
    unbiased, used = state['var'][:SLOTS] * (counts / jnp.maximum(counts - 1, 1)), counts > 0
    return Stats(
        jnp.where(used, decay * stats.mean + (1 - decay) * state['mean'][:SLOTS], stats.mean),
        jnp.where(used, decay * stats.var + (1 - decay) * unbiased, stats.var),
    )


# ---- backward -------------------------------------------------------------------------------------------------------


def _backward_table(access: Access, given: Float[Array, '4 B h w L']) -> list[list[Operation]]:
    return [[*_backward_units(access, level), *_backward_others(access, level, given)] for level in range(LEVELS)]


def _add_held(access: Access, state: State, instruction: Array, grad: Maps, level: int) -> Maps:
    return grad + access.raw(state, instruction, 'held', level)


def _backward_units(access: Access, level: int) -> Iterator[Operation]:
    def unit(kind: int, state: State, instruction: Array) -> State:
        number = get(instruction, 'number')
        z, grad = access.raw(state, instruction, 'own', level), access.raw(state, instruction, 'grad', level)
        z, grad = kernels.of_unit(kind, z, grad)
        inner, scale, bias = kernels.norm_back(z, grad, access.norm(state, number))
        inner = lax.optimization_barrier(inner)
        x = access.map(state, instruction, 'x', level)
        x_grad, grads = kernels.mix_back(kind, x, inner, access.weights(number))
        x_grad, grads, scale, bias = lax.optimization_barrier(
            (_add_held(access, state, instruction, x_grad, level), grads, scale, bias)
        )
        written = {**grads, 'scale': scale, 'bias': bias}
        return {
            'memory': write(state['memory'], get(instruction, 'out'), x_grad, *written.values()),
            **{f'grad_{name}': put(state[f'grad_{name}'], number, value) for name, value in written.items()},
        }

    for kind in range(len(KINDS)):
        grads = tuple(f'grad_{name}' for name in (*kernels.needs(kind), 'scale', 'bias'))
        yield Operation(tape.UNIT_BACK + kind, functools.partial(unit, kind), ('memory', *grads), ('mean', 'inv'))


def _backward_others(access: Access, level: int, given: Float[Array, '4 B h w L']) -> Iterator[Operation]:
    norms = ('mean', 'inv')

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
            memory = write(memory, get(instruction, name), out, kernel, scale, bias, *outs)
        return {
            'memory': memory,
            'grad_projection': kernel,
            'grad_scale': put(state['grad_scale'], slot, scale),
            'grad_bias': put(state['grad_bias'], slot, bias),
        }

    def plus(state: State, instruction: Array) -> State:
        total = access.raw(state, instruction, 'x', level) + access.raw(state, instruction, 'y', level)
        return {'memory': write(state['memory'], get(instruction, 'out'), total)}

    def up(small: int, state: State, instruction: Array) -> State:
        grad = access.up_back(access.raw(state, instruction, 'grad', level), small)
        total = _add_held(access, state, instruction, grad, small)
        return {'memory': write(state['memory'], get(instruction, 'out'), total)}

    def head(state: State, instruction: Array) -> State:
        number = get(instruction, 'number')
        grad = lax.optimization_barrier(access.up_back(pick(given, number), level))
        x = access.map(state, instruction, 'x', level)
        kernel = pick(access.params.heads, number)
        x_grad = kernels.dense(grad, kernel[::-1, ::-1].transpose(0, 1, 3, 2), 1)
        kernel_grad, bias = kernels.dense_kernel_grad(x, grad, 1), grad.sum((0, 1, 2))
        total = _add_held(access, state, instruction, x_grad, level)
        total, kernel_grad, bias = lax.optimization_barrier((total, kernel_grad, bias))
        return {
            'memory': write(state['memory'], get(instruction, 'out'), total, kernel_grad, bias),
            'grad_heads': put(state['grad_heads'], number, kernel_grad),
            'grad_head_bias': put(state['grad_head_bias'], number, bias),
        }

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
) -> tuple[Params, Memory, dict[int, Float[Array, 'B _ _ _']]]:
    """Gradients from `given`, that of `logits`, after `forward` in training: of all weights, and of the features.

    The memory stands between them.
    """
    access = Access(params, shape)
    names = [name for name in Params._fields if name != 'adapters']
    state = {
        **{name: state[name] for name in ('memory', 'mean', 'inv')},
        **{f'grad_{name}': jnp.zeros_like(getattr(params, name)) for name in names},
    }
    state = run(jnp.asarray(program.backward), program.lengths[1], state, _backward_table(access, given))
    grads: dict[str, Any] = {name: state[f'grad_{name}'] for name in names}
    adapters, maps = [], {}
    for level, kernel in enumerate(params.adapters):
        slot, x = ADAPTERS + level, features[level]
        grad = raw(state['memory'], program.adapter_grads[level], shape, level)
        grad = jnp.where(program.adapters_read[level] > 0, grad, 0)
        norm = Norm(state['mean'][slot], state['inv'][slot], params.scale[slot], params.bias[slot])
        inner, scale, bias = kernels.norm_back(x @ kernel, grad, norm)
        adapters.append(x.reshape(-1, x.shape[-1]).T @ inner.reshape(-1, inner.shape[-1]))
        maps[level] = inner @ kernel.T
        grads['scale'] = grads['scale'].at[slot].set(scale)
        grads['bias'] = grads['bias'].at[slot].set(bias)
    return Params(adapters=tuple(adapters), **grads), state['memory'], maps
