"""The floors of the house: who may import whom, and who may touch files. Read from the sources, nothing is run.

Within a floor a room may import those listed before it, so the imports of the project have no cycle.
"""

import ast
import pathlib
from collections.abc import Iterator

import pytest

ROOT = pathlib.Path(__file__).resolve().parent.parent

FLOORS = (
    # Words: these import base alone.
    (
        *('base', 'checks', 'files', 'command_line', 'stopping', 'palette', 'read_ahead'),
        *('metrics', 'losses', 'preprocess', 'spaces'),
    ),
    # Parts.
    (
        *('progress', 'provenance', 'sharding', 'initial', 'norms', 'ops', 'fused', 'dynamic_cell'),
        *('convolution', 'context', 'aspp', 'decoder', 'aux_decoder', 'backbones', 'controller'),
        *(
            'canvas',
            'image_files',
            'list_files',
            'coco_annotations',
            'matlab_files',
            'box_files',
            'people',
            'datasets',
            'label_counts',
            'label_pictures',
            'depth',
            'pose',
            'drawn_people',
            'drawn_data',
            'weights',
            'found_cells',
        ),
    ),
    # Wholes.
    (
        'cell',
        'cell_transfer',
        'heads',
        'contexts',
        'segmenter',
        'counting',
        'folding',
        'networks',
        'task',
        'tasks',
        'inference',
        'study',
        'samplers',
    ),
    # Makers.
    (
        *('padding', 'feature_cache', 'pretrain', 'input_pipeline', 'evaluation', 'training'),
        *('proxy_settings', 'proxy', 'streaming', 'seats', 'chunks', 'population', 'fastest_chunk', 'end_to_end'),
        *('two_stages', 'memory', 'figures', 'export', 'ladder', 'strategy', 'described', 'teacher', 'frozen'),
        *('assembly', 'second_stage', 'prediction'),
    ),
    # Journeys.
    ('cell_files', 'scores', 'climbing', 'rerank', 'bench', 'journeys', 'api'),
)
MENUS = ('spaces', 'heads', 'contexts', 'backbones', 'datasets', 'samplers', 'tasks', 'journeys')
ROOMS = {
    'weights': ('foreign', 'tf_bundle', 'tf_import', 'checkpoint'),
    'study': (
        *('workers', 'patience', 'journal', 'storage', 'index', 'gate', 'batch', 'halving', 'rows', 'progress'),
        *('study', 'archive'),
    ),
    'evaluation': ('scorer', 'report', 'results', 'config'),
    'prediction': ('images', 'tiles', 'predictor', 'results', 'page'),
    'depth': ('losses', 'metrics', 'pictures'),
    'pose': ('geometry', 'heat_maps', 'oks', 'pck', 'report', 'pictures'),
    'training': ('optimizer', 'step', 'log', 'checkpoint', 'pictures', 'config'),
    'datasets.folders': ('description', 'labels', 'trees', 'splits'),
    'spaces.dpc': ('operators', 'genotype', 'official_json', 'cost', 'space'),
    'spaces.aux_cells': ('operators', 'genotype', 'formats', 'cost', 'space'),
    'aux_decoder': ('module', 'tape', 'kernels', 'registers', 'interpreter', 'machine'),
    'fused': ('tiles', 'blocks', 'maps', 'products', 'loss'),
    'dynamic_cell': ('params', 'facts', 'passes', 'plain', 'fast'),
    'figures': ('cell_layout', 'cell_drawing', 'pictures', 'table', 'rungs', 'text', 'report'),
}
"""Packages with one door, and their files; each may import those listed before it. Others in `dpc_jax` import what the
door names."""

OF_ANY_SPACE = ('dpc_jax.figures', 'dpc_jax.study')  # these ask a space by its protocol, and know no single one
SPACES = tuple(path.stem for path in (ROOT / 'dpc_jax/spaces').iterdir() if not path.name.startswith('_'))
OF_A_CONFIG = ('ml_collections', 'configs.common')
TOUCH_FILES = (
    *('files', 'image_files', 'list_files', 'datasets', 'drawn_data', 'found_cells', 'contexts', 'weights'),
    *('box_files', 'matlab_files', 'drawn_people', 'people'),
    *('feature_cache', 'study'),
    *('figures', 'evaluation', 'training', 'cell_files', 'rerank', 'bench', 'journeys', 'api', 'export'),
    *('described', 'prediction'),
)

