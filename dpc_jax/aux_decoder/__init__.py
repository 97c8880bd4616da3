"""The auxiliary-cell decoder (arXiv:1810.10804): its static view, and the one program that trains every decoder."""

from dpc_jax.aux_decoder.module import AUXILIARIES, AUXILIARY_WEIGHT, BN_DECAY, BN_EPSILON, Cell, Decoder

__all__ = ['AUXILIARIES', 'AUXILIARY_WEIGHT', 'BN_DECAY', 'BN_EPSILON', 'Cell', 'Decoder']
