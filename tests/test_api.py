"""The conventions of the house as a test over every module of `dpc_jax`: words, order of parameters, sizes, menus."""

import ast
import importlib
import inspect
import pathlib
import pkgutil
import textwrap
import types
from collections.abc import Iterator

import pytest

import dpc_jax

MODULES = ['dpc_jax', *(found.name for found in pkgutil.walk_packages(dpc_jax.__path__, 'dpc_jax.'))]

MAX_FILE_LINES = 350
MAX_FUNCTION_LINES = 60
MAX_JOURNEY_LINES = 90  # a journey is one function, read from top to bottom
JOURNEYS = tuple(f'dpc_jax.journeys.{name}.run' for name in ('search', 'evaluate', 'train', 'predict'))
MAX_NESTING = 3
MAX_POSITIONAL = 6

MENUS = {
    **{'spaces': 'Space', 'heads': 'make', 'backbones': 'Model'},
    **{'contexts': 'make', 'datasets': 'load', 'samplers': 'make', 'tasks': 'make', 'journeys': 'run'},
}
OTHER_WORDS = {'rng': 'key', 'dilation': 'rate', 'arch': 'genotype'}

Function = ast.FunctionDef | ast.AsyncFunctionDef
BLOCKS = (ast.For, ast.AsyncFor, ast.While, ast.If, ast.With, ast.AsyncWith, ast.Try, ast.TryStar, ast.Match)


def faults(module: str, source: str) -> list[str]:
    """What `source`, read as the text of `module`, does against the conventions."""
    tree = ast.parse(source)
    found = [f'{module} has no docstring'] * (not ast.get_docstring(tree))
    lines = len(source.splitlines())
    found += [f'{module} has {lines} lines, more than {MAX_FILE_LINES}'] * (lines > MAX_FILE_LINES)
    for name, node, inherits in members(tree, module):
        found += [f'{name} has no docstring'] * ('._' not in name and not inherits and not ast.get_docstring(node))
        if isinstance(node, Function):  # functions within others are exempt: a scan says what its body takes first
            found += [f"{name}: 'key' comes first"] * key_is_late(node.args)
    for node in ast.walk(tree):
        if isinstance(node, Function | ast.Lambda):
            name = f'{module}.{getattr(node, "name", "<lambda>")}'
            found += [f"{name}: '{word}' is called '{OTHER_WORDS[word]}' here" for word in words(node.args)]
            found += size_faults(name, node)
    return found


def size_faults(name: str, node: Function | ast.Lambda) -> Iterator[str]:
    lines = node.end_lineno - node.lineno + 1
    allowed = MAX_JOURNEY_LINES if name in JOURNEYS else MAX_FUNCTION_LINES
    if lines > allowed:
        yield f'{name} has {lines} lines, more than {allowed}'
    positional = len(parameters(node.args)) - len(node.args.kwonlyargs)
    if positional > MAX_POSITIONAL:
        yield f'{name} has {positional} positional parameters, more than {MAX_POSITIONAL}'
    if nesting(node) > MAX_NESTING:
        yield f'{name} nests {nesting(node)} blocks, more than {MAX_NESTING}'


def members(tree: ast.Module, module: str) -> Iterator[tuple[str, Function | ast.ClassDef, bool]]:
    """Functions and classes at the top of the file and the methods of those classes.

    The last value says whether it is a method of a class with a base, which may have said what the method does.
    """
    for node in tree.body:
        if isinstance(node, Function | ast.ClassDef):
            yield f'{module}.{node.name}', node, False
        if isinstance(node, ast.ClassDef):
            methods = (child for child in node.body if isinstance(child, Function))
            yield from ((f'{module}.{node.name}.{method.name}', method, bool(node.bases)) for method in methods)


def key_is_late(arguments: ast.arguments) -> bool:
    """Whether a PRNG key that must be given is not the first parameter; a text may be called `key` as well."""
    late = (argument for argument in parameters(arguments)[1:] if argument.arg == 'key')
    return any(not is_text(argument.annotation) and not has_default(arguments, argument) for argument in late)


def is_text(annotation: ast.expr | None) -> bool:
    return isinstance(annotation, ast.Name) and annotation.id == 'str'


def has_default(arguments: ast.arguments, argument: ast.arg) -> bool:
    if argument in arguments.kwonlyargs:
        return arguments.kw_defaults[arguments.kwonlyargs.index(argument)] is not None
    positional = [*arguments.posonlyargs, *arguments.args]
    return positional.index(argument) >= len(positional) - len(arguments.defaults)


def parameters(arguments: ast.arguments) -> list[ast.arg]:
    """What is to be given, in order, without `self` and `cls`."""
    order = [*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs]
    return [argument for argument in order if argument.arg not in ('self', 'cls')]


def words(arguments: ast.arguments) -> list[str]:
    return [argument.arg for argument in parameters(arguments) if argument.arg in OTHER_WORDS]


def nesting(node: ast.AST) -> int:
    """Blocks within blocks in a function; an `elif` is as deep as its `if`, and a function within counts for itself."""
    deepest = 0
    for child in ast.iter_child_nodes(node):
        if isinstance(child, Function | ast.Lambda):
            continue
        deeper = isinstance(child, BLOCKS) and not is_elif(node, child)
        deepest = max(deepest, deeper + nesting(child))
    return deepest


