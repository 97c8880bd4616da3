"""The pictures of trainings, read back from the figures, and the comparison of runs that shows them."""

import csv
import itertools
import json
import math
import pathlib
import shutil

import forged
import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg

from configs import camvid_aux
from dpc_jax import provenance
from dpc_jax.base import InputError
from dpc_jax.training import pictures as training_pictures
from experiments import camvid_rows, compare_runs, rows
from tests import forks

ROOT = pathlib.Path(__file__).resolve().parent.parent


def training(steps, losses, **others):
    return [{'step': s, 'loss': x, 'learning_rate': 0.1 / s, **others} for s, x in zip(steps, losses, strict=True)]


def evaluations(steps, scores):
    return [{'step': s, 'miou': x, 'pixel_accuracy': 0.9} for s, x in zip(steps, scores, strict=True)]


RECORDS = [
    *training(range(10, 80, 10), [3.0, 2.0, None, 1.0, 4.0, 2.0, 1.0]),
    *evaluations([20, 40, 60], [0.2, None, 0.4]),
]


def drawn(axes):
    return [line.get_xydata() for line in axes.lines]


# ---- one run --------------------------------------------------------------------------------------------------------


def test_curves_are_what_was_recorded():
    rate, loss, score = training_pictures.curves(RECORDS[::-1]).axes  # in whatever order they come
    np.testing.assert_allclose(drawn(rate)[0], [[s, 0.1 / s] for s in range(10, 80, 10)])
    np.testing.assert_allclose(drawn(loss)[0][:, 1], [3, 2, math.nan, 1, 4, 2, 1])
    np.testing.assert_allclose(drawn(loss)[1][:, 1], [3, 2.5, 2.5, 2, 2.5, 9 / 4, 2])  # of five, with a gap
    np.testing.assert_allclose(drawn(score)[0], [[20, 20], [40, math.nan], [60, 40]])
    assert score.lines[1].get_label() == 'best 40.00 % at step 60'
    assert rate.get_shared_x_axes().joined(rate, score)


def test_of_two_records_of_a_step_the_later_counts():
    records = [*training([10, 20], [9.0, 9.0]), *training([20], [1.0])]
    steps, values = training_pictures.curve(records, 'loss')
    assert (steps.tolist(), values.tolist()) == ([10, 20], [9, 1])


@pytest.mark.parametrize('window', [1, 2, 5, 100])
def test_a_running_mean_is_of_the_last_values_that_are_known(window):
    values = np.random.default_rng(0).normal(size=30)
    values[[0, 1, 7, 8, 9, 10, 11, 12]] = math.nan
    expected = []
    for at in range(30):
        known = [v for v in values[max(0, at + 1 - window) : at + 1] if not math.isnan(v)]
        expected.append(sum(known) / len(known) if known else math.nan)
    np.testing.assert_allclose(training_pictures.running_mean(values, window), expected, atol=1e-12)


def test_long_trainings_are_averaged_over_a_twentieth():
    assert [training_pictures.window_of(count) for count in (0, 3, 100, 900)] == [5, 5, 5, 45]


# ---- several runs ---------------------------------------------------------------------------------------------------


def test_seeds_of_a_module_have_one_colour_and_a_mean():
    runs = {
        'dpc': [evaluations([10, 20, 30], [0.1, 0.2, 0.5]), evaluations([20, 30, 40], [0.4, None, 0.6])],
        'aspp': [[*training([10, 20], [2.0, 1.0]), *evaluations([20], [0.3])]],
    }
    loss, score = training_pictures.comparison(runs).axes
    assert [text.get_text() for text in score.figure.legends[0].get_texts()] == ['aspp (1 seed)']  # dpc has no loss
    dpc, aspp = training_pictures.COLOURS[:2]
    assert [line.get_color() for line in score.lines] == [dpc, dpc, dpc, aspp]
    np.testing.assert_allclose(drawn(score)[2], [[20, 30]])  # the only step at which both have a score
    np.testing.assert_allclose(drawn(loss)[2], [[10, 2], [20, 1.5]])


def said(figure):
    return [text.get_text() for axes in figure.axes for text in axes.texts]


def test_nothing_recorded_is_said():
    assert said(training_pictures.curves([])) == ['nothing recorded'] * 3
    assert said(training_pictures.curves(training([10], [None]))) == ['nothing recorded'] * 2
    assert said(training_pictures.comparison({})) == ['nothing recorded'] * 2
    assert said(training_pictures.comparison({'dpc': [[]]})) == ['nothing recorded'] * 2
    assert said(training_pictures.curves(RECORDS)) == []


MANY = {f'module_{at}': [RECORDS] * 2 for at in range(7)}


