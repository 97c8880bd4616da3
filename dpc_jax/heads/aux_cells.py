"""The head of auxiliary cells: a whole decoder on maps of four strides, and its logits (arXiv:1810.10804 §3).

The code of a genotype is a tape, and the tape machine computes outputs and gradients (`dpc_jax/aux_decoder`). Logits
have the size of the maps of stride 4, where the release takes its loss.
"""

import dataclasses
import functools
import itertools
import math
from collections.abc import Mapping
from typing import Any, Unpack

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
from jaxtyping import Array, Float

from dpc_jax import aux_decoder, checks, initial
from dpc_jax.aux_decoder import (
    AUXILIARIES,
    AUXILIARY_WEIGHT,
    BN_DECAY,
    CELLS,
    MAIN,
    SLOTS,
    UNITS,
    Memory,
    Params,
    Shape,
    Stats,
    Tape,
)
from dpc_jax.base import InputError, PyTree
from dpc_jax.heads import Features, HeadOutputs, Learned, Loss, More, Shapes
from dpc_jax.spaces import aux_cells
from dpc_jax.spaces.aux_cells import BLOCKS, MAPS, OPS, STRIDES, Genotype


@dataclasses.dataclass(frozen=True)
class Head:
    """See `heads.Head`. Separable operators are not repeated, as in the paper's search."""

    num_classes: int
    filters: int = 48
    auxiliary: str = 'cell'
    inner: bool = False  # auxiliary outputs at the blocks that are not the last (paper, Fig. 1) instead of at all
    weight: float = AUXILIARY_WEIGHT
    decay: float = BN_DECAY

    strides = STRIDES
    end_to_end = True
    largest_chunk = 1  # within a vmap every candidate would wait for every instruction of every other

    def __post_init__(self) -> None:
        checks.below_one('proxy.bn_decay', self.decay)
        checks.one_of('cell.auxiliary', self.auxiliary, AUXILIARIES)
        checks.at_least(1, cell__filters=self.filters)
        if not self.weight >= 0:
            raise InputError(f'cell.auxiliary_weight is {self.weight}; it must be at least 0')

    @property
    def blocks(self) -> tuple[int, ...]:
        """Those that have an auxiliary output."""
        return () if self.auxiliary == 'none' else tuple(range(BLOCKS - 1 if self.inner else BLOCKS))

    @property
    def auxiliary_weights(self) -> Mapping[str, float]:
        """The same for each block that has one."""
        return {f'block{block + 1}': self.weight for block in self.blocks}

    # ---- weights -----------------------------------------------------------------------------------------------

    def init(self, key: jax.Array, genotype: Genotype, channels: Mapping[int, int]) -> tuple[Params, Stats]:
        """PyTorch's initial values for the operators of the genotype (unbatched), in the shape that all share.

        Weights that it does not use are drawn, too, and never move but by weight decay.
        """
        width, classes = self.filters, self.num_classes
        adapters = [(channels[stride], width) for stride in STRIDES]
        shapes = (
            *adapters,
            *((UNITS, width, width), (UNITS, 3, 3, width, width), (UNITS, 5, 5, width), (BLOCKS, width, width)),
            *((MAIN + 1, 3, 3, width, classes), (MAIN + 1, classes)),
        )
        places = np.cumsum([0, *map(math.prod, shapes)])
        # One draw, cut into pieces, because each would be compiled.
        drawn = initial.uniform(key, (int(places[-1]),))
        pieces = [drawn[i:j].reshape(shape) for (i, j), shape in zip(itertools.pairwise(places), shapes, strict=True)]
        pointwise, dense, depthwise, projection, heads, head_bias = pieces[len(adapters) :]

        many = 1 / math.sqrt(9 * width)
        wide = jnp.asarray([op.kernel == 5 for op in OPS])[genotype.ops]  # by operator of a cell
        wide = jnp.concatenate([jnp.tile(wide, CELLS), jnp.zeros(UNITS - 7 * CELLS, bool)])
        ends = BLOCKS - sum((genotype.connections == MAPS + block).any().astype(jnp.float32) for block in range(2))
        params = Params(
            adapters=tuple(piece / math.sqrt(len(piece)) for piece in pieces[: len(adapters)]),
            pointwise=pointwise / math.sqrt(width),
            dense=dense * many,
            depthwise=depthwise * jnp.where(wide, 1 / 5, 1 / 3)[:, None, None, None],
            projection=projection * jnp.sqrt(1 / (width * ends)),
            scale=jnp.ones((SLOTS, width)),
            bias=jnp.zeros((SLOTS, width)),
            heads=heads * many,
            head_bias=head_bias * many,
        )
        return params, Stats(jnp.zeros((SLOTS, width)), jnp.ones((SLOTS, width)))

    def decayed(self, params: PyTree) -> PyTree:
        """All (release)."""
        return jax.tree.map(lambda _: True, params)

    def multipliers(self, params: PyTree) -> PyTree:
        """1 for all."""
        return jax.tree.map(lambda _: 1.0, params)

    # ---- tapes -------------------------------------------------------------------------------------------------

    def encode(self, genotypes: Genotype, shapes: Shapes, *, train: bool) -> Tape:
        """The tapes of genotypes [P, ...]."""
        shape = self.shape(shapes)
        rows = zip(*(np.asarray(field).tolist() for field in genotypes), strict=True)
        tapes = [self._tape(*map(tuple, genes), shape=shape, train=train) for genes in rows]
        stacked: Tape = jax.tree.map(lambda *leaves: np.stack(leaves), *tapes)
        return stacked

    def _tape(self, *genes: tuple[int, ...], shape: Shape, train: bool) -> Tape:
        auxiliary, heads = (self.auxiliary, self.blocks) if train else ('none', ())
        return _tape(*genes, shape=shape, train=train, auxiliary=auxiliary, heads=heads)

    def uses(self, codes: PyTree) -> tuple[()]:
        """A tape says it all."""
        del codes
        return ()

    # ---- outputs -----------------------------------------------------------------------------------------------

    def shape(self, shapes: Shapes) -> Shape:
        """What the machine is compiled for."""
        sizes = tuple((shapes[s][1], shapes[s][2]) for s in STRIDES)
        return Shape(shapes[STRIDES[0]][0], sizes, self.filters, self.num_classes)

    def scratch(self, shapes: Shapes) -> Memory:
        """The machine's memory."""
        return jnp.zeros((_memory(self.shape(shapes), train=True), self.filters))

    def apply(
        self,
        params: Params,
        stats: Stats,
        code: Tape,
        features: Features,
        *,
        train: bool,
        **more: Unpack[More],
    ) -> tuple[HeadOutputs, Stats]:
        """Class scores at stride 4, and the new moving averages (unbatched)."""
        del more
        shape = self.shape(_shapes(features))
        memory = jnp.zeros((_memory(shape, train=train), self.filters), params.scale.dtype)
        state = aux_decoder.forward(params, stats, code, _by_level(features), memory, shape=shape, train=train)
        moved = aux_decoder.moved(stats, state, code, self.decay) if train else stats
        return self._outputs(state['logits'], train=train), moved

    def learn(
        self,
        params: Params,
        stats: Stats,
        code: Tape,
        features: Features,
        loss_of: Loss,
        scratch: Memory,
        **more: Unpack[More],
    ) -> Learned:
        """Forward, loss, backward; nothing is derived through the aux_decoder."""
        del more
        shape, maps = self.shape(_shapes(features)), _by_level(features)
        state = aux_decoder.forward(params, stats, code, maps, scratch, shape=shape, train=True)
        loss, given = jax.value_and_grad(lambda logits: loss_of(self._outputs(logits, train=True)))(state['logits'])
        moved = aux_decoder.moved(stats, state, code, self.decay)
        grads, memory, of_maps = aux_decoder.backward(params, code, maps, state, given, shape=shape)
        return Learned(loss, moved, grads, memory, {STRIDES[level]: grad for level, grad in of_maps.items()})

    def _outputs(self, logits: Float[Array, '4 B h w L'], *, train: bool) -> HeadOutputs:
        logits = logits.transpose(0, 1, 4, 2, 3)
        blocks = self.blocks if train else ()
        return HeadOutputs(logits[MAIN], {f'block{block + 1}': logits[block] for block in blocks})


