"""A Dense Prediction Cell as integers."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Array, Int

from dpc_jax.base import FEATURES, InputError


class Genotype(NamedTuple):
    """A cell as integers; unbatched `[K]`, or a population `[P, K]` of the same type.

    It is the same pytree in NumPy (sampling, files) and in JAX (as data of the one compiled program).

    >>> cell = dpc_jax.Genotype(np.array([-1, 0], np.int32), np.array([0, 3], np.int32))
    >>> dpc_jax.Space(2).validate(cell)
    """

    inputs: Int[Array, '*P K'] | Int[np.ndarray, '*P K']  # FEATURES, or the index of an earlier branch
    ops: Int[Array, '*P K'] | Int[np.ndarray, '*P K']  # index into the table of operators


def make_genotype(inputs: Sequence[int], ops: Sequence[int]) -> Genotype:
    """A cell `[K]` of Python integers."""
    return Genotype(np.array(inputs, np.int32), np.array(ops, np.int32))


def check_input(branch: int, source: int) -> None:
    """InputError unless `branch` may read `source`."""
    if not FEATURES <= source < branch:
        allowed = 'only the features (-1)' if branch == 0 else f'the features (-1) or a branch 0..{branch - 1}'
        raise InputError(f'branch {branch}: input {source}; it may read {allowed}')
