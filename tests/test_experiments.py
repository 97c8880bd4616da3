"""The experiment scripts at toy size, as a user starts them."""

import csv
import dataclasses
import importlib.util
import pathlib
import re
import shutil
import statistics

import pytest

from dpc_jax.base import InputError
from dpc_jax.spaces import dpc
from tests import forks, scripts

pytestmark = pytest.mark.usefixtures('quick_compilation')

ROOT = pathlib.Path(__file__).resolve().parent.parent
TOY = '--config=configs/scenes_search.py:toy'


def finish(script, *argv):
    done = forks.run(script, *argv)
    return done.returncode, done.stdout, done.stderr


@pytest.fixture
def searched(toy_search, tmp_path):
    return shutil.copytree(toy_search[0], tmp_path / 'searched')


@pytest.mark.slow
def test_a_report_of_the_study_alone_has_the_ranking_of_the_search(searched, tmp_path):
    code, out, err = finish('experiments/report_study.py', f'--workdir={searched}', f'--out={tmp_path / "out"}')
    assert (code, err) == (0, '')  # its only study is found without its name
    assert (tmp_path / 'out/ranking.csv').read_bytes() == (searched / 'report/ranking.csv').read_bytes()
    assert str(tmp_path / 'out/report.md') in out


@pytest.mark.slow
def test_the_noise_of_the_proxy_is_computed_from_the_scores_it_lists(searched):
    command = ('experiments/proxy_noise.py', TOY, f'--workdir={searched}', '--seeds=2', '--each=1')
    code, _, err = finish(*command)
    assert (code, err) == (0, '')
    report = searched / 'report'
    assert (report / 'noise.png').stat().st_size > 1000
    with (report / 'noise.csv').open() as file:
        scores = {row[0]: [float(value) for value in row[1:]] for row in list(csv.reader(file))[1:]}
    assert {len(values) for values in scores.values()} == {2}
    assert 'conv1x1' in scores
    within = statistics.fmean(statistics.variance(values) for values in scores.values()) ** 0.5
    between = statistics.stdev(statistics.fmean(values) for values in scores.values())
    text = (report / 'noise.md').read_text()
    said = re.search(r'one cell (\S+), between cells (\S+) ', text).groups()
    assert said == (f'{100 * within:.2f}', f'{100 * between:.2f}')
    assert finish(*command)[0] == 0
    assert (report / 'noise.md').read_text() == text


@pytest.mark.slow
def test_the_benchmark_has_its_rows_and_one_program():
    small = ('--size=5x5', '--images=2', '--channels=8', '--filters=4', '--classes=3')
    code, out, err = finish(
        *('experiments/bench_population.py', *small, '--candidates=2', '--steps=2', '--chunks=1', '--static=1'),
        '--profile',
    )
    assert (code, err) == (0, '')
    share = re.search(r'^floor: \S+ GB and \S+ GFLOP per candidate-step; .* reached: (\d+)% of it$', out, re.MULTILINE)
    assert 0 <= int(share.group(1)) <= 100
    assert re.search(r'^28000 candidates of 30000 steps each: [\d,]+ hours on \d x cpu$', out, re.MULTILINE)
    parts = re.findall(r'^  (\w[\w ]+\w) +([\d.]+) ms +(\d+)%$', out, re.MULTILINE)
    assert {'within channels', 'branches back', 'loss', 'draw dropout'} <= {name for name, *_ in parts}
    assert sum(int(percent) for *_, percent in parts) == pytest.approx(100, abs=len(parts))
    table = {line.split()[0]: line.split() for line in out.splitlines() if line.startswith(('population', 'static'))}
    assert set(table) == {'population', 'static'}
    assert table['population'][5] == '1'  # programs compiled for all candidates
    assert all(float(row[1]) > 0 for row in table.values())


@pytest.mark.slow
def test_features_on_disk_are_timed_beside_those_on_the_device():
    small = ('--size=5x5', '--batch=2', '--channels=8', '--filters=4', '--classes=3', '--images=9')
    code, out, err = finish(
        'experiments/bench_stream.py', *small, '--candidates=1', '--steps=3', '--span=2', '--rounds=2'
    )
    assert (code, err) == (0, '')
    found = re.findall(r'^(on .+?) +([\d.]+) s per candidate-step   \(([\d., ]+)\)$', out, re.MULTILINE)
    assert [name for name, *_ in found] == ['on the device', 'on disk']
    assert all(float(best) == min(map(float, every.split(', '))) for _, best, every in found)
    assert re.search(r'^features on disk: [+-][\d.]+ % time$', out, re.MULTILINE)
    assert out.endswith('losses are equal bit for bit\n')


