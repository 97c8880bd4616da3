"""Cells in the official file format, a list of branches with the keys op, kernel, rate, grid_size, input.

The format is that of tensorflow/models research/deeplab/core/dense_prediction_cell_branch5_top1_cityscapes.json. Other
keys are left out, as the official parser leaves them: it writes some itself (`target_size`, a pooling's `kernel`), and
tools add names and notes. What an operator needs must be there, so a key that is misspelt is missed.
"""

import contextlib
import json
from collections.abc import Callable, Iterator
from typing import Any

from dpc_jax.base import FEATURES, InputError, Size
from dpc_jax.spaces.dpc.genotype import Genotype, check_input, make_genotype
from dpc_jax.spaces.dpc.operators import GRIDS, INDEX, OPS, RATES, Op


def to_json(genotype: Genotype) -> str:
    """The text of a file that holds an unbatched genotype; see `Space.to_json`."""
    entries = [
        json.dumps({**_OP_TO_JSON[OPS[op].kind](OPS[op]), 'input': int(source)})
        for source, op in zip(genotype.inputs, genotype.ops, strict=True)
    ]
    return '[' + ',\n '.join(entries) + ']\n'


def parse(text: str, source: str = 'genotype') -> Genotype:
    """Reads a cell of any number of branches in the official format; see `Space.from_json`."""
    try:
        entries = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InputError(f'{source}: not JSON: {error}') from error
    if not isinstance(entries, list) or not entries:
        raise InputError(f'{source}: found {type(entries).__name__} {str(entries)[:40]}; expected a list of branches')
    inputs, ops = [], []
    for branch, entry in enumerate(entries):
        with _located(f'{source}: branch {branch}'):
            if not isinstance(entry, dict):
                raise InputError(f'found {entry!r}; expected an object with the keys op and input')
            ops.append(INDEX[_op_from_json(entry)])
        inputs.append(_input_from_json(source, branch, entry))
    return make_genotype(inputs, ops)


_OP_TO_JSON: dict[str, Callable[[Op], dict[str, Any]]] = {
    'conv1x1': lambda op: {'op': 'conv', 'kernel': 1},
    'separable': lambda op: {'op': 'conv', 'kernel': 3, 'rate': list(op.rate or ())},
    'pooling': lambda op: {'op': 'pyramid_pooling', 'grid_size': list(op.grid or ())},
}


@contextlib.contextmanager
def _located(place: str) -> Iterator[None]:
    """Puts the place in front of the message of an InputError raised within."""
    try:
        yield
    except InputError as error:
        raise InputError(f'{place}: {error}') from None


def _op_from_json(entry: dict[str, Any]) -> Op:
    name = entry.get('op')
    if name not in ('conv', 'pyramid_pooling'):
        raise InputError(f"op {name!r}; allowed: 'conv', 'pyramid_pooling'")
    if name == 'pyramid_pooling':
        return Op('pooling', grid=_pair(entry, 'grid_size', GRIDS))
    kernel = _pair(entry, 'kernel', (1, 3))
    if kernel == (1, 1):
        return Op('conv1x1')
    if kernel == (3, 3):
        return Op('separable', rate=_pair(entry, 'rate', RATES))
    raise InputError(f'kernel {list(kernel)}; allowed: 1 or 3, the same for height and width')


def _pair(entry: dict[str, Any], key: str, allowed: tuple[int, ...]) -> Size:
    if key not in entry:
        raise InputError(f'key {key!r} is missing; allowed values: {allowed}')
    value = entry[key]
    pair = value if isinstance(value, list) else [value, value]
    if len(pair) != 2 or any(isinstance(v, bool) or v not in allowed for v in pair):
        raise InputError(f'{key} {value!r}; allowed: {allowed} for height and for width')
    return int(pair[0]), int(pair[1])


def _input_from_json(source: str, branch: int, entry: dict[str, Any]) -> int:
    with _located(source):
        if 'input' not in entry:
            raise InputError(f"branch {branch}: key 'input' is missing; it may be -1 or an earlier branch")
        value = entry['input']
        if isinstance(value, bool) or not isinstance(value, int):
            raise InputError(f'branch {branch}: input {value!r}; expected an integer')
        value = max(value, FEATURES)
        check_input(branch, value)
    return value
