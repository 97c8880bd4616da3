"""Rank correlations with intervals: Spearman's ρ and Kendall's τ-b, and a bootstrap over cells."""

import dataclasses
from collections.abc import Callable

import numpy as np
from jaxtyping import Float, Int

RESAMPLES = 10_000
LEVEL = 0.95


@dataclasses.dataclass(frozen=True)
class Correlation:
    """A rank correlation with its interval."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f'{self.value:.2f} ({self.low:.2f} to {self.high:.2f})'


Statistic = Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray]
"""Rank correlation of `a` and `b` [n] in each of R samples, given as how often each cell is in it [R, n]."""


def spearman(
    a: Float[np.ndarray, ' n'], b: Float[np.ndarray, ' n'], counts: Int[np.ndarray, 'R n']
) -> Float[np.ndarray, ' R']:
    """Spearman's ρ, ties sharing their mean rank; NaN where either side has a single value."""
    total = counts.sum(1, keepdims=True)
    ranks = [counts @ ((x[:, None] < x) + 0.5 * (x[:, None] == x)) for x in (a, b)]  # less a half
    ranks = [rank - (counts * rank).sum(1, keepdims=True) / total for rank in ranks]
    return _ratio(*((counts * x * y).sum(1) for x, y in ((ranks[0], ranks[1]), (ranks[0],) * 2, (ranks[1],) * 2)))


def kendall(
    a: Float[np.ndarray, ' n'], b: Float[np.ndarray, ' n'], counts: Int[np.ndarray, 'R n']
) -> Float[np.ndarray, ' R']:
    """Kendall's τ-b; NaN where either side has a single value."""
    signs = [np.sign(x[:, None] - x) for x in (a, b)]
    products = (signs[0] * signs[1], signs[0] ** 2, signs[1] ** 2)
    return _ratio(*(np.einsum('ri,ij,rj->r', counts, product, counts, optimize=True) for product in products))


def _ratio(both: np.ndarray, first: np.ndarray, second: np.ndarray) -> Float[np.ndarray, ' R']:
    norm = np.sqrt(first * second)
    return np.divide(both, norm, out=np.full(len(norm), np.nan), where=norm > 0)


def correlation(
    of: Statistic, a: Float[np.ndarray, ' n'], b: Float[np.ndarray, ' n'], *, resamples: int = RESAMPLES
) -> Correlation:
    """A rank correlation and its percentile interval from a bootstrap over cells, the same every time.

    Cells that failed on either side are left out; resamples without two different values are, too.
    """
    sound = np.isfinite(a) & np.isfinite(b)
    a, b = a[sound], b[sound]
    counts = np.random.default_rng(0).multinomial(len(a), np.full(len(a), 1 / len(a)), size=resamples)
    values = of(a, b, counts)
    values = values[np.isfinite(values)]
    low, high = np.quantile(values, [(1 - LEVEL) / 2, (1 + LEVEL) / 2]) if len(values) else (np.nan, np.nan)
    return Correlation(float(of(a, b, np.ones((1, len(a)), int))[0]), float(low), float(high))