def _shapes(features: Features) -> dict[int, tuple[int, ...]]:
    return {stride: maps.shape for stride, maps in features.items()}


def _by_level(features: Features) -> dict[int, Any]:
    return {level: features[stride] for level, stride in enumerate(STRIDES)}


def _memory(shape: Shape, *, train: bool) -> int:
    return aux_decoder.MOST_MAPS[train] * shape.rows[0]


@functools.lru_cache(maxsize=4096)
def _tape(
    ops: tuple[int, ...],
    positions: tuple[int, ...],
    connections: tuple[int, ...],
    *,
    shape: Shape,
    train: bool,
    auxiliary: str,
    heads: tuple[int, ...],
) -> Tape:
    genotype = aux_cells.Genotype(*(np.array(genes, np.int32) for genes in (ops, positions, connections)))
    memory = _memory(shape, train=train)
    more: dict[str, Any] = {'auxiliary': auxiliary, 'heads': heads, 'memory': memory, 'train': train}
    return aux_decoder.compile_tape(genotype, shape.batch, shape.rows, **more)


def make(config: ml_collections.ConfigDict, num_classes: int) -> Head:
    """The head that `config.cell` describes; InputError for a bad value."""
    checks.one_of('proxy.dtype', config.proxy.dtype, ('float32',))
    cell = config.cell
    return Head(
        num_classes,
        cell.filters,
        auxiliary=cell.get('auxiliary', 'cell'),
        inner=cell.get('auxiliary_inner', False),
        weight=cell.get('auxiliary_weight', AUXILIARY_WEIGHT),
        decay=config.proxy.bn_decay,
    )