TENSORFLOW = (
    'tensorflow',
    # These import it.
    'flax.metrics.tensorboard',
    'clu.metric_writers',
    'clu.periodic_actions',
    'clu.checkpoint',
)
FILE_CALLS = (
    'open',
    *(f'numpy.{name}' for name in ('load', 'loadtxt', 'genfromtxt', 'fromfile', 'memmap')),
    *(f'numpy.{name}' for name in ('save', 'savez', 'savez_compressed', 'savetxt')),
    *(f'{library}.{name}' for library in ('json', 'pickle') for name in ('load', 'dump')),
    'sqlite3.connect',
    'cv2.imread',
    'cv2.imwrite',
    *(f'dpc_jax.files.{name}' for name in ('write', 'whole', 'remove', 'make_folder', 'sha256')),
)
OF_THE_ROOM = ('dpc_jax.study.Study.open',)  # the file is opened in study, whoever asks for it
FILE_METHODS = ('open', 'read_text', 'read_bytes', 'write_text', 'write_bytes', 'tofile', 'savefig')


def shipped() -> dict[str, pathlib.Path]:
    """Dotted name -> file of everything that is run or imported in production."""
    paths = [
        ROOT / 'run.py',
        *(path for room in ('dpc_jax', 'configs', 'experiments') for path in (ROOT / room).rglob('*.py')),
    ]
    return {name_of(path.relative_to(ROOT)): path for path in sorted(paths) if path.exists()}


def name_of(path: pathlib.Path) -> str:
    return '.'.join(path.with_suffix('').parts).removesuffix('.__init__')


def faults(module: str, source: str, known: set[str]) -> list[str]:
    """What `source`, read as the text of `module`, does against the rules; `known` are the project's modules."""
    tree = ast.parse(source)
    found = []
    for name in imports(tree):
        found += import_faults(module, target_of(name, known))
    house = module.split('.')[0]
    room = '.'.join(module.split('.')[1:2])
    if house == 'dpc_jax' and room and floor(module) is None:
        found.append(f'{module} has no floor: give it a floor in test_floors.py')
    if house == 'dpc_jax':
        found += [f'{module} compares with the name of a space, line {line}' for line in named_spaces(tree)]
    if house != 'experiments' and room not in TOUCH_FILES:  # the scripts' own output is theirs: nothing imports them
        found += [f'{module} touches a file: {call}, line {line}' for call, line in file_calls(tree)]
    return found