def is_elif(parent: ast.AST, child: ast.AST) -> bool:
    return isinstance(parent, ast.If) and isinstance(child, ast.If) and parent.orelse == [child]


def menu_fault(module: types.ModuleType) -> str:
    """Why `module` is no entry of its menu, or '' where it is one or belongs to none."""
    house, *inside = module.__name__.split('.')
    name = MENUS.get(inside[0]) if len(inside) == 2 else None
    if name is None or callable(getattr(module, name, None)):
        return ''
    return f"{module.__name__} exposes no '{name}', as each file of {house}/{inside[0]} does"


def test_every_file_is_a_module_that_is_looked_at():
    files = pathlib.Path(dpc_jax.__file__).parent.rglob('*.py')
    assert len(MODULES) == len(list(files))


@pytest.mark.parametrize('name', MODULES)
def test_conventions(name):
    module = importlib.import_module(name)
    assert module.__doc__
    assert faults(name, inspect.getsource(module)) == []
    assert menu_fault(module) == ''


def forged(body: str) -> str:
    return '"""Forged."""\n' + textwrap.dedent(body)


def function(*lines: str, name: str = 'f', arguments: str = '') -> str:
    return forged(f'def {name}({arguments}):\n    """Forged."""\n' + ''.join(f'    {line}\n' for line in lines))


@pytest.mark.parametrize(
    ('source', 'fault'),
    [
        ('x = 1', 'dpc_jax.journeys.search has no docstring'),
        (forged('x = 1\n' * 350), 'has 351 lines, more than 350'),
        (forged('def f():\n    return 1'), 'dpc_jax.journeys.search.f has no docstring'),
        (forged('class C:\n    pass'), 'dpc_jax.journeys.search.C has no docstring'),
        (
            forged('class C:\n    """Forged."""\n    def m(self):\n        return 1'),
            'dpc_jax.journeys.search.C.m has no docstring',
        ),
        (function(arguments='count, key'), "dpc_jax.journeys.search.f: 'key' comes first"),
        (forged('def _f(count, key):\n    return key'), "dpc_jax.journeys.search._f: 'key' comes first"),
        (function(arguments='count, key, *, size=None'), "dpc_jax.journeys.search.f: 'key' comes first"),
        (function(arguments='count, key, size=None'), "dpc_jax.journeys.search.f: 'key' comes first"),
        (function(arguments='count, *, key'), "dpc_jax.journeys.search.f: 'key' comes first"),
        (
            forged('class C:\n    """Forged."""\n    def m(self, n, key):\n        """Forged."""'),
            "dpc_jax.journeys.search.C.m: 'key' comes first",
        ),
        (function(arguments='rng'), "'rng' is called 'key' here"),
        (function(arguments='dilation'), "'dilation' is called 'rate' here"),
        (function('def g(*, arch):', '    return arch'), "dpc_jax.journeys.search.g: 'arch' is called 'genotype' here"),
        (forged('g = lambda rng: rng'), "dpc_jax.journeys.search.<lambda>: 'rng' is called 'key' here"),
        (function(*['x = 1'] * 59), 'dpc_jax.journeys.search.f has 61 lines, more than 60'),
        (function(*['x = 1'] * 89, name='run'), 'dpc_jax.journeys.search.run has 91 lines, more than 90'),
        (function(arguments='a, b, c, d, e, f, g'), 'has 7 positional parameters, more than 6'),
        (
            function('for a in b:', ' if a:', '  with a:', '   while a:', '    a()'),
            'dpc_jax.journeys.search.f nests 4 blocks, more than 3',
        ),
        (
            function('for a in b:', ' if a: a()', ' else:', '  try:', '   with a: a()', '  finally: a()'),
            'nests 4 blocks',
        ),
    ],
)
def test_a_forged_fault_is_found(source, fault):
    found = faults('dpc_jax.journeys.search', source)
    assert len(found) == 1
    assert fault in found[0]


@pytest.mark.parametrize(
    'source',
    [
        forged('x = 1\n' * 349),
        forged('def _f():\n    return 1'),
        forged('class C:\n    """Forged."""\n    def __call__(self, key):\n        return key'),
        function(arguments='key, count, *, d, e, f, g, h, i, j'),
        forged('class _C:\n    def m(self):\n        return 1'),
        forged('class C(Base):\n    """Forged."""\n    def m(self):\n        return 1'),
        function(arguments='source, key: str'),
        function(arguments='features, train=False, key=None'),
        function(arguments='features, *, key=None'),
        function(*['x = 1'] * 58),
        function(*['x = 1'] * 88, name='run'),
        function('def step(carry, key):', '    return carry, key', 'return step'),
        function('for a in b:', ' while a:', '  if a: a()', '  elif b: b()', '  else: c()'),
    ],
)
def test_what_is_in_order_is_no_fault(source):
    assert faults('dpc_jax.journeys.search', source) == []


@pytest.mark.parametrize('menu', MENUS)
def test_a_file_without_the_name_of_its_menu_is_found(menu):
    module = types.ModuleType(f'dpc_jax.{menu}.forged')
    assert f"exposes no '{MENUS[menu]}'" in menu_fault(module)
    setattr(module, MENUS[menu], lambda: None)
    assert menu_fault(module) == ''
