"""The journey of a training: what it leaves, that no stop changes what comes out, and every fault is one line."""

import importlib
import json
import math
import os
import pathlib
import shutil
import signal
import socket
import subprocess
import sys
import time

import jax
import numpy as np
import pytest
from PIL import Image

from configs import camvid, from_checkpoint
from dpc_jax import datasets, described, networks, provenance, sharding
from dpc_jax.base import InputError
from dpc_jax.journeys import evaluate, train
from dpc_jax.training import config as train_config
from dpc_jax.training import log as train_log
from dpc_jax.weights import checkpoint, tf_import
from tests.test_progress import events

pytestmark = pytest.mark.usefixtures('quick_compilation')

ROOT = pathlib.Path(__file__).resolve().parent.parent
STEPS = 8


@pytest.fixture(scope='module')
def root(tmp_path_factory):
    """A folder in CamVid's format: ten train images and five of val, labels as wide stripes of their colours."""
    folder, draw = tmp_path_factory.mktemp('camvid'), np.random.default_rng(0)
    for split, count in (('train', 10), ('val', 5)):
        lines = []
        for number in range(count):
            label = draw.integers(0, 12, (1, 5), np.uint8).repeat(40, 0).repeat(10, 1)
            noise = draw.integers(0, 40, (40, 50, 3))
            image = (label[..., None] * np.array([18, 9, 3]) + noise).astype(np.uint8)
            Image.fromarray(image).save(folder / f'{split}{number}.png')
            Image.fromarray(label).save(folder / f'{split}{number}_label.png')
            lines.append(f'{split}{number}.png {split}{number}_label.png\n')
        (folder / f'{split}.txt').write_text(''.join(lines))
    return folder


FIELDS = {
    'context.name': 'none',
    'train.steps': STEPS,
    'train.batch_size': 4,
    'train.crop_size': (33, 33),
    'train.evaluate_every': 4,
    'train.checkpoint_every': 3,
    'train.ema_decay': 0.5,
    'evaluate.pictures': 1,
}


def toy(root, **fields):
    config = camvid.get_config('toy')
    config.dataset.root = str(root)
    named = {name.replace('__', '.'): value for name, value in fields.items()}
    config.update_from_flattened_dict({**FIELDS, **named})
    return config


def command(root, workdir, *more, **fields):
    """The same as a command line."""
    named = {**FIELDS, **{name.replace('__', '.'): value for name, value in fields.items()}, 'dataset.root': root}
    settings = [f'--config.{name}={value}' for name, value in named.items()]
    return [sys.executable, 'run.py', '--config=configs/camvid.py:toy', f'--workdir={workdir}', *settings, *more]


@pytest.fixture(scope='module')
def whole(root, tmp_path_factory):
    """A training that nobody disturbed: its folder and what it gave."""
    workdir = tmp_path_factory.mktemp('whole')
    return workdir, train.run(toy(root), workdir)


def lines(workdir):
    return [json.loads(line) for line in (workdir / 'metrics.jsonl').read_text().splitlines()]


def weights(workdir, name='weights'):
    return checkpoint.read(workdir / name)


def same(one, other):
    jax.tree.map(np.testing.assert_array_equal, one, other)


# ---- what it leaves -------------------------------------------------------------------------------------------------


def test_every_step_and_evaluation_is_recorded(whole):
    workdir, found = whole
    records = lines(workdir)
    steps = [record for record in records if 'loss' in record]
    assert [record['step'] for record in steps] == list(range(1, STEPS + 1))
    assert {'loss', 'accuracy', 'gradient_norm', 'learning_rate'} < set(steps[0])
    rates = [record['learning_rate'] for record in steps]
    np.testing.assert_allclose(rates, [0.003 * (1 - step / STEPS) ** 0.9 for step in range(STEPS)], rtol=1e-5)
    assert [record['step'] for record in records if 'miou' in record] == [4, STEPS]
    assert records[-1]['miou'] == pytest.approx(found.row['miou'])


