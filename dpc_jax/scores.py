"""Given cells and their scores: what is checked of them before the work, and what is asked of them after it."""

import dataclasses
import math
import operator
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float

from dpc_jax.base import Genotype, InputError, as_int32, unstack
from dpc_jax.spaces import Space
from dpc_jax.study import Candidate


@dataclasses.dataclass(frozen=True)
class CellScore:
    """One cell under one seed."""

    cell: int  # its place among the cells that were given
    seed: int
    candidate: Candidate  # score, curve, confusion matrices, seconds, ...

    @property
    def score(self) -> float:
        """mIoU on val in 0..1; NaN unless it was trained to the end: a score after fewer steps is not comparable."""
        return self.candidate.score if self.candidate.state == 'complete' else math.nan


@dataclasses.dataclass(frozen=True)
class CellScores:
    """Given cells and what they scored, one row for each cell and seed, in the order in which they were given.

    >>> best = result.best(1)[0]
    >>> table = [(row.cell, row.seed, row.score) for row in result.rows]
    """

    space: Space
    classes: tuple[str, ...]
    settings: Mapping[str, Any]
    cells: tuple[Genotype, ...]
    rows: tuple[CellScore, ...]

    def scores(self) -> Float[np.ndarray, 'cells seeds']:
        """mIoU on val in 0..1, cells in order; NaN where one failed."""
        return np.array([row.score for row in self.rows], np.float64).reshape(len(self.cells), -1)

    def best(self, count: int = 1) -> list[Genotype]:
        """The best of the cells by their mean over seeds, best first, equal cells once; those that failed are left out.

        Equal scores are in the order of their canonical keys, so the answer does not depend on the order of the cells.
        """
        means = self.scores().mean(1)
        keys = [self.space.canonical_key(genotype) for genotype in self.cells]
        order = sorted((i for i in range(len(keys)) if np.isfinite(means[i])), key=lambda i: (-means[i], keys[i]))
        firsts = {keys[i]: self.cells[i] for i in reversed(order)}
        return [firsts[key] for key in dict.fromkeys(keys[i] for i in order)][:count]


def list_cells(space: Space, cells: Genotype | Sequence[Genotype]) -> list[Genotype]:
    """The cells of a population, of a sequence, or one alone; InputError says which of them is not of the space."""
    if not hasattr(cells, '_fields'):
        listed = list(cells)
    elif all(np.ndim(genes) < 2 for genes in cells):
        listed = [cells]
    else:
        listed = unstack(cells)
    listed = [as_int32(genotype) for genotype in listed]
    check_cells(space, listed)
    return listed


def list_seeds(seeds: int | Sequence[int], first: int) -> list[int]:
    """So many seeds from `first` on, or those of a list; InputError unless they are different whole numbers."""
    try:
        listed = [operator.index(seed) for seed in seeds] if isinstance(seeds, Sequence) else None
        wanted = [first + number for number in range(operator.index(seeds))] if listed is None else listed  # type: ignore[arg-type]
    except TypeError:
        wanted = []
    if not wanted or min(wanted) < 0 or len(set(wanted)) < len(wanted):
        raise InputError(f'seeds is {seeds!r}; it must be a number of at least 1, or different seeds of at least 0')
    return wanted


def check_cells(space: Space, cells: Sequence[Genotype]) -> None:
    """InputError, which names the cell, unless there are cells and all are of the space."""
    if not cells:
        raise InputError('there are no cells to evaluate; give at least one')
    for place, genotype in enumerate(cells):
        try:
            space.validate(genotype)
        except InputError as error:
            raise InputError(f'cell {place}: {error}') from error
        except (AttributeError, TypeError, ValueError) as error:
            raise InputError(f'cell {place} is not a genotype of this space: {str(genotype)[:60]}') from error
