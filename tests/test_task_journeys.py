"""Depth and poses through every journey: trained, killed and resumed, evaluated, predicted, exported; on toy networks.

Segmentation has its own files (test_train, test_evaluate, test_prediction, test_export).
"""

import json
import pathlib
import subprocess
import sys
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

import dpc_jax
from configs import cityscapes, coco_pose, from_checkpoint, mpii_pose, nyud_depth, nyud_joint
from dpc_jax import inference, sharding, tasks
from dpc_jax.base import InputError, PoseExample
from dpc_jax.journeys import evaluate, predict, train
from dpc_jax.training import log as train_log
from tests import forks
from tests.people_by_hand import person

ROOT = pathlib.Path(__file__).resolve().parent.parent
CONFIGS = {'depth': nyud_depth, 'depth_segmentation': nyud_joint, 'pose': mpii_pose, 'pose of coco': coco_pose}
FIELDS = {
    **{'context.name': 'none', 'dataset.generated': 3, 'train.steps': 6, 'train.checkpoint_every': 3},
    **{'train.evaluate_every': 3, 'train.ema_decay': 0.0, 'evaluate.pictures': 2},
}

every = pytest.mark.parametrize('name', CONFIGS)


def config_of(name):
    config = CONFIGS[name].get_config('toy')
    config.update_from_flattened_dict(FIELDS)
    del config.train.parts
    config.train.parts = {'logits': {'optimizer': 'adam', 'learning_rate': 0.01}}
    return config


@pytest.fixture(scope='module')
def trained(tmp_path_factory):
    """`trained(name)`: the workdir of a finished training and what it found, made when it is first asked for."""
    held = {}

    def of(name):
        if name not in held:
            workdir = tmp_path_factory.mktemp('work') / name.replace(' ', '_')
            held[name] = workdir, train.run(config_of(name), workdir)
        return held[name]

    return of


@pytest.fixture
def one_device(monkeypatch):
    """A few images go through one device, not a share of each batch through each of the session's."""
    one = sharding.data_mesh(1)
    for name in ('data_mesh', 'local_mesh'):
        monkeypatch.setattr(sharding, name, lambda: one)


def refusal(run):
    with pytest.raises(InputError) as error:
        run()
    assert '\n' not in str(error.value)
    return str(error.value)


# ---- training -------------------------------------------------------------------------------------------------------


@every
def test_a_training_leaves_scores_pictures_and_weights(name, trained, capsys):
    workdir, found = trained(name)
    task = tasks.make(config_of(name))
    assert set(task.logged) <= set(found.row)
    records = train_log.read_records(workdir / 'metrics.jsonl')
    assert [record['step'] for record in records if task.main.name in record] == [3, 6]
    assert all(np.isfinite(record['loss']) for record in records if 'loss' in record)
    for file in ('curves.png', 'evaluation/predictions.png', 'evaluation/report.md', 'weights/network.json'):
        assert (workdir / file).stat().st_size > 500
    text = (workdir / 'evaluation/report.md').read_text()
    assert text.startswith(f'# {task.headline(found.row)}')
    told = json.loads((workdir / 'weights/network.json').read_text())
    assert told['task']['name'] == task.name
    assert [channel['name'] for channel in told['channels']] == list(task.names)


@pytest.mark.slow
@pytest.mark.parametrize('name', ['depth_segmentation', 'pose of coco'])
def test_kill_9_changes_nothing(name, trained, tmp_path):
    whole = trained(name)[0]
    program = (
        'import json, pathlib, ml_collections\n'
        'from tests import test_task_journeys as here\n'
        f'here.train.run(here.config_of({name!r}), pathlib.Path({str(tmp_path / "work")!r}))\n'
    )
    process = subprocess.Popen([sys.executable, '-c', program], cwd=ROOT, stdout=subprocess.DEVNULL)
    deadline = time.monotonic() + 240
    while not any((tmp_path / 'work/checkpoints').glob('3')) and time.monotonic() < deadline:
        assert process.poll() is None
        time.sleep(0.01)
    process.kill()
    process.wait()
    train.run(config_of(name), tmp_path / 'work')
    lines = [train_log.read_records(place / 'metrics.jsonl') for place in (tmp_path / 'work', whole)]
    assert lines[0] == lines[1]
    one, other = (json.loads((place / 'evaluation/metrics.json').read_text()) for place in (tmp_path / 'work', whole))
    assert one['weights'] == other['weights']


def test_a_workdir_of_another_task_is_refused(trained):
    config = config_of('depth')
    config.task.loss = 'l1'
    said = refusal(lambda: train.run(config, trained('depth')[0]))
    assert "belongs to another config: task.loss was 'berhu' there and is 'l1' now" in said


