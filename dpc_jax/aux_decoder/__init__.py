"""The auxiliary-cell decoder (arXiv:1810.10804): its static view, and the one program that trains every decoder."""

from dpc_jax.aux_decoder.machine import backward, forward, moved
from dpc_jax.aux_decoder.module import AUXILIARIES, AUXILIARY_WEIGHT, BN_DECAY, BN_EPSILON, Cell, Decoder
from dpc_jax.aux_decoder.registers import Memory, Params, Shape, Stats
from dpc_jax.aux_decoder.tape import CELLS, LEVELS, MAIN, MOST_MAPS, SLOTS, UNITS, Tape, compile_tape

__all__ = [
    'AUXILIARIES',
    'AUXILIARY_WEIGHT',
    'BN_DECAY',
    'BN_EPSILON',
    'CELLS',
    'LEVELS',
    'MAIN',
    'MOST_MAPS',
    'SLOTS',
    'UNITS',
    'Cell',
    'Decoder',
    'Memory',
    'Params',
    'Shape',
    'Stats',
    'Tape',
    'backward',
    'compile_tape',
    'forward',
    'moved',
]
