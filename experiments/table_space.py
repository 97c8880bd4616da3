"""A search space that has the cells of a table and no others, so that real search strategies run on known scores.

A strategy draws from the whole space, which has 4e11 cells, and a table has a thousand of them. Three ways are open.
A table of the whole of a small space (as in NAS-Bench-101) would be a benchmark of another, smaller problem. A model
that is fitted to the table can score every cell, but then its faults are searched as well. Here the *space* is
restricted instead, and the strategies run unchanged on what is left:

* To draw uniformly is to draw a cell of the table uniformly. Where the table is a uniform sample of the space, this is
  what uniform search would do in the space (its best after n cells has the same law, up to the table's size).
* The neighbours of a cell are the cells of the table that differ from it in one gene, under the same names of genes.
  A uniform sample has next to none, so up to `nearest` further cells are added, those that differ in the fewest of the
  space's choices; each counts as a gene of its own.

So a step of a strategy that looks near good cells is longer here than in the space, and says less: what it wins over
uniform draws on a table is a lower bound, roughly, of what it would win in the space. `says` measures how much a
neighbourhood tells about its cell. Two cells are compared as they are written: the same branches in another order
are the same function, but not nearer for it.
"""

import functools
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np
from scipy import stats

from dpc_jax.base import Genotype, InputError, stack
from dpc_jax.spaces import SearchSpace

Choices = tuple[Any, ...]


class TableSpace:
    """See `dpc_jax.spaces.SearchSpace`; `cells` is canonical key -> genotype (unbatched) of `space`."""

    def __init__(self, space: SearchSpace, cells: Mapping[str, Genotype], nearest: int = 20) -> None:
        if nearest < 1:
            raise InputError(f'nearest is {nearest}; a cell has at least 1 neighbour')
        if len(cells) < 2:
            raise InputError(f'the table has {len(cells)} cells; a search needs at least 2')
        self._space, self._nearest = space, nearest
        self.keys, self.genotypes = tuple(cells), tuple(cells.values())
        self._population = stack(self.genotypes)
        self._params = [dict(space.to_params(genotype)) for genotype in self.genotypes]
        self._names = tuple(space.choices())
        chosen = [tuple(params[name] for name in self._names) for params in self._params]
        self._place_of_choices = {choices: place for place, choices in enumerate(chosen)}
        self._place_of_genes = {_genes(genotype): place for place, genotype in enumerate(self.genotypes)}
        self._place_of_key = {key: place for place, key in enumerate(self.keys)}
        values = [{value: i for i, value in enumerate(options)} for options in space.choices().values()]
        self._coded = np.array([self._codes(choices, values) for choices in chosen])
        self._values = values
        self._neighbours = functools.cache(self._find_neighbours)

    @staticmethod
    def _codes(choices: Choices, values: Sequence[Mapping[Any, int]]) -> list[int]:
        return [options[value] for value, options in zip(choices, values, strict=True)]

    @property
    def size(self) -> int:
        """Cells of the table."""
        return len(self.keys)

    def choices(self) -> Mapping[str, tuple[Any, ...]]:
        """Those of the space; most of their combinations are not in the table (see `from_params`)."""
        return self._space.choices()

    def to_params(self, genotype: Genotype) -> Mapping[str, Any]:
        """As in the space."""
        place = self._place_of_genes.get(_genes(genotype))
        return self._space.to_params(genotype) if place is None else self._params[place]

    def from_params(self, params: dict[str, Any]) -> Genotype:
        """The cell of the table with these parameters; where there is none, that which differs in the fewest."""
        return self.genotypes[self._place(params)]

    def canonical_key(self, genotype: Genotype) -> str:
        """As in the space."""
        place = self._place_of_genes.get(_genes(genotype))
        return self._space.canonical_key(genotype) if place is None else self.keys[place]

    def sample(self, key: jax.Array, count: int | None = None) -> Genotype:
        """Cells of the table, uniformly and with replacement."""
        random = np.random.default_rng(np.asarray(jax.random.key_data(key)))
        places = random.integers(self.size, size=count)
        population: Genotype = jax.tree.map(lambda genes: genes[places], self._population)
        return population

    def neighbours_by_gene(self, genotype: Genotype, reach: Any = 'adjacent') -> Mapping[str, list[Genotype]]:
        """The cells of the table that differ in one gene, and the nearest ones where these are fewer than `nearest`."""
        place = self._place_of_genes.get(_genes(genotype))
        groups = self._neighbours(self._place(self._space.to_params(genotype)) if place is None else place, reach)
        return {gene: [self.genotypes[place] for place in places] for gene, places in groups.items()}

    def _find_neighbours(self, here: int, reach: str) -> dict[str, list[int]]:
        """Gene -> places in the table."""
        groups: dict[str, list[int]] = {}
        for gene, others in self._space.neighbours_by_gene(self.genotypes[here], reach).items():
            keys = dict.fromkeys(map(self._space.canonical_key, others))
            places = [self._place_of_key[key] for key in keys if key in self._place_of_key and key != self.keys[here]]
            groups |= {gene: places} if places else {}
        known = {here}.union(*groups.values())
        further = [place for place in self._by_distance(self._coded[here]) if place not in known]
        missing = max(0, self._nearest + 1 - len(known))
        return groups | {f'nearest {rank}': [place] for rank, place in enumerate(further[:missing])}

    def _by_distance(self, codes: Sequence[int] | np.ndarray) -> list[int]:
        """All places, those first whose cells differ in the fewest choices; equals in the table's order."""
        order: list[int] = np.argsort((self._coded != np.asarray(codes)).sum(1), kind='stable').tolist()
        return order

    def _chosen(self, params: Mapping[str, Any]) -> Choices:
        return tuple(params[name] for name in self._names)

    def _place(self, params: Mapping[str, Any]) -> int:
        choices = self._chosen(params)
        place = self._place_of_choices.get(choices)
        return self._by_distance(self._codes(choices, self._values))[0] if place is None else place

    def says(self, scores: Sequence[float], reach: str = 'any') -> tuple[float, float]:
        """How much a neighbourhood says: Spearman's correlation between the score of a cell and the mean over its
        neighbours, where genes weigh the same; and the mean number of choices in which a neighbour differs.

        NaN scores are left out.
        """
        means, distances = np.full(self.size, np.nan), np.zeros(self.size)
        for here in range(self.size):
            groups = self._neighbours(here, reach).values()
            means[here] = _mean([_mean([scores[place] for place in places]) for places in groups])
            distances[here] = _mean([(self._coded[places] != self._coded[here]).sum(1).mean() for places in groups])
        known = np.isfinite(means) & np.isfinite(scores)
        return float(stats.spearmanr(np.asarray(scores)[known], means[known]).statistic), float(distances.mean())


def _genes(genotype: Genotype) -> tuple[bytes, ...]:
    """What equal genotypes have in common."""
    return tuple(np.asarray(field, np.int32).tobytes() for field in genotype)


def _mean(values: Sequence[float]) -> float:
    """Of those that are finite; NaN where none is."""
    finite = [value for value in values if np.isfinite(value)]
    return float(np.mean(finite)) if finite else float('nan')
