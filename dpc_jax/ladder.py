"""The ladder of a search as its config says it: from many cheap scores to few dear ones (paper §3.2).

`search.ladder` lists what happens after the first cheap steps, in this order:

    ('halve', step, share)   within the proxy, after so many steps: the best share goes on from its state
    ('anew', steps, count)   the best so many, each trained anew on the proxy for so many steps
    ('full', count)          the best so many as whole networks, by `config.rerank` (the paper's last rung: 50)

So `(('halve', 3333, 1/3), ('halve', 10000, 1/3), ('full', 50))` is successive halving (Jamieson and Talwalkar 2016) on
a proxy of 30,000 steps, and then the paper's re-ranking. The best may be chosen from several families: `spread`.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import ml_collections

from dpc_jax.base import Genotype, InputError
from dpc_jax.spaces import SearchSpace

FORMS = "('halve', step, share below 1), ('anew', steps, count) or ('full', count)"
ORDER = ('halve', 'anew', 'full')


class Halve(NamedTuple):
    """After `step` steps of the proxy the best `share` goes on."""

    step: int
    share: float


class Anew(NamedTuple):
    """The best `keep` are trained anew for `steps`."""

    steps: int
    keep: int


class Ladder(NamedTuple):
    """What comes after the first steps of the proxy."""

    halvings: tuple[Halve, ...]
    anew: tuple[Anew, ...]
    full: int  # how many of the best are trained as whole networks; 0: none


def of(config: ml_collections.ConfigDict) -> Ladder:
    """The ladder of a config; see `read`."""
    return read(config.search.ladder, steps=config.proxy.steps)


def read(rungs: Sequence[Any], *, steps: int) -> Ladder:
    """The ladder of `search.ladder`; `steps` are those of the proxy.

    Raises:
      InputError: a rung of another form, rungs out of order, a halving that is not within the proxy.
    """
    found: dict[str, list[tuple[Any, ...]]] = {kind: [] for kind in ORDER}
    last = 0
    for rung in rungs:
        kind, numbers = _checked(rung)
        if ORDER.index(kind) < last:
            raise InputError(f'search.ladder has {rung} after {ORDER[last]!r}; the order is {", ".join(ORDER)}')
        last = ORDER.index(kind)
        found[kind].append(numbers)
    halvings = tuple(Halve(*numbers) for numbers in found['halve'])
    steps_of = [halving.step for halving in halvings]
    if any(step >= steps for step in steps_of) or steps_of != sorted(set(steps_of)):
        raise InputError(f'search.ladder halves at {steps_of}; steps must rise and stay below proxy.steps ({steps})')
    if len(found['full']) > 1:
        raise InputError(f"search.ladder has {len(found['full'])} rungs 'full'; allowed: one, the last")
    anew = tuple(Anew(*numbers) for numbers in found['anew'])
    return Ladder(halvings, anew, found['full'][0][0] if found['full'] else 0)


def spread(ranked: Sequence[Genotype], count: int, space: SearchSpace, apart: int) -> list[Genotype]:
    """The first `count` of genotypes (unbatched), best first, of which any two differ in at least `apart` choices.

    Strategies look near what is good, so the first few are often one family, and to climb on with all of them tells
    little. Where there are too few families, the first of the others fill the rung. Genotypes are compared as they are
    written: the same branches in another order count as far apart.
    """
    taken: dict[int, Mapping[str, Any]] = {}
    for place, genotype in enumerate(ranked):
        if len(taken) == count:
            break
        mine = space.to_params(genotype)
        differ = (sum(mine[name] != value for name, value in other.items()) for other in taken.values())
        if all(number >= apart for number in differ):
            taken[place] = mine
    others = [place for place in range(len(ranked)) if place not in taken]
    return [ranked[place] for place in sorted([*taken, *others[: count - len(taken)]])]


def _checked(rung: Any) -> tuple[str, tuple[Any, ...]]:
    kind, *numbers = rung if isinstance(rung, tuple | list) and rung else ('',)
    whole = [type(number) is int and number >= 1 for number in numbers]
    fitting = {
        'halve': len(numbers) == 2 and whole[0] and isinstance(numbers[1], float) and 0 < numbers[1] < 1,
        'anew': len(numbers) == 2 and all(whole),
        'full': len(numbers) == 1 and all(whole),
    }
    if not (isinstance(kind, str) and fitting.get(kind)):
        raise InputError(f'search.ladder has {rung}; each rung is {FORMS}')
    return kind, tuple(numbers)