def test_tensorboard_has_scalars_and_pictures(whole):
    found = [event for path in sorted((whole[0] / 'events').iterdir()) for event in events(path) if event.summary.value]
    values = [(event.step, value) for event in found for value in event.summary.value]
    losses = {step: value.simple_value for step, value in values if value.tag == 'train/loss'}
    assert losses == pytest.approx({record['step']: record['loss'] for record in lines(whole[0]) if 'loss' in record})
    assert {value.tag for _, value in values} >= {'train/learning_rate', 'evaluation/miou', 'evaluation/predictions'}
    assert [step for step, value in values if value.HasField('image')] == [4, STEPS]


def test_the_weights_are_the_moving_average_and_score_what_is_said(whole, root, tmp_path):
    workdir, found = whole
    for name in ('weights', 'best'):
        assert (workdir / name / 'SHA256SUMS').is_file()
    config = toy(root, journey='evaluate', checkpoint=str(workdir / 'weights'))
    again = evaluate.run(config, tmp_path)
    np.testing.assert_array_equal(again.confusion, found.confusion)
    best = max(record['miou'] for record in lines(workdir) if 'miou' in record)
    config.checkpoint = str(workdir / 'best')
    assert evaluate.run(config, tmp_path).row['miou'] == pytest.approx(best)


def test_the_weights_say_what_they_are(whole, root, tmp_path):
    """So no config of the network is needed to evaluate them."""
    workdir, found = whole
    for name in ('weights', 'best'):
        assert described.read(workdir / name) == described.of(toy(root))
    config = from_checkpoint.get_config()
    config.journey, config.checkpoint, config.dataset.root = 'evaluate', str(workdir / 'weights'), str(root)
    np.testing.assert_array_equal(evaluate.run(config, tmp_path).confusion, found.confusion)


def test_the_row_has_its_cause(whole):
    workdir, _ = whole
    row = json.loads((workdir / 'evaluation/metrics.json').read_text())
    training = row['training']
    assert (training['steps'], training['seed'], training['batch_size']) == (STEPS, 0, 4)
    assert (training['crop_size'], training['init']) == ([33, 33], '')
    assert training['seconds'] > 0
    for cause in ('commit', 'device', 'config_hash', 'data', 'weights'):
        assert row[cause]
    assert row['config']['train']['learning_rate'] == 0.003
    table = (workdir / 'parameters.txt').read_text()
    assert 'backbone/Conv/kernel' in table
    assert (workdir / 'evaluation/predictions.png').stat().st_size > 1000


def test_a_finished_run_only_evaluates_again(whole, root, tmp_path):
    workdir = shutil.copytree(whole[0], tmp_path / 'run')
    found = train.run(toy(root), workdir)
    np.testing.assert_array_equal(found.confusion, whole[1].confusion)
    assert lines(workdir) == lines(whole[0])
    same(weights(workdir), weights(whole[0]))


# ---- stops ----------------------------------------------------------------------------------------------------------


def wait_for_step(process, workdir, step):
    """Until so many steps are recorded."""
    deadline = time.monotonic() + 240
    while time.monotonic() < deadline:
        assert process.poll() is None, process.communicate()
        records = train_log.read_records(workdir / 'metrics.jsonl') if (workdir / 'metrics.jsonl').exists() else []
        if any(record['step'] >= step for record in records):
            return
        time.sleep(0.005)
    raise AssertionError(f'no step {step} in time')


def start(argv, **environment):
    pipes = {'stdout': subprocess.PIPE, 'stderr': subprocess.PIPE}
    return subprocess.Popen(argv, cwd=ROOT, text=True, env={**os.environ, **environment}, **pipes)


