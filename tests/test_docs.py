"""README and docs: what they link and name exists, every command line that they show parses, every snippet runs."""

import ast
import functools
import importlib
import itertools
import pathlib
import re
import shlex
import tomllib
from typing import NamedTuple

import pytest
from absl import flags
from ml_collections import config_flags

from tests import test_configs

pytestmark = pytest.mark.usefixtures('quick_compilation')

ROOT = pathlib.Path(__file__).resolve().parent.parent
DOCUMENTS = ['README.md', 'experiments/README.md', *sorted(f'docs/{path.name}' for path in ROOT.glob('docs/*.md'))]
SECTIONS = ['What is not here', 'Two commands', 'In Python', 'Paper and reached', 'Search', 'Train', 'Layout']

FENCED = re.compile(r'^```(\w*)\n(.*?)^```', re.DOTALL | re.MULTILINE)
SPAN = re.compile(r'`([^`]+)`')
LINK = re.compile(r'\[[^]]*\]\(([^)\s]+)\)')
NAMED = re.compile(r'(?:configs|docs|dpc_jax|examples|experiments|results|tests)/[\w./*-]*')

FOREIGN = {'help', 'logdir', 'requeue', 'signal'}
"""Flags of other programs."""


class Command(NamedTuple):
    """A command line that a document shows."""

    document: str
    argv: tuple[str, ...]

    def __str__(self) -> str:
        return f'{self.document}: {" ".join(self.argv)}'


def read(document):
    return (ROOT / document).read_text(encoding='utf-8')


def prose(document):
    return FENCED.sub('', read(document))


def spans(document):
    return [' '.join(span.split()) for span in SPAN.findall(prose(document))]


def blocks(document, language):
    return [text for name, text in FENCED.findall(read(document)) if name == language]


def anchors(document):
    heads = re.findall(r'^#+ (.+)$', prose(document), re.MULTILINE)
    return {re.sub(r'[^\w -]', '', head.lower()).replace(' ', '-') for head in heads}


def commands_of(text):
    """Command lines of a shell text; variables of a loop have their first value, what the shell puts in is X."""
    text = re.sub(r'\$\([^)]*\)', 'X', re.sub(r'\\\n\s*', '', text))
    for name, value in re.findall(r'for (\w+) in (\S+)', text):
        text = re.sub(rf'\${name}\b|\${{{name}}}', value.strip(';'), text)
    for line in re.split(r'\n|; ', text):
        command = re.search(r'(?:^|(?<=\s))(?:python|make|pytest|pip) .*', line)
        if command:
            yield tuple(shlex.split(command[0], comments=True))


def commands():
    for document in DOCUMENTS:
        shown = [*blocks(document, ''), *spans(document)]
        for argv in dict.fromkeys(itertools.chain.from_iterable(map(commands_of, shown))):
            yield Command(document, argv)


@functools.cache
def definitions(script):
    """The calls that define the flags of a script and of the modules of `experiments` that it imports."""
    tree = ast.parse((ROOT / script).read_text())
    found = [
        node
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr.startswith('DEFINE_')
    ]
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or '').split('.')[0] == 'experiments':
            names = [alias.name for alias in node.names] if node.module == 'experiments' else [node.module[12:]]
            for name in names:
                found += definitions(f'experiments/{name}.py')
    return found


def parsed(script, argv):
    """The flags of a command line, parsed as the script does; absl and ml_collections say what is wrong with it."""
    values = flags.FlagValues()
    for call in definitions(script):
        name = ast.literal_eval(call.args[0])
        if name in values:
            continue
        if call.func.attr == 'DEFINE_config_file':
            config_flags.DEFINE_config_file(name, None, '', flag_values=values, sys_argv=[script, *argv])
        elif call.func.attr == 'DEFINE_enum':
            flags.DEFINE_string(name, None, '', flag_values=values)  # its values may be a name of another module
        else:
            getattr(flags, call.func.attr)(name, None, '', flag_values=values)
    rest = values([script, *argv])
    assert rest == [script]
    if 'config' in values and values.config is not None:
        values.config.get('journey')  # the file is read only now
    return values