@pytest.mark.slow
def test_reach_is_listed_from_no_context_to_the_released_cell(toy_search, tmp_path):
    shutil.copytree(toy_search[0] / 'cache', tmp_path / 'cache')  # backbone and features do not depend on the space
    for path in toy_search[0].glob('backbone-*.npz'):
        shutil.copy(path, tmp_path)
    argv = (TOY, f'--workdir={tmp_path}', '--config.space.num_branches=5', '--seeds=2')
    code, out, err = finish('experiments/scenes_reach.py', *argv)
    assert (code, err) == (0, '')
    with (tmp_path / 'report/reach.csv').open() as file:
        scores = {row[0]: [float(value) for value in row[1:]] for row in list(csv.reader(file))[1:]}
    assert list(scores)[:2] == ['no context', 'sep 1x1']
    assert list(scores)[-2:] == ['aspp', 'dpc_top1']
    assert set(list(scores)[1:-2]) < set(dpc.OP_NAMES)
    means = {name: 100 * statistics.fmean(values) for name, values in scores.items()}
    said = re.search(r'No context to (.+): (\S+) points', out).groups()
    best = max(means, key=means.get)
    assert said == (best, f'{means[best] - means["no context"]:.1f}')


@pytest.mark.slow
def test_the_bench_of_the_input_pipeline_says_what_bounds_it(tmp_path):
    code, out, err = finish(
        'experiments/bench_input.py',
        '--config=configs/camvid.py:toy',
        f'--workdir={tmp_path}',
        '--images=3',
        '--steps=1',
    )
    assert (code, err) == (0, '')
    rates = {name: float(rate) for name, rate in re.findall(r'^\| (\S.+) \| ([\d.]+) \|$', out, re.MULTILINE)}
    assert set(rates) == {
        *('decoding, one thread', 'decoding and augmentation, one thread'),
        *('pipeline, from the folder', 'pipeline, from a pack', 'training step'),
    }
    times = float(re.search(r'pipeline, from a pack: ([\d.]+) times', out)[1])
    assert times == pytest.approx(rates['pipeline, from a pack'] / rates['training step'], abs=0.1, rel=0.01)
    assert sum(map(int, re.findall(r' (\d+) %', out))) in (99, 100, 101)
    assert 'The pipeline is bound by' in out


@pytest.mark.slow
def test_the_bench_of_the_study_times_each_storage_and_the_report():
    argv = ('--sizes=6,3', '--batch=2', '--rounds=1', '--sampler=near_best', '--sampler=optuna.RandomSampler')
    code, out, err = finish('experiments/bench_study.py', *argv)
    assert (code, err) == (0, '')
    assert '| storage | sampler | 3 candidates | 6 candidates | ratio |' in out
    timed = r' (\S+) \(\S+\) \|'
    rows = re.findall(rf'^\| (\w+) \| (\S+) \|{timed}{timed}{timed}$', out, re.MULTILINE)
    assert [row[:2] for row in rows] == [
        (storage, sampler) for storage in ('sqlite', 'journal') for sampler in ('near_best', 'optuna.RandomSampler')
    ]
    for *_, small, large, ratio in rows:
        assert float(small) > 0
        assert float(ratio) == pytest.approx(float(large) / float(small), rel=0.05)
    took = r'\S+ \(\S+\) s'
    reports = re.findall(rf'^report of (\d+) candidates, (\w+): {took} to read, {took} to write$', out, re.MULTILINE)
    assert reports == [('14', 'sqlite'), ('14', 'journal')], 'two batches for each strategy'


