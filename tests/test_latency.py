"""Milliseconds per image: which networks run, what is timed and written, and what is refused."""

import json
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from absl import flags
from ml_collections import config_flags

from configs import camvid
from dpc_jax import folding, networks, ops, weights
from dpc_jax.base import InputError
from dpc_jax.inference import InferenceSettings
from tests import small
from tests.scripts import load

latency = load('latency')

pytestmark = [
    pytest.mark.usefixtures('quick_compilation'),
    pytest.mark.filterwarnings('ignore:the load_module:DeprecationWarning'),  # of ml_collections
]

AUX_CELLS = 'context.name=aux_cells context.genotype=arch0 backbone.output_stride=32 decoder.output_stride=0'
FLAGS = {
    **{'NETWORK': ['configs/camvid.py:toy'], 'SIZES': ['13x17'], 'BATCH': 2, 'REPEATS': 3, 'WARMUP': 1},
    **{'DTYPE': '', 'FOLD': 'both', 'OUTPUT': 'classes', 'OUT': ''},
}


@pytest.fixture
def give(monkeypatch):
    """Flags in place of those of a command line."""

    def given(**values):
        for name, value in {**FLAGS, **values}.items():
            flag = types.SimpleNamespace(value=value, name=name.lower())
            monkeypatch.setattr(latency, name, flag)
        monkeypatch.setattr(latency.common, 'CONFIG', types.SimpleNamespace(value=None))

    return given


@pytest.fixture
def small_network(monkeypatch):
    monkeypatch.setattr(
        latency.evaluation, 'make_network', lambda config: small.network(dtype=jnp.dtype(config.evaluate.dtype))
    )


def job(size=(13, 17), *, folded=False, network=None):
    network = network or small.network()
    variables = jax.tree.map(jnp.ones_like, networks.variable_shapes(network))
    return latency.Job(1, network, variables, size, InferenceSettings(), 7, folded)


def test_every_program_has_a_row_in_both_files(give, small_network, tmp_path, capsys):
    give(NETWORK=['configs/camvid.py:toy', 'configs/scenes.py:toy seed=1'], OUT=str(tmp_path / 'new/out'))
    latency.main([])
    text = (tmp_path / 'new/out/latency.md').read_text()
    assert capsys.readouterr().out == text
    assert 'arXiv:1904.02365' in text
    report = json.loads((tmp_path / 'new/out/latency.json').read_text())
    assert [one['label'] for one in report['networks']] == ['configs/camvid.py:toy', 'configs/scenes.py:toy seed=1']
    assert report['networks'][1]['config']['seed'] == 1
    assert [(row['network'], row['folded']) for row in report['rows']] == [(n, f) for n in (1, 2) for f in (0, 1)]
    # Kernels, each with the cells that it runs on; of six batch norms scale and bias; the bias of the logits.
    cells_of = {'one': (108, 63), 'two': (36 + 24, 63), 'pooled': (24, 1), 'aspp0': (24, 20), 'rest': (32 + 20, 20)}
    macs = sum(kernels * cells for kernels, cells in cells_of.values())
    parameters = sum(kernels for kernels, _ in cells_of.values()) + 2 * (4 + 4 + 6 + 4 + 4 + 4) + 5
    assert {(row['parameters'], row['multiply_adds']) for row in report['rows']} == {(parameters, macs)}
    table = [line.split(' | ') for line in text.splitlines() if line.startswith('| 1 ')]
    for cells, row in zip(table, report['rows'], strict=False):
        assert cells[2] == ('folded' if row['folded'] else 'as trained')
        assert len(row['milliseconds_of_each_call']) == 3
        assert row['compile_seconds'] > 0
        found = row['milliseconds_per_image']
        assert cells[5] == f'{found["median"]:.4g}'
        assert found['min'] == pytest.approx(min(row['milliseconds_of_each_call']) / 2)


def test_the_times_are_those_after_the_warm_up_per_image(give):
    give(WARMUP=2, REPEATS=5, BATCH=2)
    calls = [{'compile_seconds': 9.0}, *({'seconds': value} for value in (8.0, 7.0, 0.5, 0.1, 0.2, 0.4, 0.3))]
    row = latency.row_of(job(), calls)
    assert row['compile_seconds'] == 9
    assert row['milliseconds_of_each_call'] == pytest.approx([500, 100, 200, 400, 300])
    expected = {'min': 50, 'lower_quartile': 100, 'median': 150, 'upper_quartile': 200}
    assert row['milliseconds_per_image'] == pytest.approx(expected)


@pytest.mark.parametrize('folded', [False, True])
def test_what_the_program_gives(folded):
    network, images = small.network(), small.batch(1, side=13)[0][0]
    variables = jax.tree.map(jnp.ones_like, networks.variable_shapes(network))
    one = job((13, 13), folded=folded, network=network)
    given = folding.fold(network, variables, images) if folded else variables
    coarse, logits, classes = (
        jax.jit(latency.program(one, output))(given, images) for output in ('coarse', 'logits', 'classes')
    )
    np.testing.assert_allclose(coarse, jax.jit(network.apply)(variables, images), rtol=1e-5)
    np.testing.assert_allclose(logits, ops.resize_bilinear(coarse, (13, 13)), rtol=1e-6)
    assert classes.shape == (1, 13, 13)
    np.testing.assert_array_equal(classes, jnp.argmax(logits, -1))