@functools.cache
def config_fields():
    return {
        field
        for name, arg in test_configs.ARGS
        for field in test_configs.fields(importlib.import_module(f'configs.{name}').get_config(arg))
    }


# ---- the documents --------------------------------------------------------------------------------------------------


def test_the_readme_is_short_and_in_order():
    text = read('README.md')
    assert len(text.splitlines()) <= 180
    assert re.findall(r'^## (.+)$', text, re.MULTILINE) == SECTIONS
    first, figure = text.split('\n## ')[0].split('\n\n')[1:]
    assert first.startswith('Architecture search')
    assert figure.startswith('![')


@pytest.mark.parametrize('document', DOCUMENTS)
def test_lines_are_at_most_120_wide(document):
    assert [line for line in read(document).splitlines() if len(line) > 120 and not line.startswith('|')] == []


@pytest.mark.parametrize('document', DOCUMENTS)
def test_links_lead_somewhere(document):
    for target in LINK.findall(prose(document)):
        if not target.startswith('http'):
            path, _, anchor = target.partition('#')
            place = ((ROOT / document).parent / path).resolve() if path else ROOT / document
            assert place.exists(), target
            assert not anchor or anchor in anchors(place.relative_to(ROOT)), target


def test_the_readme_links_every_page():
    linked = {target.partition('#')[0] for target in LINK.findall(read('README.md'))}
    assert {document for document in DOCUMENTS if document != 'README.md'} <= linked


@pytest.mark.parametrize('document', DOCUMENTS)
def test_files_that_are_named_exist(document):
    for span in spans(document):
        if NAMED.fullmatch(span):
            folder = ROOT / 'experiments' if span.startswith('results/') else ROOT
            assert list(folder.glob(span)), span


@pytest.mark.parametrize('document', DOCUMENTS)
def test_flags_and_fields_that_are_named_exist(document):
    known_fields = config_fields()
    sections = {field.split('.')[0] for field in known_fields if '.' in field} - {'dataset'}
    scripts = ['run.py', *(f'experiments/{path.name}' for path in (ROOT / 'experiments').glob('*.py'))]
    known_flags = {ast.literal_eval(call.args[0]) for script in scripts for call in definitions(script)}
    for word in itertools.chain.from_iterable(span.split() for span in spans(document)):
        name = word.partition('=')[0]
        if name.startswith('--config.'):
            assert name.removeprefix('--config.') in known_fields, word
        elif name.startswith('--'):
            assert name[2:] in known_flags | FOREIGN, word
        elif name.split('.')[0] in sections and re.fullmatch(r'[a-z_]+(\.(?!(?:txt|py)$)[a-z_]+)+', name):
            assert name in known_fields, word


def test_pages_that_the_code_mentions_have_these_headings():
    files = [
        *ROOT.glob('*.py'),
        *(path for name in ('configs', 'dpc_jax', 'experiments') for path in (ROOT / name).rglob('*.py')),
    ]
    for path in files:
        text = ' '.join(path.read_text().split())
        for document, heading in re.findall(r'(README|docs/\w+\.md), "([^"]+)"', text):
            name = 'README.md' if document == 'README' else document
            assert re.search(rf'^#+ {re.escape(heading)}$', read(name), re.MULTILINE), (
                f'{path.name}: {document}, {heading}'
            )
        for document in re.findall(r'\bdocs/\w+\.md', text):
            assert (ROOT / document).exists(), f'{path.name}: {document}'


def test_every_script_has_a_row():
    rows = set(re.findall(r'^\| `(\w+\.py)`', read('experiments/README.md'), re.MULTILINE))
    scripts = {path.name for path in (ROOT / 'experiments').glob('*.py') if '__main__' in path.read_text()}
    assert scripts - rows == {'run_network.py'}  # is a loader that the exporting scripts copy
    assert not rows - scripts