@pytest.mark.slow
def test_kill_9_and_a_damaged_checkpoint_change_nothing(whole, root, tmp_path, caplog):
    process = start(command(root, tmp_path))
    wait_for_step(process, tmp_path, 7)
    process.kill()
    process.communicate()
    held = sorted(int(path.name) for path in (tmp_path / 'checkpoints').iterdir() if path.name.isdecimal())
    assert held in ([3], [3, 6], [3, 6, 8])
    largest = max((p for p in (tmp_path / f'checkpoints/{held[-1]}').rglob('*') if p.is_file()), key=os.path.getsize)
    if len(held) > 1:
        largest.write_bytes(largest.read_bytes()[:-7])
    found = train.run(toy(root), tmp_path)
    if len(held) > 1:
        assert 'is passed over' in caplog.text
    assert lines(tmp_path) == lines(whole[0])
    same(weights(tmp_path), weights(whole[0]))
    same(weights(tmp_path, 'best'), weights(whole[0], 'best'))
    np.testing.assert_array_equal(found.confusion, whole[1].confusion)


@pytest.mark.slow
def test_a_signal_saves_and_exits_and_the_rest_is_as_ever(whole, root, tmp_path):
    process = start(command(root, tmp_path))
    wait_for_step(process, tmp_path, 2)
    process.send_signal(signal.SIGTERM)
    out, err = process.communicate()
    if process.returncode == 0:
        pytest.skip('it was finished before it was stopped')
    assert (process.returncode, err) == (130, '')
    assert 'everything is kept' in out
    last = max(record['step'] for record in lines(tmp_path))
    assert (tmp_path / f'checkpoints/{last}/SHA256SUMS').is_file()
    train.run(toy(root), tmp_path)
    assert lines(tmp_path) == lines(whole[0])
    same(weights(tmp_path), weights(whole[0]))


def free_port():
    with socket.socket() as held:
        held.bind(('127.0.0.1', 0))
        return held.getsockname()[1]


def on_devices(number):
    """The environment of a process with so many devices."""
    flags = [flag for flag in os.environ['XLA_FLAGS'].split() if 'device_count' not in flag]
    return {'XLA_FLAGS': ' '.join([*flags, f'--xla_force_host_platform_device_count={number}'])}


def two_processes(root, workdir, **fields):
    """Started on one device each."""
    environment, port = on_devices(1), free_port()
    return [
        start(
            command(
                root,
                workdir,
                *(f'--coordinator=127.0.0.1:{port}', '--num_processes=2', f'--process_id={number}'),
                **fields,
            ),
            **environment,
        )
        for number in range(2)
    ]


def ends_of(processes):
    """What they printed; none is left behind, whatever happens."""
    try:
        return [process.communicate(timeout=250) for process in processes]
    finally:
        for process in processes:
            process.kill()


@pytest.mark.slow
def test_two_processes_train_what_one_does_and_stop_together(root, tmp_path):
    # One process has the same two devices. Against one device the loss of the first step agrees to 1e-6, the norm of
    # its gradient differs by 0.7 % (jax 0.12): one input of a ReLU6 is 1e-6, less than its rounding on maps of 3x3
    # cells, and comes out negative on two devices. Its side alone makes the difference; in float64 they agree to 3e-15.
    slow = {'train__learning_rate': 1e-5, 'train__ema_decay': 0.0, 'train__steps': 5}
    alone = start(command(root, tmp_path / 'one', **slow), **on_devices(2))
    ends = ends_of([alone])
    assert alone.returncode == 0, ends
    theirs, workdir = lines(tmp_path / 'one'), tmp_path / 'two'
    processes = two_processes(root, workdir, **slow)
    wait_for_step(processes[0], workdir, 2)
    processes[1].send_signal(signal.SIGTERM)  # to one of them
    ends = ends_of(processes)
    assert [process.returncode for process in processes] == [130, 130], ends
    said = [line for line in ends[1][0].splitlines() if line and not line.startswith('[Gloo]')]
    assert said == []  # the first speaks
    assert len(lines(workdir)) < len(theirs)
    processes = two_processes(root, workdir, **slow)
    ends = ends_of(processes)
    assert [process.returncode for process in processes] == [0, 0], ends
    assert 'goes on from step' in ends[0][0]
    ours = lines(workdir)
    assert [record['step'] for record in ours] == [record['step'] for record in theirs]
    for one, other in zip(ours, theirs, strict=True):
        if 'miou' in one:
            assert one['pixel_accuracy'] == pytest.approx(other['pixel_accuracy'], abs=0.01)
        else:
            assert one['loss'] == pytest.approx(other['loss'], rel=1e-6), (one, other)
            assert one['gradient_norm'] == pytest.approx(other['gradient_norm'], rel=1e-6), (one, other)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=0, atol=1e-6),
        weights(workdir)['params'],
        weights(tmp_path / 'one')['params'],
    )