@pytest.mark.parametrize('storage', ['sqlite', 'journal', 'postgresql'])
def test_a_study_that_was_filled_is_as_if_its_candidates_had_been_told(storage, request, tmp_path):
    script = scripts.load('bench_study')
    server = request.getfixturevalue('postgres') if storage == 'postgresql' else None
    url = server.database() if server else script.url_of(storage, tmp_path)
    for name in ('one', 'other'):  # in one storage
        script.fill(url, name, 5)
        with script.opened(url, name, 'near_best') as study:
            told, *copies = study.candidates()
            assert len(copies) == 4
            assert [c.number for c in copies] == [1, 2, 3, 4]
            assert len({c.key for c in (told, *copies)}) == 5
            for copy in copies:
                changes = {'number': copy.number, 'genotype': copy.genotype, 'key': copy.key}
                expected = dataclasses.replace(told, **changes, score=copy.score, curve=copy.curve)
                assert copy == expected
                assert copy.key == script.spaces.make(script.SETTINGS['space']).canonical_key(copy.genotype)
            assert study.count() == 5
            (proposal,) = study.ask(1, budget=6)
            assert proposal.number == 5
    with pytest.raises(InputError, match="there is a study 'one' in the storage already; give an empty one"):
        script.fill(url, 'one', 5)


def test_the_yardstick_in_pytorch_is_the_cell_that_is_counted():
    torch = pytest.importorskip('torch')
    from experiments import torch_cell

    for name in ('dpc_top1', 'aspp'):
        genotype = dpc.Space(5).named(name)
        module = torch_cell.Cell(genotype, channels=12, filters=8, classes=3)
        counts = dpc.count(genotype, size=(5, 7), channels=12, filters=8, pooling='sliding')
        kernels = sum(p.numel() for label, p in module.named_parameters() if p.dim() == 4 and 'logits' not in label)
        assert kernels == counts.branch_params + counts.projection_params
        assert module(torch.zeros(2, 12, 5, 7)).shape == (2, 3, 5, 7)


@pytest.mark.parametrize(
    ('script', 'argv', 'said'),
    [
        ('report_study', (), 'give either --workdir or --storage'),
        ('report_study', ('--storage=sqlite:///absent.db', '--out=x'), 'there is no storage'),
        ('proxy_noise', (TOY, '--workdir=absent', '--seeds=1'), '--seeds is 1'),
        ('scenes_reach', (), 'both --config and --workdir are needed'),
        ('bench_input', (), 'both --config and --workdir are needed'),
        (
            'bench_input',
            ('--config=configs/camvid.py:toy', '--workdir=x', '--steps=0'),
            '--steps 0; both must be at least 1',
        ),
        ('pack_data', ('--dataset=camvid',), '--root and --out are needed'),
        ('bench_study', ('--sizes=10,b',), "--sizes is '10,b'; it must be numbers of at least 1, e.g. 1000,28000"),
        ('bench_population', ('--sise=5x5',), "Unknown command line flag 'sise'"),
        ('bench_population', ('--dtype=float64',), 'flag --dtype=float64'),
        ('bench_population', ('--size=5',), "--size is '5'"),
        ('bench_population', ('--chunks=1,a',), "--chunks is '1,a'; it must be numbers of at least 1"),
        ('bench_population', ('--estimate=a100',), 'flag --estimate=a100'),
        ('bench_population', ('--operator=conv5x5',), "--operator is 'conv5x5'; allowed: "),
        ('bench_stream', ('--size=21',), "--size is '21'; it must be HEIGHTxWIDTH"),
        ('bench_stream', ('--span=0',), '--span is 0; it must be at least 1'),
        ('latency', ('--sizes=512x512,640',), "--sizes is '640'; it must be HEIGHTxWIDTH in pixels"),
        ('estimate_training', (), '--config is needed: a config of a training, such as configs/cityscapes.py'),
        ('estimate_training', ('--config=configs/scenes_search.py',), '--config names no whole network'),
    ],
)
def test_wrong_flags_are_one_line(script, argv, said):
    code, out, err = finish(f'experiments/{script}.py', *argv)
    assert (code, out, err.count('\n')) == (2, '', 1), err
    assert said in err


@pytest.mark.skipif(importlib.util.find_spec('jax_cuda12_plugin') is not None, reason='the CUDA plugin is installed')
@pytest.mark.parametrize(
    'command',
    [('bench_population', '--estimate=h100'), ('estimate_training', '--config=configs/cityscapes.py:toy')],
    ids=lambda command: command[0],
)
def test_without_the_cuda_plugin_it_says_what_to_install(command):
    code, _, err = finish(f'experiments/{command[0]}.py', command[1])
    assert (code, len(err.splitlines())) == (2, 1)
    assert 'an estimate for an H100 needs JAX with its CUDA plugin (pip install "jax[cuda12]"), no GPU is needed' in err