@pytest.mark.parametrize(
    'figure',
    [
        training_pictures.curves(RECORDS),
        training_pictures.curves(RECORDS[:1]),
        training_pictures.curves([]),
        training_pictures.comparison(MANY),
    ],
    ids=['all', 'one', 'none', 'many'],
)
def test_nothing_is_cut_off(figure):
    FigureCanvasAgg(figure).draw()
    box, (width, height) = figure.get_tightbbox(), figure.get_size_inches()
    assert 0 <= box.x0 < box.x1 <= width
    assert 0 <= box.y0 < box.y1 <= height


# ---- the comparison of runs -----------------------------------------------------------------------------------------

SCORES = {('aspp', 0): 0.40, ('aspp', 1): 0.42, ('aspp', 2): 0.47, ('dpc', 0): 0.43, ('dpc', 1): 0.41, ('dpc', 2): 0.51}


def forge(workdir, context, seed, miou, *, lines=None, **fields):
    """The folder of a finished training."""
    command = camvid_rows.command(context).split('do ')[1].removesuffix('; done').replace('$seed', str(seed))
    config, _ = forged.config_of(command)
    config.update_from_flattened_dict(fields)
    found = forged.row(config, 101, miou, seed=seed, weights=f'{10 * (context == "dpc") + seed}')
    forged.write(workdir / 'evaluation', found)
    (workdir / 'metrics.jsonl').write_text(forged.records(40, miou) if lines is None else lines)
    return workdir


@pytest.fixture
def workdirs(tmp_path, monkeypatch):
    monkeypatch.setattr(provenance, 'commit', lambda: 'c0ffee')
    return [forge(tmp_path / f'{context}{seed}', context, seed, miou) for (context, seed), miou in SCORES.items()]


def modules_of(workdirs):
    return compare_runs.by_module([compare_runs.read(workdir) for workdir in workdirs])


def cells(text, heading=''):
    """The table below a heading, by its first cell."""
    lines = itertools.dropwhile(lambda line: heading not in line, text.splitlines())
    table = itertools.takewhile(
        lambda line: line.startswith('|'), itertools.dropwhile(lambda line: not line.startswith('|'), lines)
    )
    found = [[cell.strip() for cell in line.strip('|').split('|')] for line in table]
    return {row[0]: row[1:] for row in found[2:]}


def test_modules_are_compared_by_seed(workdirs):
    text = compare_runs.markdown(modules_of(workdirs[::-1]))
    table = cells(text)
    assert table['aspp'][:5] == ['0, 1, 2', '43.00 ± 3.61', '40.00, 42.00, 47.00', '53.00 ± 3.61', '48.00 ± 3.61']
    assert table['dpc-dpc_top1'][:3] == ['0, 1, 2', '45.00 ± 5.29', '43.00, 41.00, 51.00']
    assert table['aspp'][5] == 'c0ffee'
    difference = cells(text, 'Differences')['dpc-dpc_top1 less aspp']
    half = 4.303 * np.std([3, -1, 4], ddof=1) / 3**0.5
    assert difference == ['0, 1, 2', '+2.00', f'{2 - half:+.2f} to {2 + half:+.2f}', '+3.00, -1.00, +4.00', '2 of 3']
    classes = cells(text, 'IoU by class')
    assert classes['road'] == ['53.00 ± 3.61', '55.00 ± 5.29']
    assert classes['bus'] == ['–', '–']


def test_seeds_that_only_one_module_has_are_in_no_difference(workdirs):
    text = compare_runs.markdown(modules_of([workdirs[0], workdirs[1], workdirs[4], workdirs[5]]))
    assert cells(text, 'Differences')['dpc-dpc_top1 less aspp'] == ['1', '-1.00', '–', '-1.00', '0 of 1']
    text = compare_runs.markdown(modules_of([workdirs[0], workdirs[4]]))
    assert cells(text, 'Differences')['dpc-dpc_top1 less aspp'] == ['', '–', '–', '', '0 of 0']
    assert 'Differences' not in compare_runs.markdown(modules_of(workdirs[:2]))


def test_the_files_of_a_comparison_hold_its_rows(workdirs, tmp_path):
    command = [
        'experiments/compare_runs.py',
        f'--workdirs={",".join(map(str, workdirs[:4]))}',
        f'--out={tmp_path / "out"}',
    ]
    done = forks.run(*command)
    assert (done.returncode, done.stderr) == (0, '')
    out = tmp_path / 'out'
    assert (out / 'comparison.md').read_text() in done.stdout
    names = {'aspp_seed0', 'aspp_seed1', 'aspp_seed2', 'dpc-dpc_top1_seed0'}
    assert {path.name for path in (out / 'rows').iterdir()} == names
    for workdir, name in zip(workdirs, sorted(names), strict=False):
        assert (out / 'rows' / name / 'metrics.json').read_bytes() == (workdir / 'evaluation/metrics.json').read_bytes()
        assert (out / 'rows' / name / 'curves.png').stat().st_size > 1000
    with (out / 'rows.csv').open() as file:
        table = list(csv.DictReader(file))
    assert [(row['module'], row['seed'], row['miou']) for row in table][1:] == [
        ('aspp', '1', '0.42'),
        ('aspp', '2', '0.47'),
        ('dpc-dpc_top1', '0', '0.43'),
    ]
    assert (table[0]['IoU road'], table[0]['IoU bus'], table[0]['seconds']) == ('0.5', '', '60.5')
    assert len(rows.read([str(out)]).rows) == 4  # so the tables find them
    assert (out / 'curves.png').stat().st_size > 1000