# ---- evaluation -----------------------------------------------------------------------------------------------------


@every
def test_an_evaluation_of_its_weights_finds_the_same(name, trained, tmp_path):
    workdir, found = trained(name)
    config = config_of(name)
    config.dataset.root = str(workdir / 'data' / config.dataset.name)
    config.checkpoint, config.evaluate.batch_size = str(workdir / 'weights'), 1
    config.evaluate.export = str(tmp_path / 'export')
    again = evaluate.run(config, tmp_path)
    main = tasks.make(config).main.name
    assert again.row[main] == pytest.approx(found.row[main], rel=1e-5)
    exported = sorted(path.relative_to(tmp_path / 'export').as_posix() for path in (tmp_path / 'export').rglob('*.png'))
    count = {'depth': 3, 'depth_segmentation': 6}.get(name, 0)
    assert len(exported) == count
    if name == 'depth':
        assert np.asarray(Image.open(tmp_path / 'export' / exported[0])).dtype == np.uint16


def test_the_detections_of_an_evaluation_are_those_that_it_scores(trained):
    """The written file alone, through pycocotools, gives the number in the report."""
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    workdir, found = trained('pose of coco')
    gold = COCO(str(workdir / 'data/coco_keypoints/annotations/person_keypoints_val2017.json'))
    evaluation = COCOeval(gold, gold.loadRes(str(workdir / 'evaluation/keypoints.json')), 'keypoints')
    evaluation.evaluate()
    evaluation.accumulate()
    evaluation.summarize()
    assert found.row['ap'] == pytest.approx(evaluation.stats[0], abs=1e-12)
    assert found.row['ar'] == pytest.approx(evaluation.stats[5], abs=1e-12)


@pytest.mark.parametrize(
    ('name', 'fields', 'said'),
    [
        ('depth', {'task.output': 'exp'}, "is of another task: task.output is 'linear' there and 'exp' here"),
        ('pose', {'task.stride': 8}, 'is of another task: task.stride is 4 there and 8 here'),
        ('pose', {'evaluate.scales': (1.0, 0.5)}, 'sees crops of one size at one scale'),
    ],
)
def test_another_meaning_of_the_outputs_is_refused(name, fields, said, trained, tmp_path):
    config = config_of(name)
    config.update_from_flattened_dict(fields)
    config.checkpoint = str(trained(name)[0] / 'weights')
    assert said in refusal(lambda: evaluate.run(config, tmp_path))


def test_a_pose_checkpoint_is_evaluated_with_nothing_but_its_data(trained, tmp_path):
    workdir, found = trained('pose')
    config = from_checkpoint.get_config()
    config.journey, config.checkpoint, config.evaluate.flip = 'evaluate', str(workdir / 'weights'), True
    config.dataset.root = str(workdir / 'data/mpii')
    again = evaluate.run(config, tmp_path)
    assert again.row['pckh_0.5'] == pytest.approx(found.row['pckh_0.5'])


def test_weights_of_another_meaning_start_no_training(trained, tmp_path):
    config = config_of('depth')
    config.task.output, config.train.init.checkpoint = 'exp', str(trained('depth')[0] / 'weights')
    said = refusal(lambda: train.run(config, tmp_path))
    assert "task.output is 'linear' there and 'exp' here; train.init.parts 'backbone' takes what both have" in said


# ---- predictions ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope='module')
def photos(tmp_path_factory):
    folder, draw = tmp_path_factory.mktemp('photos'), np.random.default_rng(0)
    for number, size in enumerate([(50, 70), (64, 40), (50, 70)]):
        Image.fromarray(draw.integers(0, 256, (*size, 3), np.uint8)).save(folder / f'{number}.png')
    return folder


def predicted(checkpoint, photos, workdir, **fields):
    config = from_checkpoint.get_config()
    config.checkpoint, config.predict.images = str(checkpoint), str(photos)
    config.predict.update(fields)
    return predict.run(config, workdir)


@every
def test_photos_are_predicted_with_nothing_but_the_checkpoint(name, trained, photos, tmp_path):
    checkpoint = trained(name)[0] / 'weights'
    rows = predicted(checkpoint, photos, tmp_path)
    place = tmp_path / 'predictions'
    assert len(rows) == 3
    page = (place / 'index.html').read_text()
    assert page.count('<figure>') == 3
    network = dpc_jax.load_network(checkpoint)
    for number in range(3):
        image = np.asarray(Image.open(photos / f'{number}.png'))
        found = dpc_jax.predict(network, image)
        if 'pose' in name:
            assert found.joints.shape == (1, network.task.channels, 3)
            continue
        metres = found['depth'] if isinstance(found, dict) else found
        written = np.asarray(Image.open(place / f'depth/{number}.png'))
        assert (written.dtype, written.shape) == (np.uint16, image.shape[:2])
        np.testing.assert_allclose(written / 1000, metres, atol=6e-4)
    before = {path: path.stat().st_mtime_ns for path in place.rglob('*.jpg')}
    predicted(checkpoint, photos, tmp_path)
    assert {path: path.stat().st_mtime_ns for path in place.rglob('*.jpg')} == before


