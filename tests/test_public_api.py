"""`import dpc_jax`: few names, each with a docstring whose example runs, in a notebook and in a script."""

import inspect
import pathlib
import subprocess
import sys
import textwrap

import jax
import numpy as np
import PIL.Image
import pytest

import dpc_jax
from configs import camvid
from dpc_jax.base import InputError

pytestmark = pytest.mark.usefixtures('quick_compilation')

ROOT = pathlib.Path(__file__).resolve().parent.parent

MOST_NAMES = 25
ORDER = (
    *('Space', 'Genotype', 'InputError', 'load_config', 'prepare', 'search', 'Bench', 'CellScores', 'Candidate'),
    *('read_cells', 'draw_cell', 'train', 'evaluate', 'Evaluation', 'load_network', 'predict', 'Network'),
)
"""What needs something comes after what makes it."""


def example(name):
    """The lines after `>>>` in the docstring, as a program."""
    lines = (line.strip() for line in inspect.getdoc(getattr(dpc_jax, name)).splitlines())
    return '\n'.join(line[4:] for line in lines if line.startswith(('>>> ', '... ')))


def test_there_are_few_names_and_all_are_listed():
    assert sorted(ORDER) == sorted(dpc_jax.__all__)
    assert len(dpc_jax.__all__) <= MOST_NAMES
    assert set(dpc_jax.__all__) < set(dir(dpc_jax))
    assert all(example(name) for name in dpc_jax.__all__)
    assert dpc_jax.__version__.startswith('0.')


def test_an_unknown_name_lists_the_known_ones():
    with pytest.raises(AttributeError, match=r"module 'dpc_jax' has no attribute 'Sapce'; it offers: Bench, "):
        dpc_jax.Sapce  # noqa: B018


def test_importing_it_costs_nothing_until_something_is_used():
    program = 'import sys, dpc_jax; print(sorted({"jax", "optuna", "matplotlib", "flax"} & set(sys.modules)))'
    done = subprocess.run([sys.executable, '-c', program], cwd=ROOT, text=True, capture_output=True, check=True)
    assert done.stdout.strip() == '[]'


@pytest.mark.slow
def test_every_example_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / 'configs').symlink_to(ROOT / 'configs')
    network_config = camvid.get_config('toy')
    network_config.train.steps = 2
    network_config.evaluate.pictures = 0
    PIL.Image.fromarray(np.full((50, 70, 3), 90, np.uint8)).save('street.png')
    names = {'dpc_jax': dpc_jax, 'jax': jax, 'np': np, 'PIL': PIL, 'network_config': network_config}
    names['image'] = np.zeros((40, 60, 3), np.uint8)
    for name in ORDER:
        code = example(name).replace('.key(0), 64)', '.key(0), 3)')
        exec(compile(code, name, 'exec'), names)
    assert len(names['result'].rows) == 3
    assert names['classes'].shape == (50, 70)
    assert names['colours'].shape == (40, 60, 3)
    assert (tmp_path / 'best.svg').read_text().startswith('<?xml')
    assert (tmp_path / 'runs/scores/evaluation/metrics.json').is_file()
    with pytest.raises(InputError, match=r"config 'configs/absent\.py': no such file"):
        dpc_jax.load_config('configs/absent.py')


@pytest.mark.slow
def test_a_script_without_flags_and_without_a_guard_trains(tmp_path):
    """Processes that read images would start the script again, so it reads them itself and says so."""
    script = f"""
        import dpc_jax
        config = dpc_jax.load_config('{ROOT}/configs/camvid.py:toy', {{'train.steps': 1, 'train.workers': 2}})
        dpc_jax.train(config, 'net', genotype=dpc_jax.Space(2).sample(__import__('jax').random.key(0)))
    """
    (tmp_path / 'script.py').write_text(textwrap.dedent(script))
    done = subprocess.run([sys.executable, 'script.py'], cwd=tmp_path, text=True, capture_output=True)
    assert (done.returncode, done.stderr) == (0, '')
    assert 'reading images in this process' in done.stdout
    assert (tmp_path / 'net/weights').is_dir()


# ---- configs --------------------------------------------------------------------------------------------------------