def test_the_layout_names_every_file():
    (layout,) = (block for block in blocks('README.md', '') if 'dpc_jax/\n' in block)
    named = set(
        re.findall(r'(?<=[ \n])\w+(?:\.py|/)(?= |\n)', layout.partition('dpc_jax/')[2].partition('experiments/')[0])
    )
    there = {f'{path.name}/' if path.is_dir() else path.name for path in (ROOT / 'dpc_jax').iterdir()}
    assert named == there - {'__pycache__/', 'py.typed'}
    for name in re.findall(r'^(\S+?)/? ', layout, re.MULTILINE):
        assert (ROOT / name).exists(), name


# ---- command lines --------------------------------------------------------------------------------------------------


@pytest.mark.filterwarnings('ignore:the load_module:DeprecationWarning')  # of ml_collections
@pytest.mark.parametrize('command', list(commands()), ids=str)
def test_a_command_line_is_one_that_works(command, monkeypatch):
    monkeypatch.chdir(ROOT)
    tool, *argv = command.argv
    if tool == 'make':
        targets = re.findall(r'^(\w+):.*##', read('Makefile'), re.MULTILINE)
        assert [word for word in argv if '=' not in word and word not in targets] == []
    elif tool == 'pytest':
        assert [word for word in argv if not pathlib.Path(word).exists()] == []
    elif tool == 'pip':
        wanted = argv[argv.index('-r') + 1] if '-r' in argv else argv[1].partition('[')[0]
        assert pathlib.Path(wanted).exists()
        extras = re.findall(r'\[(\w+)\]', ' '.join(argv))
        assert set(extras) <= set(tomllib.loads(read('pyproject.toml'))['project']['optional-dependencies'])
    else:
        script, *given = argv
        parsed(script, [word for word in given if word != '--help' and not word.endswith('=...')])


@pytest.mark.filterwarnings('ignore:the load_module:DeprecationWarning')  # of ml_collections
@pytest.mark.parametrize(
    ('script', 'argv'),
    [
        ('run.py', ('--config=configs/camvid.py', '--config.train.stepz=3')),
        ('run.py', ('--config=configs/camvid.py', '--config.train.steps=many')),
        ('run.py', ('--config=configs/absent.py',)),
        ('experiments/proxy_noise.py', ('--sedes=2',)),
        ('experiments/proxy_noise.py', ('--seeds=two',)),
    ],
)
def test_a_command_line_that_does_not_work_is_noticed(script, argv, monkeypatch):
    monkeypatch.chdir(ROOT)
    with pytest.raises((flags.Error, AttributeError, OSError, ValueError)):
        parsed(script, argv)


def test_the_commands_of_a_text_are_found():
    text = 'for seed in 0 1; do\n  python run.py --a=$seed \\\n    --b="(1, 2)"   # why\n'
    text += 'done; pytest x.py\nls; srun python run.py'
    assert list(commands_of(text)) == [
        ('python', 'run.py', '--a=0', '--b=(1, 2)'),
        ('pytest', 'x.py'),
        ('python', 'run.py'),
    ]


# ---- snippets -------------------------------------------------------------------------------------------------------

SNIPPETS = [(document, number) for document in DOCUMENTS for number in range(len(blocks(document, 'python')))]


@pytest.mark.parametrize(('document', 'number'), SNIPPETS)
def test_a_snippet_is_python(document, number):
    ast.parse(blocks(document, 'python')[number])


@pytest.mark.slow
@pytest.mark.parametrize(('document', 'number'), SNIPPETS)
def test_a_snippet_runs_at_toy_size(document, number, drawn, tmp_path):
    text = blocks(document, 'python')[number]
    text = re.sub(r"'configs/(\w+)\.py'", rf"'{ROOT}/configs/\1.py:toy'", text)
    text = (
        text.replace('Space(5)', 'Space(2)')
        .replace("'runs/", f"'{tmp_path}/")
        .replace("'/data/camvid'", f"'{drawn('camvid')}'")
    )
    text = re.sub(r'\b64\)', '3)', text)  # cells
    exec(compile(text, f'{document}, snippet {number}', 'exec'), {'__name__': 'snippet'})
