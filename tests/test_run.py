"""run.py as a user meets it: the whole toy journey, everything that can be wrong with the input, every way to stop."""

import contextlib
import csv
import importlib
import os
import pathlib
import random
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
import types

import numpy as np
import pytest
from absl import flags
from PIL import Image

from configs import camvid_search, scenes_search
from dpc_jax.study import archive as study_archive
from tests import forks

pytestmark = pytest.mark.usefixtures('quick_compilation')

ROOT = pathlib.Path(__file__).resolve().parent.parent
TOY = '--config=configs/scenes_search.py:toy'
SEARCH = ('--config.search.num_candidates=6', '--config.search.references=("conv1x1",)')


def start(*argv, **options):
    command = [sys.executable, 'run.py', *map(str, argv)]
    return subprocess.Popen(command, cwd=ROOT, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE, **options)


def finish(*argv):
    done = forks.run('run.py', *argv)
    return done.returncode, done.stdout, done.stderr


def rows(workdir):
    with (workdir / 'report/ranking.csv').open() as file:
        return list(csv.DictReader(file))


def scores(workdir):
    return [(row['rank'], row['number'], row['key'], row['score'], row['curve']) for row in rows(workdir)]


def finished(workdir):
    """Number -> what the study holds of each finished candidate."""
    url = f'sqlite:///{workdir / "study.db"}'
    found, _ = study_archive.read(url, 'dpc-proxy')
    return {c.number: (c.key, c.score, c.finished, c.worker) for c in found}


# ---- in this process -------------------------------------------------------------------------------------------------


@pytest.fixture
def run(monkeypatch, capsys):
    """`run(config, workdir)` is `run.main` with these flags: exit code, what was printed, what was complained of."""
    known = set(flags.FLAGS)
    module = (
        importlib.reload(importlib.import_module('run')) if 'run' in sys.modules else importlib.import_module('run')
    )
    for name in set(flags.FLAGS) - known:  # the experiment scripts define flags of the same names
        delattr(flags.FLAGS, name)
    monkeypatch.setattr(module.signal, 'signal', lambda *_: None)

    def call(config, workdir):
        monkeypatch.setattr(module, 'CONFIG', types.SimpleNamespace(value=config))
        monkeypatch.setattr(module, 'WORKDIR', types.SimpleNamespace(value=workdir and str(workdir)))
        monkeypatch.setattr(module, 'COORDINATOR', types.SimpleNamespace(value=''))
        for name in ('NUM_PROCESSES', 'PROCESS_ID'):
            monkeypatch.setattr(module, name, types.SimpleNamespace(value=-1))
        code = 0
        try:
            module.main([])
        except SystemExit as stop:
            code = stop.code
        said = capsys.readouterr()
        return code, said.out, said.err

    return call


def is_one_line(result, *words):
    code, _, err = result
    assert code == 2
    assert err.startswith('error: ')
    assert err.count('\n') == 1
    for word in words:
        assert word in err, err


@pytest.fixture
def camvid(tmp_path):
    """A folder in CamVid's format: three train images, two of val."""
    rng = np.random.default_rng(0)
    root = tmp_path / 'data'
    for split, count in (('train', 3), ('val', 2)):
        lines = []
        for kind in (split, split + 'annot'):
            (root / kind).mkdir(parents=True)
        for i in range(count):
            Image.fromarray(rng.integers(0, 256, (48, 64, 3)).astype(np.uint8)).save(root / split / f'{i}.png')
            Image.fromarray(rng.integers(0, 12, (48, 64)).astype(np.uint8)).save(root / f'{split}annot' / f'{i}.png')
            lines.append(f'/SegNet/CamVid/{split}/{i}.png /SegNet/CamVid/{split}annot/{i}.png\n')
        (root / f'{split}.txt').write_text(''.join(lines))
    return root


def camvid_config(root, **backbone):
    config = camvid_search.get_config('toy')
    config.dataset.root = str(root)
    config.backbone.update(backbone)
    return config


def test_both_flags_are_needed(run, tmp_path):
    is_one_line(run(None, tmp_path), '--config and --workdir')
    is_one_line(run(scenes_search.get_config('toy'), None), '--config and --workdir')


def test_an_unknown_journey_is_refused(run, tmp_path):
    config = scenes_search.get_config('toy')
    config.journey = 'rest'
    is_one_line(run(config, tmp_path), "journey is 'rest'; allowed: evaluate, predict, search, train")


def no_label(root):
    (root / 'valannot/1.png').unlink()


def wrong_value(root):
    Image.fromarray(np.full((48, 64), 12, np.uint8)).save(root / 'valannot/1.png')


def other_size(root):
    Image.fromarray(np.zeros((48, 63), np.uint8)).save(root / 'trainannot/2.png')


def broken(root):
    data = (root / 'val/0.png').read_bytes()
    (root / 'val/0.png').write_bytes(data[:100])