# ---- where it begins ------------------------------------------------------------------------------------------------


def loaded(root, path, parts='all', **fields):
    config = toy(root, train__init__checkpoint=str(path), train__init__parts=parts, **fields)
    return train.initial_variables(config), networks.init_variables(
        jax.random.fold_in(jax.random.key(0), 0), train_config.make_network(config)
    )


def test_a_training_begins_with_the_weights_of_another(whole, root, capsys):
    held = weights(whole[0])
    found, _ = loaded(root, whole[0] / 'weights')
    same(found, held)
    found, fresh = loaded(root, whole[0] / 'weights', 'backbone')
    same(found['params']['backbone'], held['params']['backbone'])
    same(found['params']['logits'], fresh['params']['logits'])
    found, fresh = loaded(root, whole[0] / 'weights', context__name='aspp')  # of another context module
    same(found['params']['backbone'], held['params']['backbone'])
    same(found['params']['context'], fresh['params']['context'])
    assert 'missing' in capsys.readouterr().out


def test_a_training_begins_with_official_weights(whole, root, tmp_path):
    network, held = train_config.make_network(toy(root)), weights(whole[0])
    names = tf_import.to_official(held, network.scopes)
    names['logits/semantic/biases'] = np.zeros(21, np.float32)  # of another number of classes
    names['logits/semantic/weights'] = np.zeros((1, 1, names['logits/semantic/weights'].shape[2], 21), np.float32)
    tf_import.save_npz(tmp_path / 'official.npz', names)
    found, fresh = loaded(root, tmp_path / 'official.npz')
    same(found['params']['backbone'], held['params']['backbone'])
    same(found['batch_stats'], held['batch_stats'])
    same(found['params']['logits'], fresh['params']['logits'])


# ---- what is refused ------------------------------------------------------------------------------------------------


def refusal(config, workdir):
    with pytest.raises(InputError) as error:
        train.run(config, workdir)
    assert '\n' not in str(error.value)
    return str(error.value)


def test_a_loss_that_is_no_number_names_step_and_files(root, tmp_path):
    # An evaluation and a checkpoint are due where the loss is not finite any more: neither takes place.
    said = refusal(toy(root, train__learning_rate=1e30, train__steps=6, train__evaluate_every=2), tmp_path)
    assert ' is nan at step ' in said or ' is inf at step ' in said
    report = json.loads((tmp_path / 'diverged.json').read_text())
    assert report['step'] == 2
    assert all('miou' not in record for record in lines(tmp_path))
    assert f'at step {report["step"]};' in said
    assert str(tmp_path / 'diverged.json') in said
    assert len(report['files']) == 4
    assert all(pathlib.Path(name).is_file() for name in report['files'])
    assert not math.isfinite(min(float(report['loss']), float(report['gradient_norm']), key=lambda x: -abs(x)))


