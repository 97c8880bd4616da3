"""From one candidate to a population: an equal part on each device, in chunks one after the other, vmap within."""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import lax
from jax.sharding import Mesh, PartitionSpec
from jaxtyping import Array, Bool

from dpc_jax import sharding
from dpc_jax.base import PyTree
from dpc_jax.heads import Head


def over_population(
    one: Callable[..., PyTree], head: Head, chunk: int, mesh: Mesh, *, candidates: int
) -> Callable[..., PyTree]:
    """Batches `one(*per_candidate, used, *shared)` over a population: the one seam between a candidate and many.

    The first `candidates` arguments get a leading axis P; the genotype must be the last of them. `alive` [P] comes in
    front: a chunk with nobody alive is skipped (its results are zeros). Each device takes an equal part of P, in chunks
    one after the other, with vmap within a chunk.

    A device with a single chunk gets a second one with nobody alive. XLA dissolves a loop of one round and compiles
    what was inside in another way (measured: jax 0.12 on a CPU, the last bit of a loss), so without it the bits of a
    score would depend on how many chunks a device has, that is on the number of devices.
    """

    @functools.partial(jax.jit, inline=True)  # so that it is traced once, for its shape and for its work
    def on_chunk(args: tuple[PyTree, ...], shared: tuple[PyTree, ...]) -> PyTree:
        used = head.uses(args[-1])
        if chunk == 1:  # the same without an axis of length one, which costs XLA some of its shapes
            result = one(*jax.tree.map(lambda leaf: leaf[0], args), used, *shared)
            return jax.tree.map(lambda leaf: leaf[None], result)
        axes = (0,) * candidates + (None,) * (1 + len(shared))
        return jax.vmap(one, in_axes=axes)(*args, used, *shared)

    def on_device(alive: Bool[Array, ' p'], *args: PyTree) -> PyTree:
        per_candidate, shared = args[:candidates], args[candidates:]
        shape = jax.eval_shape(on_chunk, jax.tree.map(lambda leaf: leaf[:chunk], per_candidate), shared)

        def run(inputs: tuple[Array, tuple[PyTree, ...]]) -> PyTree:
            chunk_alive, chunk_args = inputs
            skipped = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shape)
            return lax.cond(chunk_alive.any(), lambda: on_chunk(chunk_args, shared), lambda: skipped)

        count = alive.shape[0]
        if count == chunk:
            nobody = jnp.zeros_like(alive)
            alive, per_candidate = jax.tree.map(
                lambda *leaves: jnp.concatenate(leaves), (alive, per_candidate), (nobody, per_candidate)
            )
        split = jax.tree.map(lambda leaf: leaf.reshape(-1, chunk, *leaf.shape[1:]), (alive, per_candidate))
        results = lax.map(run, split)
        return jax.tree.map(lambda leaf: leaf.reshape(-1, *leaf.shape[2:])[:count], results)

    @functools.wraps(one)
    def call(alive: Bool[Array, ' P'], *args: PyTree) -> PyTree:
        here, everywhere = PartitionSpec(sharding.POPULATION), PartitionSpec()
        specs = (here,) * (1 + candidates) + (everywhere,) * (len(args) - candidates)
        mapped = jax.shard_map(on_device, mesh=mesh, in_specs=specs, out_specs=here, check_vma=False)
        return mapped(alive, *args)

    return jax.jit(call)