def edit(workdir, change):
    path = workdir / 'evaluation/metrics.json'
    held = json.loads(path.read_text())
    change(held)
    path.write_text(json.dumps(held))


@pytest.mark.parametrize(
    ('change', 'fault'),
    [
        (lambda held: held.pop('training'), 'is of an evaluation alone, not of a training'),
        (lambda held: held.update(miou=None), 'has no scores'),
        (lambda held: held.pop('iou'), 'has no scores'),
        (lambda held: held.pop('weights'), "is not a row of an evaluation: it has no 'weights'"),
        (lambda held: held.update(flip=True), 'cannot be compared: flip is True and False'),
        (lambda held: held.update(data='other'), 'cannot be compared: data is other and f1'),
        (lambda held: held['training'].update(steps=7), 'cannot be compared: training is 7 steps of'),
    ],
)
def test_what_cannot_be_compared_is_one_line(workdirs, change, fault):
    edit(workdirs[0], change)
    with pytest.raises(InputError) as error:
        modules_of(workdirs)
    assert fault in str(error.value)
    assert '\n' not in str(error.value)


def test_a_training_that_is_not_finished_is_named(workdirs):
    shutil.rmtree(workdirs[1] / 'evaluation')
    with pytest.raises(
        InputError, match=r"--workdirs has '.*aspp1': there is no .*metrics.json, which a training writes"
    ):
        modules_of(workdirs)


def test_what_is_free_may_differ_between_modules_and_is_shown(workdirs, tmp_path):
    strided = [forge(tmp_path / f'os8_{seed}', 'dpc', seed, 0.5, **{'backbone.output_stride': 8}) for seed in (0, 1)]
    runs = [compare_runs.read(workdir) for workdir in (*workdirs[:3], *strided)]
    with pytest.raises(InputError, match='output stride is 16 and 8'):
        compare_runs.by_module(runs)
    free = ('output_stride',)
    table = cells(compare_runs.markdown(compare_runs.by_module(runs, free), free))
    assert (table['aspp'][:2], table['dpc-dpc_top1'][:2]) == (['16', '0, 1, 2'], ['8', '0, 1'])
    with pytest.raises(InputError, match='output stride is 8 and 16'):  # within one module
        compare_runs.by_module([*runs, compare_runs.read(workdirs[5])], free)
    with pytest.raises(InputError, match=r"^--free has 'width'; allowed: output_stride, decoder$"):
        compare_runs.compare(['x'], 'y', ['width'])


def test_decoders_of_one_space_are_modules_of_their_own(tmp_path):
    for name in ('arch0', 'arch1'):
        config = camvid_aux.get_config()
        config.context.genotype = name
        forged.write(tmp_path / name, forged.row(config, 101, 0.5))
    modules = [rows.read_row(tmp_path / name / rows.METRICS).settings.module for name in ('arch0', 'arch1')]
    assert modules == ['aux_cells-arch0', 'aux_cells-arch1']


def test_cells_of_one_file_name_are_not_one_module(workdirs, tmp_path):
    cells_of = [
        forge(tmp_path / f'c{seed}', 'dpc', seed, 0.5, **{'context.genotype': f'{seed}/cell.json'}) for seed in (0, 1)
    ]
    with pytest.raises(InputError, match=r'genotype is 0/cell\.json and 1/cell\.json$'):
        modules_of(cells_of)


def test_two_runs_of_one_seed_are_refused(workdirs):
    with pytest.raises(InputError, match=r"'.*aspp0' and '.*aspp0' are both aspp with seed 0"):
        modules_of([*workdirs, workdirs[0]])


def test_a_folder_that_cannot_be_made_is_named(workdirs):
    folder = workdirs[0] / 'metrics.jsonl/out'
    with pytest.raises(InputError, match=r"^--out '.*/out' cannot be made: Not a directory$"):
        compare_runs.make_folder(folder)


@pytest.mark.parametrize(('given', 'out'), [([], 'x'), (['x'], '')])
def test_both_flags_are_needed(given, out):
    with pytest.raises(InputError, match='both --workdirs and --out are needed'):
        compare_runs.compare(given, out)