@pytest.mark.parametrize(
    ('field', 'value', 'said'),
    [
        ('train__learning_rate', 0.02, 'train.learning_rate was 0.003 there and is 0.02 now; give another workdir'),
        ('seed', 1, 'seed was 0 there and is 1 now'),
        ('context__name', 'aspp', "context.name was 'none' there and is 'aspp' now"),
    ],
)
def test_a_workdir_of_another_config_is_refused(whole, root, field, value, said):
    found = refusal(toy(root, **{field: value}), whole[0])
    assert found == f"workdir '{whole[0]}' belongs to another config: {said.partition(';')[0]}; give another workdir"


def test_a_workdir_of_other_data_is_refused(whole, root, tmp_path):
    data = shutil.copytree(root, tmp_path / 'data')
    text = (data / 'train.txt').read_text()
    (data / 'train.txt').write_text(text.partition('\n')[2])
    assert 'train_images.count was 10 there and is 9 now' in refusal(toy(data), whole[0])


def test_what_may_change_between_two_starts_may(whole, root, tmp_path):
    workdir, data = shutil.copytree(whole[0], tmp_path / 'run'), shutil.copytree(root, tmp_path / 'data')
    fields = provenance.flat(json.loads((workdir / 'config.json').read_text()))
    assert set(train_config.FREE_FIELDS) <= set(fields)
    config = toy(data, train__workers=1, train__keep=1, evaluate__batch_size=2, train__log_every=5)
    np.testing.assert_array_equal(train.run(config, workdir).confusion, whole[1].confusion)


def test_a_workdir_that_is_not_ours_is_refused(root, tmp_path):
    (tmp_path / 'checkpoints/3').mkdir(parents=True)
    assert refusal(toy(root), tmp_path).endswith('has checkpoints but no config.json; give another workdir')
    (tmp_path / 'config.json').write_text('{')
    assert 'config.json cannot be read' in refusal(toy(root), tmp_path)


def test_a_start_that_came_to_nothing_claims_nothing(root, tmp_path):
    assert '/absent' in refusal(toy(root, train__init__checkpoint='/absent'), tmp_path)
    assert json.loads((tmp_path / 'config.json').read_text())['train']['init']['checkpoint'] == '/absent'
    train_config.claim(tmp_path, toy(root), datasets.load('camvid', toy(root).dataset, 'train'))
    assert json.loads((tmp_path / 'config.json').read_text())['train']['init']['checkpoint'] == ''


def test_the_weights_of_the_start_may_move_but_not_change(whole, root, tmp_path):
    dataset = datasets.load('camvid', toy(root).dataset, 'train')
    run, start = tmp_path / 'run', tmp_path / 'start.npz'

    def claim(path):
        config = toy(root, train__init__checkpoint=str(path))
        config.train.parts = {'backbone': {'optimizer': 'sgd', 'clip_norm': 0.0}}
        train_config.claim(run, config, dataset)

    np.savez(start, one=np.ones(3))
    run.mkdir()
    claim(start)
    (run / 'checkpoints/3').mkdir(parents=True)
    moved = start.rename(tmp_path / 'moved.npz')
    claim(moved)
    np.savez(moved, one=np.zeros(3))
    with pytest.raises(InputError, match=r'belongs to another config: train_start\.weights was'):
        claim(moved)
    with pytest.raises(InputError, match=r"train\.init\.checkpoint was '.*start\.npz' there"):
        claim('/absent')  # there is nothing to compare but the path
    claim(start)  # gone, but the config is the same, and a training that goes on does not read it
    held = json.loads((run / 'config.json').read_text())
    del held['train_start']  # as in a folder of before, in which the rules of parts did not clip
    for part in held['train']['parts'].values():
        del part['clip_norm']
    (run / 'config.json').write_text(json.dumps(held))
    claim(start)
    for folder in (whole[0] / 'weights', shutil.copytree(whole[0] / 'weights', tmp_path / 'weights')):
        assert (
            train_config.start_of(toy(root, train__init__checkpoint=str(folder)))['weights']
            == (checkpoint.fingerprint(whole[0] / 'weights')[:16])
        )