def test_people_are_predicted_in_their_boxes(trained, photos, tmp_path):
    boxes = [
        *({'image_id': '0.png', 'bbox': [5, 5, 30, 40], 'score': 0.9}, {'image_id': 0, 'bbox': [30, 2, 30, 45]}),
        {'image_id': '2', 'bbox': [1, 1, 9, 9]},
    ]
    (tmp_path / 'boxes.json').write_text(json.dumps(boxes))
    rows = predicted(trained('pose')[0] / 'weights', photos, tmp_path, boxes=str(tmp_path / 'boxes.json'))
    assert [row.summary['people'] for row in rows] == [2, 0, 1]
    held = json.loads((tmp_path / 'predictions/keypoints.json').read_text())
    assert [image['name'] for image in held['images']] == ['0', '1', '2']
    assert [entry['image_id'] for entry in held['annotations']] == [1, 1, 3]
    assert all(len(entry['keypoints']) == 48 for entry in held['annotations'])
    assert held['categories'][0]['keypoints'][0] == 'right ankle'
    other = [{'image_id': '2', 'bbox': [1, 1, 20, 9]}]
    (tmp_path / 'other.json').write_text(json.dumps(other))
    said = refusal(
        lambda: predicted(trained('pose')[0] / 'weights', photos, tmp_path, boxes=str(tmp_path / 'other.json'))
    )
    assert 'holds predictions of another kind: boxes was' in said


def test_a_person_is_found_where_the_evaluation_finds_it(trained):
    """A box of a prediction, and the same box of an example: one crop, so the same joints."""
    network = dpc_jax.load_network(trained('pose')[0] / 'weights')
    held = person(np.random.default_rng(0).uniform(10, 60, (16, 2)))
    image = np.random.default_rng(1).integers(0, 256, (80, 90, 3), np.uint8)
    task, example = network.task, PoseExample(image, held, 'a')
    seen = task.whole(example, task.size)
    scores = inference.pass_scores(network.segmenter, task, network.variables, jnp.asarray(seen.image[None]))
    joints = np.asarray(task.found(scores))[0]
    (x, y), (height, width) = held.centre, held.size
    (piece,) = task.pieces(image, task.size, [(x - width / 2, y - height / 2, width, height, 1.0)])
    np.testing.assert_allclose(piece.image, seen.image, atol=1e-3)
    found = task.joined(image, [piece], [joints])
    np.testing.assert_allclose(found.joints[0], task.of_example(joints, example), atol=1e-6)


@pytest.mark.parametrize('name', ['depth', 'depth_segmentation'])
def test_a_very_large_image_goes_in_tiles_whose_distances_are_blended(name, trained):
    network = dpc_jax.load_network(trained(name)[0] / 'weights')
    image = np.random.default_rng(0).integers(0, 256, (60, 90, 3), np.uint8)
    whole = network.predictor
    tiled = whole.__class__(
        *(whole.network, whole.task, whole.variables, whole.passes),
        whole.settings.__class__(whole=(8, 8), tile=(97, 97), overlap=8),
        whole.mesh,
    )
    (one,), (other,) = whole.found([image]), tiled.found([image])
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-4), one.found, other.found)


@pytest.mark.parametrize(
    ('name', 'fields', 'said'),
    [
        ('depth', {'probabilities': 1}, "predict.probabilities is 1, but the task 'depth' has none; allowed: 0"),
        ('depth', {'labels': 'export'}, "predict.labels is 'export', but the data set has no ids"),
        ('depth', {'boxes': 'x.json'}, "predict.boxes is 'x.json', but the task 'depth' sees whole images"),
        ('pose', {'boxes': 'absent.json'}, 'there is no file'),
    ],
)
def test_what_a_task_does_not_have_is_one_line(name, fields, said, trained, photos, tmp_path):
    assert said in refusal(lambda: predicted(trained(name)[0] / 'weights', photos, tmp_path, **fields))