def named_spaces(tree: ast.Module) -> Iterator[int]:
    """Lines in which something is compared with the name of a space: what differs between spaces is asked of them."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Compare):
            sides = [leaf for side in (node.left, *node.comparators) for leaf in ast.walk(side)]
            if any(isinstance(leaf, ast.Constant) and leaf.value in SPACES for leaf in sides):
                yield node.lineno


def import_faults(module: str, target: str) -> Iterator[str]:
    if target.startswith('.'):
        yield f'{module} imports {target}: imports are absolute'
    elif under(target, TENSORFLOW):
        yield f'{module} imports {target}, and with it TensorFlow'
    elif under(target, ('run',)) or (under(target, ('experiments',)) and not under(module, ('experiments',))):
        yield f'{module} imports {target}, which nothing may import'
    elif under(module, ('configs',)) and not under(target, OF_A_CONFIG):
        yield f'{module} imports {target}; a config may import {" and ".join(OF_A_CONFIG)} only'
    elif under(module, ('dpc_jax.spaces',)) and under(target, ('flax',)):
        yield f'{module} imports {target}: a space builds no layer'
    elif under(module, OF_ANY_SPACE) and target.startswith('dpc_jax.spaces.'):
        yield f'{module} imports {target}: it is for any space'
    elif under(module, ('dpc_jax',)) and past_the_door(module, target):
        yield f'{module} imports {target}, past the door: a room is imported by what its __init__ names'
    elif under(module, ('dpc_jax',)) and under(target, ('dpc_jax', 'configs')) and not downward(module, target):
        yield f'{module} (floor {floor(module)}) imports {target} (floor {floor(target)}), which is not below it'


def under(module: str, names: tuple[str, ...]) -> bool:
    return any(module == name or module.startswith(f'{name}.') for name in names)


def floor(module: str) -> int | None:
    rank = rank_of(module)
    return rank and rank[0]


def rank_of(module: str) -> tuple[int, ...] | None:
    """(floor, place on the floor, place in the menu or room, ...), compared as tuples; None for no such room.

    The `__init__` of a menu comes before its files, which are equals; that of a room after all of its files. The face
    of the package stands above everything.
    """
    house, *inside = module.split('.')
    if house != 'dpc_jax':
        return None
    if not inside:
        return (len(FLOORS),)
    room, *files = inside
    place = next(((level, rooms.index(room)) for level, rooms in enumerate(FLOORS) if room in rooms), None)
    below = place_in(room, files)
    return None if place is None or below is None else (*place, *below)


def place_in(room: str, files: list[str]) -> tuple[int, ...] | None:
    if room in ROOMS:
        if not files:
            return (len(ROOMS[room]),)
        return (ROOMS[room].index(files[0]),) if len(files) == 1 and files[0] in ROOMS[room] else None
    if not files:
        return (0,)
    if room not in MENUS:
        return None
    if f'{room}.{files[0]}' in ROOMS:  # a file of the menu that is a folder
        below = place_in(f'{room}.{files[0]}', files[1:])
        return None if below is None else (1, *below)
    return (1,) if len(files) == 1 else None


def downward(module: str, target: str) -> bool:
    above, below = rank_of(module), rank_of(target)
    if above is None or below is None:
        return False
    ours, theirs = module.split('.'), target.split('.')
    of_one_room = ours[:2] == theirs[:2]
    if of_one_room and ours[1] in MENUS and len(ours) > 2 and len(theirs) > 2 and ours[2] != theirs[2]:
        return False  # the files of a menu are equals
    if above[0] == 0 and target != 'dpc_jax.base' and not of_one_room:
        return False
    return below < above


def past_the_door(module: str, target: str) -> bool:
    """Whether `target` is a file of a room that `module` is not in."""
    return any(target.startswith(f'dpc_jax.{room}.') and not under(module, (f'dpc_jax.{room}',)) for room in ROOMS)


def imports(tree: ast.Module) -> Iterator[str]:
    """Dotted names, those after `from` included (`from a import b` gives `a.b`), and calls of `import_module`."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from (f'{"." * node.level}{node.module or ""}.{alias.name}' for alias in node.names)
        elif isinstance(node, ast.Call) and dotted(node.func).endswith('import_module') and node.args:
            yield beginning(node.args[0])


def beginning(text: ast.expr) -> str:
    """The part of a string that is written out: all of a constant, and an f-string up to its first value."""
    first = text.values[0] if isinstance(text, ast.JoinedStr) else text
    return str(first.value).rstrip('.') if isinstance(first, ast.Constant) else ''


def target_of(name: str, known: set[str]) -> str:
    """The module of the project that holds `name` (`dpc_jax.base.InputError` is in `dpc_jax.base`), else `name`."""
    parts = name.split('.')
    holders = ['.'.join(parts[:end]) for end in range(len(parts), 1, -1)]
    return next((holder for holder in holders if holder in known), name)


def file_calls(tree: ast.Module) -> Iterator[tuple[str, int]]:
    full = dict(aliases(tree))
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call):
            continue
        first, *rest = dotted(node.func).split('.')
        call = '.'.join([full.get(first, first), *rest])
        if call in FILE_CALLS or (rest and rest[-1] in FILE_METHODS and call not in OF_THE_ROOM):
            yield call, node.lineno