@pytest.mark.parametrize(
    ('error', 'said'),
    [
        (
            OSError(28, 'No space left on device'),
            "workdir 'w': no space is left on the disk; the same command goes on",
        ),
        (
            MemoryError('Unable to allocate'),
            'out of memory with train.batch_size 4 in train.accumulate 1 parts and a crop',
        ),
        (jax.errors.JaxRuntimeError('RESOURCE_EXHAUSTED: Out of memory'), 'out of memory with train.batch_size 4'),
    ],
)
def test_a_full_disk_and_a_full_memory_are_one_line(root, error, said):
    with pytest.raises(InputError) as found, train.explained(toy(root), pathlib.Path('w')):
        raise error
    assert str(found.value).startswith(said)
    with pytest.raises(OSError, match='other'), train.explained(toy(root), pathlib.Path('w')):
        raise OSError('other')


@pytest.mark.parametrize(
    ('fields', 'said'),
    [
        ({'train__split': 'test2'}, "unknown split 'test2'; there are: train, val"),
        (
            {'train__batch_size': 6},
            'train.batch_size is 6; it must be a multiple of train.accumulate (1) times the numb',
        ),
        ({'train__crop_size': (32, 33)}, 'train.crop_size is (32, 33); it must be output stride (16) * k + 1'),
        ({'train__dtype': 'float16'}, "train.dtype is 'float16'; allowed: float32, bfloat16"),
        ({'train__bn_decay': 1.0}, 'train.bn_decay is 1.0; it must be above 0 and below 1'),
        (
            {'train__class_weights': (1.0, 2.0)},
            'train.class_weights is (1.0, 2.0); it must be a number for each of the 11',
        ),
        ({'train__class_weights': ('1',) * 11}, "train.class_weights is ('1',"),
        ({'train__class_weights': (0.0,) * 11}, 'it must be numbers of at least 0, not all of them 0'),
        (
            {'checkpoint': 'runs/w'},
            "checkpoint is 'runs/w', but belongs to --config.journey=evaluate; a training starts",
        ),
        ({'evaluate__export': 'labels'}, "evaluate.export is 'labels', but belongs to --config.journey=evaluate"),
        ({'train__init__parts': 'head'}, "train.init.parts is 'head'; allowed: all, backbone"),
        ({'train__keep': 0}, 'train.keep is 0; it must be at least 1'),
        ({'train__log_every': -1}, 'train.log_every is -1; it must be at least 0'),
        ({'train__evaluate_every': -1}, 'train.evaluate_every is -1'),
        ({'train__checkpoint_every': -1}, 'train.checkpoint_every is -1'),
        ({'train__batch_norm': 'sync'}, "train.batch_norm is 'sync'"),
        ({'train__init__checkpoint': '/absent'}, 'absent'),
        ({'dataset__root': ''}, 'dataset.root is empty'),
        ({'dataset__root': '/absent'}, 'dataset.root: there is no folder /absent'),
    ],
)
def test_a_wrong_field_is_refused(root, tmp_path, fields, said):
    config = toy(root)
    with config.ignore_type():
        for name, value in fields.items():
            *parents, last = name.split('__')
            place = config
            for parent in parents:
                place = place[parent]
            place[last] = value
    config.dataset.generated = 0
    assert said in refusal(config, tmp_path / 'run')


def test_a_process_that_is_gone_is_one_line(root, monkeypatch):
    monkeypatch.setattr(jax, 'process_count', lambda: 2)
    error = jax.errors.JaxRuntimeError('INTERNAL: Gloo all-reduce failed: Connection reset by peer')
    with (
        pytest.raises(InputError, match=r"^another process .* checkpoint in 'w'$"),
        train.explained(toy(root), pathlib.Path('w')),
    ):
        raise error


