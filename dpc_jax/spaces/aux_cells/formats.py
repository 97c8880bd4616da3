"""Genotypes as people have them: nested lists as the authors print them, and flat lists of 19 or 20 numbers.

    [[8, [0, 0, 5, 2], [0, 2, 8, 8], [0, 5, 1, 4]], [[3, 3], [3, 2], [3, 0]]]     a cell, and its connections
    [8, 0, 0, 5, 2, 0, 2, 8, 8, 0, 5, 1, 4, 3, 3, 3, 2, 3, 0]                     the same in a row (Huawei's Vega)
    [0, 8, 0, 0, ...]                                                             with the dummy in front (the release)

In a layer both positions come first, then both operators.
"""

import json
from typing import Any

from dpc_jax.base import InputError
from dpc_jax.spaces.aux_cells.genotype import BLOCKS, GENES, LAYERS, Genotype, check, flat, make_genotype

FORMS = (
    f'[[op, {LAYERS} times [position, position, op, op]], [{BLOCKS} times [map, map]]], or {len(GENES)} numbers,'
    f' or {len(GENES) + 1} that begin with 0'
)


def nested(genotype: Genotype) -> list[Any]:
    """The nested lists of a genotype."""
    numbers = flat(genotype)
    layers = [numbers[1 + 4 * layer : 5 + 4 * layer] for layer in range(LAYERS)]
    start = 1 + 4 * LAYERS
    maps = [numbers[start + 2 * block : start + 2 * block + 2] for block in range(BLOCKS)]
    return [[numbers[0], *layers], maps]


def to_json(genotype: Genotype) -> str:
    """The nested lists, in one line."""
    return json.dumps(nested(genotype))


def parse(text: str, source: str = 'genotype') -> Genotype:
    """Reads any of the forms; InputError, prefixed by `source`, for what is none of them or no genotype."""
    try:
        found = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InputError(f'{source}: it is not JSON: {error}') from error
    if not isinstance(found, list):
        raise InputError(f'{source}: it is no list; allowed: {FORMS}')
    numbers = found if all(type(value) is int for value in found) else _unnested(found, source)
    if len(numbers) == len(GENES) + 1:
        dummy, *numbers = numbers
        if dummy:
            raise InputError(f'{source}: the first of {len(GENES) + 1} numbers is {dummy}; it is a dummy and always 0')
    check(numbers, source)
    return make_genotype(numbers)


def _unnested(found: list[Any], source: str) -> list[int]:
    """The numbers of nested lists of the right shape."""
    shape = [[0, *([0] * 4 for _ in range(LAYERS))], [[0] * 2 for _ in range(BLOCKS)]]
    if not _is_of_shape(found, shape):
        raise InputError(f'{source}: the lists are not nested as those of a genotype; allowed: {FORMS}')
    (op, *layers), maps = found
    return [op, *(number for part in (*layers, *maps) for number in part)]


def _is_of_shape(found: Any, shape: Any) -> bool:
    """Whether lists are nested as in `shape`, with whole numbers where it has some."""
    if isinstance(shape, int):
        return type(found) is int
    return isinstance(found, list) and len(found) == len(shape) and all(map(_is_of_shape, found, shape))