# ---- export ---------------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize('name', ['depth_segmentation', 'pose'])
def test_an_exported_program_finds_what_the_network_finds(name, trained, photos, tmp_path):
    checkpoint = trained(name)[0] / 'weights'
    size = [] if name == 'pose' else ['--image_size=65x97']
    command = ['experiments/export_network.py', '--config=configs/from_checkpoint.py', f'--checkpoint={checkpoint}']
    done = forks.run(*command, *size, f'--out={tmp_path / "program"}')
    assert done.returncode == 0, done.stderr
    ran = forks.run(tmp_path / 'program/run_network.py', *sorted(photos.iterdir()), f'--out={tmp_path / "found"}')
    assert ran.returncode == 0, ran.stderr
    network = dpc_jax.load_network(checkpoint)
    for number in range(3):
        image = np.asarray(Image.open(photos / f'{number}.png'))
        found = dpc_jax.predict(network, image)
        if name == 'pose':
            held = json.loads((tmp_path / 'found/keypoints.json').read_text())
            joints = np.array(held['people'][number]['keypoints']).reshape(-1, 3)
            assert (joints.shape, found.joints[0].shape) == ((16, 3), (16, 3))
            assert np.abs(joints[:, 2] - found.joints[0, :, 2]).max() < 0.05  # other interpolation of the crop
            continue
        depth = np.asarray(Image.open(tmp_path / f'found/{number}_depth.png')) / 1000
        label = np.asarray(Image.open(tmp_path / f'found/{number}.png'))
        assert depth.shape == label.shape == image.shape[:2]


# ---- overfit --------------------------------------------------------------------------------------------------------


def learned(config, steps):
    """The config of a network from ImageNet weights that learns a few images by heart."""
    config.context.name, config.decoder.output_stride = 'none', 4
    config.decoder.filters, config.decoder.low_level_filters = 32, 16
    config.backbone.update({'name': 'mobilenet_v2', 'width': 1.0, 'output_stride': 16})
    config.train.update({'steps': steps, 'workers': 0, 'flip_probability': 0.0, 'bn_decay': 0.9, 'ema_decay': 0.0})
    config.train.update({'log_every': 20, 'evaluate_every': 0, 'checkpoint_every': 0, 'keep': 1, 'accumulate': 1})
    adam = {'optimizer': 'adam', 'learning_rate': 0.002, 'weight_decay': 0.0}
    del config.train.parts
    config.train.parts = {part: dict(adam) for part in ('backbone', 'decoder', 'logits')}
    config.dataset.generated = 0
    return config


@pytest.mark.slow
def test_distances_of_real_images_are_learned(shared, tmp_path, one_device):
    config = learned(nyud_depth.get_config(), 100)
    config.dataset.root = str(shared('data/fixtures/nyudv2'))
    config.train.init.checkpoint = str(shared('data/mobilenet_v2/imagenet.npz'))
    config.task.output, config.train.parts.logits.learning_rate = 'exp', 0.02
    config.train.batch_size, config.train.crop_size, config.train.scales = 2, (113, 161), (0.25,)
    config.evaluate.split, config.evaluate.scales = 'train', (0.25,)
    found = train.run(config, tmp_path).row
    assert found['rmse'] < 0.3
    assert found['delta1'] > 0.98


@pytest.mark.slow
def test_joints_of_real_people_are_learned(shared, tmp_path, one_device):
    config = learned(mpii_pose.get_config(), 60)
    config.dataset.root = str(shared('data/fixtures/mpii'))
    config.train.init.checkpoint = str(shared('data/mobilenet_v2/imagenet.npz'))
    for split in ('train', 'val'):
        config.dataset[f'{split}_annotations'] = 'annotations/test_mpii.json'
    config.dataset.heads = 'joints'
    config.task.update({'zoom': 0.0, 'turn': 0.0})
    config.train.batch_size, config.train.crop_size = 5, (129, 129)
    config.evaluate.crop_size, config.evaluate.flip, config.evaluate.batch_size = (129, 129), False, 5
    found = train.run(config, tmp_path).row
    assert found['pckh_0.5'] > 0.97


@pytest.mark.slow
def test_classes_of_a_real_image_are_learned(shared, tmp_path, one_device):
    config = learned(cityscapes.get_config(), 160)
    config.dataset.root = str(shared('data/fixtures/cityscapes_tiny'))
    config.train.init.checkpoint = str(shared('data/mobilenet_v2/imagenet.npz'))
    config.train.split = config.evaluate.split = 'val'
    config.train.parts.logits.learning_rate = 0.02
    config.train.batch_size, config.train.crop_size, config.train.scales = 1, (129, 257), (1.0,)
    config.evaluate.crop_size = (0, 0)
    found = train.run(config, tmp_path).row
    assert found['pixel_accuracy'] > 0.96
    assert found['miou'] > 0.55  # ten classes are there, some in a few pixels