def test_a_config_is_that_of_the_command_line(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    config = dpc_jax.load_config(ROOT / 'configs/scenes_search.py', {'proxy.steps': 7, 'search.references': ()})
    assert (config.proxy.steps, config.search.references, config.space.num_branches) == (7, (), 5)
    assert dpc_jax.load_config(f'{ROOT}/configs/scenes_search.py:toy').space.num_branches == 2
    with pytest.raises(AttributeError):
        config.steps = 3  # locked, as that of the command line


@pytest.mark.parametrize(
    ('path', 'overrides', 'said'),
    [
        ('absent.py', {}, "config 'absent.py': no such file"),
        (f'{ROOT}/configs/scenes_search.py:toys', {}, "config argument ':toys' is not known"),
        (f'{ROOT}/README.md', {}, 'not a Python file'),
        (f'{ROOT}/run.py', {}, "has no attribute 'get_config'"),
        (f'{ROOT}/configs/scenes_search.py', {'proxy.stepz': 3}, "cannot take {'proxy.stepz': 3}"),
        (f'{ROOT}/configs/scenes_search.py', {'proxy.steps': 'many'}, "cannot take {'proxy.steps': 'many'}"),
        (f'{ROOT}/configs/scenes_search.py', {'proxy.steps': None}, "cannot take {'proxy.steps': None}"),
        (f'{ROOT}/configs/scenes_search.py', {'nosuch': 1}, "cannot take {'nosuch': 1}"),
    ],
)
def test_a_bad_config_is_one_line(fault, path, overrides, said):
    assert said in fault(lambda: dpc_jax.load_config(path, overrides))


# ---- networks -------------------------------------------------------------------------------------------------------


def test_a_genotype_is_a_value_that_the_config_records():
    cell = dpc_jax.Space(3).sample(jax.random.key(1))
    config = dpc_jax.api.with_genotype(camvid.get_config('toy'), cell)
    assert config.context.name == 'dpc'
    found = dpc_jax.api.with_genotype(config, None).context.genotype
    assert dpc_jax.Space(3).canonical_key(dpc_jax.Space(3).from_json(found)) == dpc_jax.Space(3).canonical_key(cell)
    assert camvid.get_config('toy').context.genotype == 'dpc_top1'


@pytest.mark.parametrize(
    ('call', 'said'),
    [
        (lambda: dpc_jax.api.with_genotype(camvid.get_config('toy'), 'dpc_top1'), "'dpc_top1' is not a genotype"),
        (lambda: dpc_jax.train(dpc_jax.load_config(ROOT / 'configs/scenes_search.py:toy'), 'x'), 'no whole network'),
        (lambda: dpc_jax.load_network(camvid.get_config('toy')), 'checkpoint is empty'),
        (lambda: dpc_jax.prepare(camvid.get_config('toy'), 'x'), 'the config names no search'),
        (lambda: dpc_jax.draw_cell(dpc_jax.Space(2).named('conv1x1'), 'x.foo'), "'x.foo' cannot be drawn"),
        (lambda: dpc_jax.draw_cell(dpc_jax.Space(2).sample(jax.random.key(0), 3), 'x.svg'), 'give one cell, [K]'),
        (lambda: dpc_jax.load_network(camvid.get_config('toy'), 'absent'), 'no such folder'),
        (
            lambda: dpc_jax.predict(object.__new__(dpc_jax.Network), np.zeros((3, 4), np.uint8)),
            r'shape (3, 4) and type uint8; it must be [H, W, 3]',
        ),
        (lambda: dpc_jax.predict(object.__new__(dpc_jax.Network), np.zeros((0, 4, 3))), 'shape (0, 4, 3)'),
        (lambda: dpc_jax.predict(object.__new__(dpc_jax.Network), np.full((2, 2, 3), 0.5)), 'values from 0.5 to 0.5'),
        (lambda: dpc_jax.predict(object.__new__(dpc_jax.Network), np.full((2, 2, 3), -1)), 'values from -1 to -1'),
    ],
    ids=[
        *('name', 'search config', 'no checkpoint', 'network config', 'suffix', 'population'),
        *('absent', 'gray', 'empty', 'shares', 'negative'),
    ],
)
def test_what_makes_no_sense_is_one_line(fault, call, said):
    assert said in fault(call)