def empty(root):
    shutil.rmtree(root)
    root.mkdir()


@pytest.mark.parametrize(
    ('spoil', 'words'),
    [
        (shutil.rmtree, ('dataset.root', 'there is no folder')),
        (empty, ('dataset.root', 'is empty')),
        (no_label, ('val.txt, line 2', '1.png has no label')),
        (wrong_value, ('valannot/1.png', 'label value 12 is out of range')),
        (other_size, ('sizes differ', 'trainannot/2.png', '48x63')),
        (broken, ('cannot decode', 'val/0.png')),
        (lambda root: (root / 'train.txt').write_text(''), ('train.txt is empty',)),
        (lambda root: (root / 'val.txt').unlink(), ('there is no list file', 'val.txt')),
        (lambda root: (root / 'train.txt').write_text('one\n'), ('train.txt, line 1', "'one'")),
    ],
)
def test_faulty_data_are_refused_before_anything_is_written(run, camvid, tmp_path, spoil, words):
    spoil(camvid)
    is_one_line(run(camvid_config(camvid), tmp_path / 'work'), *words)
    assert not (tmp_path / 'work').exists()


def test_no_data_folder_is_refused(run, tmp_path):
    is_one_line(
        run(camvid_search.get_config('toy'), tmp_path / 'work'), 'dataset.root is empty; give the CamVid folder'
    )


def no_weights(path):
    path.unlink(missing_ok=True)


def wrong_names(path):
    np.savez(path, w=np.zeros(3, np.float32))


def wrong_shapes(path):
    np.savez(path, **{'MobilenetV2/Conv/weights': np.zeros((3, 3, 3, 7), np.float32)})


def not_npz(path):
    path.write_text('hello')


@pytest.mark.parametrize('write', [no_weights, wrong_names, wrong_shapes, not_npz])
def test_faulty_weights_are_refused(run, camvid, tmp_path, write):
    path = tmp_path / 'weights.npz'
    write(path)
    is_one_line(run(camvid_config(camvid, weights=str(path)), tmp_path / 'work'), str(path))


@pytest.mark.parametrize('place', ['file', 'file/inside', '/proc/nowhere'])
def test_a_workdir_that_cannot_be_a_folder_is_refused(run, tmp_path, place):
    (tmp_path / 'file').write_text('mine')
    is_one_line(run(scenes_search.get_config('toy'), tmp_path / place), 'workdir', 'cannot be made')
    assert (tmp_path / 'file').read_text() == 'mine'


@pytest.mark.skipif(os.geteuid() == 0, reason='root may write everywhere')
def test_a_workdir_that_is_not_writable_is_refused(run, tmp_path):
    (tmp_path / 'work').mkdir(mode=0o500)
    is_one_line(run(scenes_search.get_config('toy'), tmp_path / 'work'), str(tmp_path / 'work'))


# ---- as processes ----------------------------------------------------------------------------------------------------


def test_help_explains_both_flags():
    code, out, err = finish('--help')
    assert (code, err) == (0, '')
    for words in ('--config:', '--workdir:', '--config.proxy.steps=500', 'Exit code: 0 done, 2 bad input'):
        assert words in out


@pytest.mark.parametrize(
    ('argv', 'said'),
    [
        ((TOY, '--workdir=w', '--config.proxy.stepz=3'), "--config.proxy.stepz: the config has no field 'stepz'"),
        ((TOY, '--workdir=w', '--num_processes=2'), '--num_processes and --process_id need a --coordinator'),
        ((TOY,), 'both --config and --workdir are needed'),
        ((TOY, '--workdir=gs://w/run'), "workdir 'gs://w/run': gs:// is not supported; allowed: a folder"),
    ],
)
def test_a_wrong_command_line_is_one_line(argv, said):
    code, out, err = finish(*argv)
    assert (code, out, err.count('\n')) == (2, '', 1)
    assert said in err
    assert not any((ROOT / name).exists() for name in ('w', 'gs:'))


@pytest.fixture
def whole(toy_search):
    """A search that nobody disturbed: its folder and what it printed."""
    return toy_search


@pytest.fixture
def prepared(whole, tmp_path):
    """A folder with backbone and features of that search, and no study."""
    workdir = tmp_path / 'work'
    shutil.copytree(whole[0], workdir, ignore=shutil.ignore_patterns('study.db*', 'report', 'events'))
    return workdir


def test_the_journey_prints_a_ranking_and_paths_that_exist(whole):
    workdir, out = whole
    paths = [pathlib.Path(line) for line in out.splitlines() if line.startswith(str(workdir))]
    assert {'report.md', 'ranking.csv', 'cells.png'} <= {path.name for path in paths}
    assert all(path.stat().st_size for path in paths)
    best = next(row for row in rows(workdir) if row['rank'] == '1')
    assert f'1. {100 * float(best["score"]):.2f} % mIoU  {best["key"]}' in out