def test_a_network_that_memory_does_not_hold_has_a_row_that_says_so(give, small_network, monkeypatch, capsys):
    def program(job, output):
        if job.size == (13, 17):
            raise jax.errors.JaxRuntimeError('RESOURCE_EXHAUSTED: Out of memory')
        return lambda variables, images: images

    monkeypatch.setattr(latency, 'program', program)
    give(SIZES=['13x17', '5x5'], FOLD='no')
    latency.main([])
    large, little = (line for line in capsys.readouterr().out.splitlines() if line.startswith('| 1 |'))
    assert '| out of memory | – | – | – |' in large
    assert 'out of memory' not in little


def test_networks_are_read_as_the_command_line_reads_configs(give):
    base = latency.Named('configs/camvid.py:toy', camvid.get_config('toy'))
    found = latency.further(f'{AUX_CELLS} evaluate.scales=(0.5,1.0)', [base])
    assert found.label == f'configs/camvid.py:toy {AUX_CELLS} evaluate.scales=(0.5,1.0)'
    assert (found.config.context.name, found.config.backbone.output_stride) == ('aux_cells', 32)
    assert found.config.evaluate.scales == (0.5, 1.0)
    assert base.config.context.name == 'dpc'
    other = latency.further('configs/scenes.py:toy context.filters=3', [base])
    assert other.label == 'configs/scenes.py:toy context.filters=3'
    assert (other.config.dataset.name, other.config.context.filters) == ('scenes', 3)
    give(DTYPE='bfloat16')
    assert latency.whole(other).config.evaluate.dtype == 'bfloat16'
    assert other.config.evaluate.dtype == 'float32'


def test_the_config_is_the_first_network_and_its_label_has_the_fields_that_were_set(give, monkeypatch):
    argv, values = ['latency', '--config=configs/camvid.py:toy', '--config.context.name=aspp'], flags.FlagValues()
    config_flags.DEFINE_config_file('config', flag_values=values, sys_argv=argv)
    values(argv)
    give(NETWORK=['context.filters=5'])
    monkeypatch.setattr(latency.flags, 'FLAGS', values)
    monkeypatch.setattr(latency.common, 'CONFIG', types.SimpleNamespace(value=values.config))
    first, second = latency.asked_for()
    assert first.label == 'configs/camvid.py:toy context.name=aspp'
    assert second.label == f'{first.label} context.filters=5'
    assert [one.config.context.name for one in (first, second)] == ['aspp', 'aspp']
    assert [one.config.context.filters for one in (first, second)] == [8, 5]


@pytest.mark.parametrize(
    ('values', 'said'),
    [
        ({'NETWORK': []}, '--config or --network is needed'),
        ({'NETWORK': ['context.name=aspp']}, "'context.name=aspp' names no file, and there is no --config"),
        ({'NETWORK': ['configs/camvid.py context.nme=aspp']}, "the config has no field 'nme'; did you mean 'name'?"),
        ({'NETWORK': ['configs/absent.py']}, "--network='configs/absent.py': "),
        ({'NETWORK': ["configs/camvid.py seed='1"]}, 'No closing quotation'),
        ({'NETWORK': ['configs/scenes_search.py']}, "'configs/scenes_search.py' names no whole network"),
        ({'SIZES': []}, '--sizes is empty'),
        ({'SIZES': ['512']}, "--sizes is '512'; it must be HEIGHTxWIDTH in pixels"),
        ({'REPEATS': 0}, '--repeats is 0; it must be at least 1'),
        ({'BATCH': 0}, '--batch is 0; it must be at least 1'),
        ({'WARMUP': -1}, '--warmup is -1; it must be at least 0'),
        ({'DTYPE': 'int8'}, "--dtype is 'int8'; allowed: float32, bfloat16"),
    ],
)
def test_wrong_flags_are_one_line(give, fault, values, said):
    give(**values)
    assert said in fault(lambda: latency.main([]))


def test_weights_of_a_checkpoint_are_those_that_run(small_network, tmp_path):
    config, shapes = camvid.get_config('toy'), networks.variable_shapes(small.network())
    variables = jax.tree.map(lambda leaf: jnp.full(leaf.shape, 3.0, leaf.dtype), shapes)
    weights.save(tmp_path / 'held', variables)
    config.checkpoint = str(tmp_path / 'held')
    _, found = latency.load(config)
    jax.tree.map(np.testing.assert_array_equal, found, variables)
    config.checkpoint = str(tmp_path / 'absent')
    with pytest.raises(InputError, match='no such folder'):
        latency.load(config)


def test_drawn_weights_keep_logits_ordinary_numbers(small_network):
    network, variables = latency.load(camvid.get_config('toy'))
    logits = np.asarray(jax.jit(network.apply)(variables, small.batch(1)[0][0]))
    assert 0.01 < logits.std() < 100