def test_a_faulty_image_of_the_middle_is_named_or_skipped(root, tmp_path, caplog):
    data = shutil.copytree(root, tmp_path / 'data')
    (data / 'train3.png').write_bytes((data / 'train3.png').read_bytes()[:70])
    assert 'cannot decode' in refusal(toy(data, train__steps=3), tmp_path / 'stop')
    train.run(toy(data, train__steps=3, train__faulty_images='skip'), tmp_path / 'skip')
    warned = [
        record.getMessage() for record in caplog.records if 'another image takes its place' in record.getMessage()
    ]
    assert len(warned) >= 1
    assert all('train3.png' in text for text in warned)
    assert lines(tmp_path / 'skip')[-2].get('skipped_images', 0) == len(warned)


def test_a_log_that_is_no_json_is_named(tmp_path):
    path = tmp_path / 'metrics.jsonl'
    path.write_text('{"step": 1}\n{"st')  # a kill while it was written
    assert train_log.read_records(path) == [{'step': 1}]
    path.write_text('{"st\n{"step": 1}\n')
    with pytest.raises(InputError, match=r'line 1: .* is not JSON'):
        train_log.read_records(path)
    path.unlink()
    assert train_log.read_records(path) == []
    path.mkdir()
    with pytest.raises(InputError, match='cannot read'):
        train_log.read_records(path)


# ---- every config ---------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize(
    ('name', 'arg', 'backbone'),
    [
        ('cityscapes', 'toy', 'xception_71'),
        ('pascal_voc', 'toy', 'mobilenet_v2'),
        ('pascal_voc', 'stage2,toy', ''),
        ('person_part', 'toy', ''),
        ('coco', 'toy', ''),
        ('ade20k', 'toy', ''),
        ('pascal_context', 'toy', ''),
        ('camvid', 'toy', ''),
    ],
)
def test_every_toy_trains_on_drawn_data_in_the_real_folders(name, arg, backbone, tmp_path, monkeypatch):
    one = sharding.data_mesh(1)  # is compiled in half the time of four
    monkeypatch.setattr(sharding, 'data_mesh', lambda: one)
    monkeypatch.setattr(sharding, 'local_mesh', lambda: one)
    config = importlib.import_module(f'configs.{name}').get_config(arg)
    config.backbone.name = backbone or config.backbone.name
    config.train.steps = 1
    config.evaluate.pictures = 1
    found = train.run(config, tmp_path)
    assert (tmp_path / 'data' / config.dataset.name).is_dir()
    assert found.row['images'] == 6
    assert math.isfinite(lines(tmp_path)[0]['loss'])


def test_a_coordinator_that_is_none_is_one_line(tmp_path):
    process = start([*command('x', tmp_path, '--coordinator=nowhere'), '--num_processes=2'])
    out, err = process.communicate(timeout=100)
    assert (process.returncode, out) == (2, '')
    assert err.startswith("error: --coordinator='nowhere' --num_processes=2 --process_id=-1: ")
    assert err.count('\n') == 1


def test_a_search_has_no_coordinator(tmp_path):
    argv = [sys.executable, 'run.py', '--config=configs/scenes_search.py:toy', f'--workdir={tmp_path / "w"}']
    process = start([*argv, '--coordinator=127.0.0.1:1'])
    out, err = process.communicate(timeout=100)
    assert (process.returncode, out) == (2, '')
    assert 'a search needs no --coordinator' in err


@pytest.mark.slow
def test_two_processes_refuse_a_workdir_together(whole, root, tmp_path):
    shutil.copy(whole[0] / 'config.json', tmp_path)
    (tmp_path / 'checkpoints/3').mkdir(parents=True)
    processes = two_processes(root, tmp_path, train__learning_rate=0.5)
    ends = ends_of(processes)
    assert [process.returncode for process in processes] == [2, 2], ends
    assert 'train.learning_rate was 0.003 there and is 0.5 now' in ends[0][1]
    assert 'process 0 refuses the workdir' in ends[1][1]