@pytest.mark.slow
def test_a_search_finds_the_same_bit_for_bit_on_any_number_of_devices(whole, tmp_path, monkeypatch):
    """Features are taken over, and all have as many threads: a backbone that is trained here depends on these."""
    threads = max(4, int(os.environ.get('NPROC', len(os.sched_getaffinity(0)))))  # JAX has one for each device at least
    monkeypatch.setenv('NPROC', str(threads))
    options, found = os.environ['XLA_FLAGS'], []
    for devices in (1, 4):  # two are as four in tests/test_population.py
        monkeypatch.setenv('XLA_FLAGS', f'{options} --xla_force_host_platform_device_count={devices}')
        workdir = tmp_path / str(devices)
        shutil.copytree(whole[0] / 'cache', workdir / 'cache')
        for path in whole[0].glob('backbone-*.npz'):
            shutil.copy(path, workdir)
        process = start(TOY, f'--workdir={workdir}', *SEARCH)
        _, err = process.communicate()
        assert (process.returncode, err) == (0, '')
        candidates, _ = study_archive.read(f'sqlite:///{workdir / "study.db"}', 'dpc-proxy')
        found.append([(c.number, c.key, c.score, c.curve, c.losses, c.confusions, c.extras) for c in candidates])
        assert candidates[0].device == {1: 'cpu'}.get(devices, f'{devices} x cpu')
    assert len(found[0]) == 7
    assert found[0] == found[1]


def test_another_config_in_the_same_workdir_is_one_line_and_nothing_is_lost(whole, run):
    before = (whole[0] / 'study.db').read_bytes(), scores(whole[0])
    config = scenes_search.get_config('toy')
    config.search.num_candidates, config.proxy.momentum = 6, 0.5
    is_one_line(run(config, whole[0]), 'proxy.momentum: study has 0.9, config has 0.5')
    assert scores(whole[0]) == before[1]
    assert len(finished(whole[0])) == 7


def wait_for(process, workdir, count):
    """Until the study has `count` finished candidates; the process must not end before."""
    url = f'file:{workdir / "study.db"}?mode=ro'  # read only: Optuna would make tables, and hold locks
    query = "SELECT COUNT(*) FROM trials WHERE state = 'COMPLETE'"
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and process.poll() is None:
        with contextlib.suppress(sqlite3.OperationalError), contextlib.closing(sqlite3.connect(url, uri=True)) as study:
            if study.execute(query).fetchone()[0] >= count:
                return
        time.sleep(0.02)
    process.kill()
    raise AssertionError(f'not there after all: {process.communicate()}')


@pytest.mark.slow
def test_a_stop_is_clean_and_says_how_to_go_on(whole, prepared):
    process = start(TOY, f'--workdir={prepared}', *SEARCH)
    wait_for(process, prepared, 2)
    process.send_signal(signal.SIGTERM)  # SIGINT: tests/test_evaluate.py
    out, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (130, '')
    assert f'stopped; everything finished is kept in {prepared}. The same command goes on from here.' in out
    kept = finished(prepared)
    code, _, err = finish(TOY, f'--workdir={prepared}', *SEARCH)
    assert (code, err) == (0, '')
    assert finished(prepared).items() >= kept.items()
    assert scores(prepared) == scores(whole[0])


@pytest.mark.slow
def test_killed_at_any_moment_the_same_command_comes_to_the_same_ranking(whole, prepared):
    draw, kept, kills = random.Random(0), {}, 0
    command = (TOY, f'--workdir={prepared}', *SEARCH)
    for count in (1, 2, 4, 6):
        process = start(*command)
        wait_for(process, prepared, count)
        time.sleep(draw.uniform(0, 0.3))
        process.send_signal(signal.SIGKILL)
        process.communicate()
        kills += process.returncode == -signal.SIGKILL
        now = finished(prepared)
        assert now.items() >= kept.items()  # nothing finished was lost or evaluated again
        kept = now
    code, _, err = finish(*command)
    assert (code, err) == (0, '')
    assert kills >= 3
    assert finished(prepared).items() >= kept.items()
    assert scores(prepared) == scores(whole[0])


@pytest.mark.slow
def test_killed_while_it_prepares_it_comes_to_the_same_ranking(whole, tmp_path):
    command = (TOY, f'--workdir={tmp_path / "work"}', *SEARCH)
    for pattern in ('backbone-*.npz', 'cache/*'):
        process = start(*command)
        while not list((tmp_path / 'work').glob(pattern)) and process.poll() is None:
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
        process.communicate()
        assert process.returncode == -signal.SIGKILL
    code, _, err = finish(*command)
    assert (code, err) == (0, '')
    assert scores(tmp_path / 'work') == scores(whole[0])