def aliases(tree: ast.Module) -> Iterator[tuple[str, str]]:
    """Name in the file -> what it stands for: `np` -> `numpy`, and `load` -> `numpy.load` after `from numpy`."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((alias.asname, alias.name) for alias in node.names if alias.asname)
        elif isinstance(node, ast.ImportFrom):
            yield from ((alias.asname or alias.name, f'{node.module}.{alias.name}') for alias in node.names)


def dotted(node: ast.expr) -> str:
    """`a.b.c` of a chain of attributes; what is no name is left empty (`f(x).open` gives `.open`)."""
    if isinstance(node, ast.Attribute):
        return f'{dotted(node.value)}.{node.attr}'
    return node.id if isinstance(node, ast.Name) else ''


SHIPPED = shipped()


def test_something_is_read():
    assert {'dpc_jax.base', 'dpc_jax.spaces', 'dpc_jax.spaces.dpc'} <= set(SHIPPED)


@pytest.mark.parametrize('module', SHIPPED)
def test_floors(module):
    assert faults(module, SHIPPED[module].read_text(), set(SHIPPED)) == []


KNOWN = {'dpc_jax', 'dpc_jax.utils', 'run', 'experiments.table_1', 'configs.common', 'configs.scenes_search'}
KNOWN |= {f'dpc_jax.{room}' for rooms in FLOORS for room in rooms}
KNOWN |= {f'dpc_jax.{room}.{file}' for room, files in ROOMS.items() for file in files}
KNOWN |= {
    'dpc_jax.journeys.search',
    'dpc_jax.datasets.camvid',
    'dpc_jax.datasets.scenes',
    'dpc_jax.spaces.dpc',
    'dpc_jax.spaces.aux_cells',
}


@pytest.mark.parametrize(
    ('module', 'source', 'fault'),
    [
        ('dpc_jax.ops', 'from dpc_jax.cell import Cell', 'which is not below it'),
        ('dpc_jax.ops', 'from dpc_jax import cell', 'which is not below it'),
        ('dpc_jax.ops', 'import dpc_jax.journeys.search as s', 'which is not below it'),
        ('dpc_jax.ops', 'def f():\n    import dpc_jax.journeys.search', 'which is not below it'),
        ('dpc_jax.ops', 'from dpc_jax import heads', 'which is not below it'),
        ('dpc_jax.ops', 'from . import base', 'imports are absolute'),
        ('dpc_jax.ops', 'import configs.common', 'which is not below it'),
        ('dpc_jax.ops', 'import dpc_jax', 'which is not below it'),
        ('dpc_jax.ops', 'from dpc_jax import utils', 'which is not below it'),
        ('dpc_jax.cell', 'import importlib\nimportlib.import_module("dpc_jax.proxy")', 'which is not below it'),
        ('dpc_jax.cell', 'from importlib import import_module\nimport_module(f"dpc_jax.samplers.{x}")', 'not below it'),
        ('dpc_jax.losses', 'from dpc_jax.metrics import miou', 'which is not below it'),
        ('dpc_jax.datasets', 'from dpc_jax.datasets import camvid', 'which is not below it'),
        ('dpc_jax.datasets.scenes', 'from dpc_jax.datasets import camvid', 'which is not below it'),
        ('dpc_jax.study', 'from dpc_jax import study', 'which is not below it'),
        ('dpc_jax.study.rows', 'from dpc_jax.study import study', 'which is not below it'),
        ('dpc_jax.study.rows', 'from dpc_jax.study import Study', 'which is not below it'),
        ('dpc_jax.journeys.search', 'from dpc_jax.study import rows', 'past the door'),
        ('dpc_jax.journeys.search', 'from dpc_jax.study.rows import Candidate', 'past the door'),
        ('dpc_jax.weights.checkpoint', 'from dpc_jax.study.rows import Candidate', 'past the door'),
        ('dpc_jax.study.notes', '', 'give it a floor'),
        ('dpc_jax.ops', 'from dpc_jax import files\nfiles.write("x", "")', 'touches a file: dpc_jax.files.write'),
        ('dpc_jax.utils', '', 'give it a floor'),
        ('dpc_jax.datasets.voc.read', '', 'give it a floor'),
        ('dpc_jax.cell.tree', '', 'give it a floor'),
        ('dpc_jax.spaces.dpc.tree', '', 'give it a floor'),
        ('dpc_jax.spaces.dpc.operators', 'from dpc_jax.spaces.dpc.cost import count', 'which is not below it'),
        ('dpc_jax.cell', 'from dpc_jax.spaces.dpc.cost import count', 'past the door'),
        ('dpc_jax.spaces.dpc', 'from flax import linen as nn', 'builds no layer'),
        ('dpc_jax.spaces.dpc', 'from dpc_jax.spaces import aux_cells', 'which is not below it'),
        ('dpc_jax.figures.pictures', 'from dpc_jax.spaces import dpc', 'it is for any space'),
        ('configs.scenes_search', 'import os', 'a config may import'),
        ('configs.scenes_search', 'from dpc_jax.spaces import dpc', 'a config may import'),
        ('configs.scenes_search', 'from configs import scenes_search', 'a config may import'),
        ('dpc_jax.journeys.search', 'import run', 'which nothing may import'),
        ('run', 'from experiments.table_1 import rows', 'which nothing may import'),
        ('experiments.table_1', 'import tensorflow as tf', 'TensorFlow'),
        ('dpc_jax.journeys.search', 'from clu import metric_writers', 'TensorFlow'),
        ('run', 'open("x")', 'touches a file: open, line 1'),
        ('dpc_jax.ops', 'path.read_text()', 'touches a file: path.read_text'),
        ('dpc_jax.ops', 'import pathlib\npathlib.Path("x").write_bytes(b"")', 'touches a file: .write_bytes'),
        ('dpc_jax.ops', 'from PIL import Image\nImage.open("x")', 'touches a file: PIL.Image.open'),
        ('dpc_jax.ops', 'import numpy as np\nnp.load("x")', 'touches a file: numpy.load'),
        ('dpc_jax.ops', 'from numpy import load as read\nread("x")', 'touches a file: numpy.load'),
        ('dpc_jax.ops', 'import sqlite3\nsqlite3.connect("x")', 'touches a file: sqlite3.connect'),
        ('configs.common', 'open("x")', 'touches a file: open'),
        (
            'dpc_jax.ops',
            'def f(space):\n    if space.name == "dpc":\n        return 1',
            'compares with the name of a space',
        ),
        ('dpc_jax.ops', 'f = lambda space: space.name in ("dpc", "other")', 'compares with the name of a space'),
    ],
)
def test_a_forged_fault_is_found(module, source, fault):
    found = faults(module, source, KNOWN)
    assert len(found) == 1
    assert fault in found[0]


@pytest.mark.parametrize(
    ('module', 'source'),
    [
        ('dpc_jax', ''),
        ('dpc_jax.ops', 'from dpc_jax.base import Size\nfrom dpc_jax.spaces import dpc\nfrom flax import linen as nn'),
        ('dpc_jax.decoder', 'from dpc_jax import ops'),
        ('dpc_jax.spaces.dpc', 'import jax\nfrom dpc_jax.base import Genotype'),
        ('dpc_jax.datasets.camvid', 'from dpc_jax.datasets import Dataset\nopen("x")'),
        ('dpc_jax.datasets.camvid', 'from PIL import Image\nImage.open("x")'),
        ('dpc_jax.segmenter', 'from dpc_jax.cell import Cell'),
        ('dpc_jax.journeys.search', 'from dpc_jax.study import Study\nfrom dpc_jax import study'),
        ('dpc_jax.study.study', 'from dpc_jax.study.rows import Candidate\nfrom dpc_jax.study import batch'),
        ('experiments.table_1', 'from dpc_jax.study.rows import Candidate'),
        ('dpc_jax.journeys.search', 'import importlib\nimportlib.import_module(f"dpc_jax.datasets.{name}")'),
        (
            'dpc_jax.journeys.search',
            'import tensorflow_datasets as tfds\nfrom dpc_jax.datasets.camvid import load\nload("x")',
        ),
        ('configs.scenes_search', 'import ml_collections\nfrom configs import common\nfrom configs.common import toy'),
        ('experiments.table_1', 'from configs import scenes_search\nfrom dpc_jax import report\nopen("x")'),
        ('run', 'from dpc_jax.journeys import search'),
    ],
)
def test_what_is_allowed_is_no_fault(module, source):
    assert faults(module, source, KNOWN) == []
