"""The menu of tasks: what all of them keep, and that a training step and an evaluation are the same law for each."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import camvid, coco_pose, mpii_pose, nyud_depth, nyud_joint
from dpc_jax import datasets, drawn_data, inference, preprocess, sharding, tasks
from dpc_jax.base import IGNORE_LABEL, InputError
from dpc_jax.inference import InferenceSettings
from dpc_jax.segmenter import Segmenter
from dpc_jax.task import Views
from dpc_jax.training import optimizer, step
from tests import small

CONFIGS = {
    'segmentation': camvid,
    'depth': nyud_depth,
    'depth_segmentation': nyud_joint,
    'pose': mpii_pose,
    'pose of coco': coco_pose,
}
SIZE = (33, 41)
VIEWS = Views(SIZE, (0.5, 1.0, 1.5), 0.5)

every = pytest.mark.parametrize('name', CONFIGS)


def config_of(name):
    return CONFIGS[name].get_config('toy')


def task_of(name, /, **fields):
    config = config_of(name)
    made = tasks.of({**tasks.fields_of(config), **fields}, datasets.facts(config.dataset))
    return dataclasses.replace(made, size=SIZE) if made.of_crops else made


@pytest.fixture(scope='module')
def examples(tmp_path_factory):
    """`examples(name)`: a few drawn examples of the data set of a task."""
    folder, held = tmp_path_factory.mktemp('data'), {}

    def of(name):
        config = config_of(name).dataset
        if name not in held:
            root = folder / config.name
            if not root.exists():
                drawn_data.write(config.name, root, 3, size=(30, 40))
            config.root = str(root)
            held[name] = datasets.load(config.name, config, 'val')
        return held[name]

    return of


def batch(task, dataset, count=3):
    seen = [task.augment(np.random.SeedSequence(index), dataset[index], VIEWS) for index in range(count)]
    images = np.stack([one.image for one in seen])
    return jnp.asarray(images), jax.tree.map(lambda *parts: jnp.asarray(np.stack(parts)), *(one.target for one in seen))


def wide(target):
    return jax.tree.map(lambda x: x.astype(jnp.int32) if x.dtype == jnp.uint8 else x, target)


# ---- the menu -------------------------------------------------------------------------------------------------------


def test_the_menu_has_the_four_tasks():
    assert tasks.names() == ('depth', 'depth_segmentation', 'pose', 'segmentation')


def test_a_config_without_a_task_is_segmentation():
    config = camvid.get_config('toy')
    with_one = tasks.make(config)
    del config.task
    assert tasks.make(config) == with_one
    assert with_one.name == 'segmentation'


@every
def test_a_task_is_made_again_from_its_fields(name):
    task = task_of(name)
    assert tasks.of(task.fields(), task.facts) == task
    assert hash(task) == hash(tasks.of(task.fields(), task.facts))
    assert len(task.names) == len(task.palette) == task.channels
    assert task.main.name in task.logged


def change(name, /, **fields):
    return lambda: task_of(name, **fields)


@pytest.mark.parametrize(
    ('make', 'said'),
    [
        (change('depth', name='dept'), "task.name is 'dept'; allowed: depth, depth_segmentation, pose, segmentation"),
        (change('segmentation', name='depth', loss='l1', output='exp', limits=(1, 2), crop='none'), 'camvid has label'),
        (
            change('pose', name='segmentation'),
            "task.name is 'segmentation', which needs a data set with label; mpii has",
        ),
        (change('depth', loss='huber'), "task.loss is 'huber'; allowed: berhu, l1, log_l2"),
        (change('depth', loss='log_l2'), "task.loss is 'log_l2' and task.output 'linear'"),
        (change('depth', output='log'), "task.output is 'log'; allowed: linear, exp"),
        (change('depth', crop='garg'), "task.crop is 'garg'; allowed: none, eigen"),
        (change('depth', limits=(3.0, 2.0)), 'task.limits is (3.0, 2.0)'),
        (change('depth_segmentation', depth_weight=-1.0), 'task.depth_weight is -1.0; it must be at least 0'),
        (change('pose', sigma=0.0), 'task.sigma is 0.0; it must be above 0'),
        (change('pose', zoom=1.0), 'task.zoom is 1.0'),
        (change('pose', turned=2.0), 'task.turned is 2.0; it must be a probability'),
        (change('depth', limits=(3.0,)), 'task.limits is (3.0,); it must be (nearest, farthest)'),
        (change('pose', stride=0), 'task.stride is 0; it must be at least 1'),
    ],
)
def test_what_cannot_be_is_one_line(make, said):
    with pytest.raises(InputError) as error:
        make()
    assert said in str(error.value)
    assert '\n' not in str(error.value)


@pytest.mark.parametrize('field', ['train.crop_size', 'evaluate.crop_size'])
def test_the_stride_of_heat_maps_divides_the_crop(field, fault):
    said = fault(lambda: task_of('pose', stride=7).check_size(field, (65, 65)))
    assert said == f'{field} is (65, 65) and task.stride 7, which must divide both sides less 1'


def test_segmentation_has_two_classes_at_least():
    with pytest.raises(InputError, match=r'^num_classes is 1; it must be at least 2$'):
        tasks.of({'name': 'segmentation'}, datasets.Facts('one', ('a',), ((0, 0, 0),)))


def test_a_field_that_is_missing_is_named():
    with pytest.raises(InputError, match=r"task.name is 'depth', which needs config\.task\.limits"):
        tasks.of({'name': 'depth'}, datasets.facts(config_of('depth').dataset))


@pytest.mark.parametrize('name', ['depth', 'pose'])
@pytest.mark.parametrize(('field', 'value'), [('class_weights', (1.0,)), ('hard_pixels', 0.5), ('scales', (0.5, 1.0))])
def test_what_is_of_classes_is_refused_in_the_training_of_others(name, field, value):
    train = config_of(name).train
    with train.ignore_type():
        train[field] = value
    if (name, field) == ('depth', 'scales'):
        task_of(name).for_training(train)
        return
    with pytest.raises(InputError, match=f'train.{field}'):
        task_of(name).for_training(train)


# ---- what a network sees --------------------------------------------------------------------------------------------


@every
def test_a_view_is_a_function_of_its_key(name, examples):
    task, dataset = task_of(name), examples(name)
    one, again, other = (task.augment(np.random.SeedSequence(key), dataset[0], VIEWS) for key in (1, 1, 2))
    jax.tree.map(np.testing.assert_array_equal, one, again)
    assert one.image.shape == (*SIZE, 3)
    assert any((a != b).any() for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True))


@every
def test_targets_of_nothing_have_the_shapes_of_others(name, examples):
    task = task_of(name)
    shapes = [
        jax.tree.map(lambda x: (np.shape(x), np.asarray(x).dtype), target)
        for target in (task.nothing(SIZE), task.whole(examples(name)[0], SIZE).target)
    ]
    assert shapes[0] == shapes[1]
    assert int(np.max(task.judged(jax.tree.map(lambda x: jnp.asarray(x)[None], wide_np(task.nothing(SIZE)))))) == 0


def wide_np(target):
    return jax.tree.map(lambda x: x.astype(np.int32) if x.dtype == np.uint8 else x, target)


def test_what_is_shown_larger_is_nearer(examples):
    """Each distance of a view, times its scale, is one of the image."""
    task, dataset = task_of('depth'), examples('depth')
    for key in range(12):
        seed = np.random.SeedSequence(key)
        view = preprocess.draw_view(seed, dataset[0].depth.shape, SIZE, scales=VIEWS.scales)
        seen = task.augment(seed, dataset[0], VIEWS._replace(flip_probability=0.5))
        back = np.unique(np.float32(view.factor) * seen.target)
        assert np.abs(back[:, None] - dataset[0].depth.ravel()).min(1).max() < 1e-5 or not back.any()


def test_a_map_is_seen_as_its_image_is():
    """A map that is the first channel of the image shows the same edges, and is mirrored with it."""
    image = np.zeros((20, 30, 3), np.uint8)
    image[5:15, 4:11] = 200
    example = preprocess.SegmentationExample(image, image[..., 0], 'a')
    for key in range(20):
        view = preprocess.draw_view(np.random.SeedSequence(key), (20, 30), (24, 28), scales=(0.5, 1.0, 1.7))
        crop = preprocess.see(view, example)
        seen = preprocess.see_map(view, image[..., 0], 255.0)
        np.testing.assert_array_equal(seen, crop.label)


def test_left_and_right_change_places_in_a_mirror(examples):
    """A joint and what the image shows there stay together, and the right wrist becomes the left one."""
    task, example = task_of('pose', zoom=0.0, turn=0.0), examples('pose')[0]
    plain, mirrored = (
        task.augment(np.random.SeedSequence(0), example, Views(SIZE, (1.0,), float(flipped)))
        for flipped in (False, True)
    )
    np.testing.assert_allclose(mirrored.image, plain.image[:, ::-1], atol=2)
    order = np.arange(16)
    for one, other in task.skeleton.pairs:
        order[[one, other]] = other, one
    np.testing.assert_allclose(
        mirrored.target['joints'][:, 0], (SIZE[1] - 1 - plain.target['joints'][:, 0])[order], atol=1e-3
    )
    np.testing.assert_allclose(mirrored.target['joints'][:, 1], plain.target['joints'][order, 1], atol=1e-3)
    np.testing.assert_array_equal(mirrored.target['visible'], plain.target['visible'][order])


# ---- a training step ------------------------------------------------------------------------------------------------


def network(task):
    return Segmenter(small.Backbone(), None, task.channels)


def run_step(task, images, target, *, parts=1, devices=1):
    net = network(task)
    settings = step.StepSettings(
        task, optimizer=optimizer.OptimizerSettings(steps=5, learning_rate=0.1), batch_norm='frozen'
    )
    mesh = sharding.data_mesh(devices)
    images, target = jax.tree.map(lambda x: x.reshape(parts, -1, *x.shape[1:]), (images, target))
    state = sharding.replicate(small.state(net, settings), mesh)
    state, report = step.make_step(net, settings, mesh)(jax.random.key(0), state, images, target)
    return float(report.loss), jax.tree.map(np.asarray, state.params)


@every
def test_parts_and_devices_change_nothing_but_rounding(name, examples):
    """With frozen norms: the loss is divided by what is counted in all parts. c of berHu is that of a part."""
    task = task_of(name, **({'loss': 'l1'} if 'depth' in name else {}))
    images, target = batch(task, examples(name), 2)
    images, target = jax.tree.map(lambda x: jnp.concatenate([x, x[::-1]]), (images, target))
    whole, params = run_step(task, images, target)
    for parts, devices in ((2, 1), (1, 4), (2, 2)):
        loss, others = run_step(task, images, target, parts=parts, devices=devices)
        assert loss == pytest.approx(whole, rel=1e-4)
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-3, atol=1e-5), params, others)


@every
def test_a_step_towards_the_gradient_makes_the_loss_smaller(name, examples):
    task = task_of(name)
    images, target = batch(task, examples(name))
    net, target = network(task), wide(target)
    variables = jax.jit(net.init)(jax.random.key(0), images)
    counted = jnp.maximum(task.counted(target), 1).astype(jnp.float32)

    def loss(params):
        logits = task.fitted(net.apply({**variables, 'params': params}, images), SIZE)
        return task.loss(logits, target, counted=counted, step=jnp.int32(0), parts=1)

    value, gradient = jax.value_and_grad(loss)(variables['params'])
    assert np.isfinite(value)
    norm = float(sum((leaf**2).sum() for leaf in jax.tree.leaves(gradient)))
    moved = jax.tree.map(lambda p, g: p - 1e-3 * float(value) / norm * g, variables['params'], gradient)
    assert float(loss(moved)) < float(value)


# ---- an evaluation --------------------------------------------------------------------------------------------------


@every
def test_counts_do_not_depend_on_devices_batches_or_order(name, examples):
    task, dataset = task_of(name), examples(name)
    net = network(task)
    seen = [task.whole(dataset[index], SIZE) for index in (0, 1, 2, 0)]
    images = np.stack([one.image for one in seen])
    target = jax.tree.map(lambda *parts: np.stack(parts), *(one.target for one in seen))
    variables = jax.jit(net.init)(jax.random.key(1), jnp.asarray(images[:1]))

    def counts(order, devices):
        mesh = sharding.data_mesh(devices)
        predict = inference.make_predict(net, task, InferenceSettings(), mesh)
        found = predict(
            jax.device_put(variables, sharding.replicated(mesh)),
            *jax.device_put(jax.tree.map(lambda x: x[order], (images, target)), sharding.along_data(mesh)),
        )
        assert np.asarray(found.finite).all()
        total = task.empty()
        for place in range(devices):
            total = task.merge(total, {key: np.asarray(value)[place] for key, value in found.counts.items()})
        return total, jax.tree.map(lambda x: np.asarray(x)[np.argsort(order)], found.found)

    first, found = counts(np.arange(4), 1)
    second, again = counts(np.array([2, 0, 3, 1]), 4)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), dict(first), dict(second))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-3), found, again)


@every
def test_a_mirrored_pass_of_a_mirrored_image_is_the_pass_itself(name, examples):
    """What a pass adds to the mean has left and right as the image has them: the two passes of a symmetric network,
    of an image and of its mirror image, are mirror images of each other."""
    task = task_of(name)
    net = network(task)
    images, _ = batch(task, examples(name), 1)
    variables = jax.jit(net.init)(jax.random.key(2), images)
    one = inference.pass_scores(net, task, variables, images)
    mirrored = inference.pass_scores(net, task, variables, images[:, :, ::-1], jnp.asarray(True))
    expected = mirrored[:, :, ::-1]
    if task.of_crops:
        order = np.arange(task.channels)
        for left, right in task.skeleton.pairs:
            order[[left, right]] = right, left
        expected = expected[..., order]
    np.testing.assert_allclose(one, expected, rtol=1e-4, atol=1e-4)


def test_of_an_enlarged_image_distances_are_larger_by_the_scale():
    task = task_of('depth')
    metres = jnp.full((1, 2, 3, 1), 2.0)
    for scale in (0.5, 2.0):
        np.testing.assert_allclose(task.of_pass(metres, False, scale=scale, alone=False), 2 * scale)
    logs = task_of('depth', output='exp', loss='log_l2')
    np.testing.assert_allclose(logs.of_pass(jnp.log(metres), False, scale=1.0, alone=True), 2.0, rtol=1e-6)


def test_joint_scores_are_those_of_each_task(examples):
    joint, depth = (task_of(name) for name in ('depth_segmentation', 'depth'))
    segmentation = joint.segmentation
    example = examples('depth_segmentation')[0]
    size = (30, 40)
    whole = joint.whole(example, size).target
    outputs = jnp.asarray(np.random.default_rng(0).normal(2, 1, (1, *size, joint.channels)), jnp.float32)
    target = jax.tree.map(lambda x: jnp.asarray(x)[None], whole)
    found = joint.found(outputs)
    np.testing.assert_array_equal(found['label'], segmentation.found(outputs[..., :-1]))
    np.testing.assert_array_equal(found['depth'], depth.found(outputs[..., -1:]))
    counts = joint.merge(joint.empty(), jax.tree.map(np.asarray, joint.measure(found, target)))
    scores = joint.compute(counts)
    alone = depth.compute(
        depth.merge(depth.empty(), jax.tree.map(np.asarray, depth.measure(found['depth'], target['depth'])))
    )
    assert {name: scores[name] for name in alone} == alone
    labels = np.asarray(target['label'])
    assert counts['confusion'].sum() == (labels != IGNORE_LABEL).sum()
    text = joint.headline(scores)
    assert 'mIoU' in text
    assert 'RMSE' in text


def test_distances_beyond_the_limits_or_the_window_are_not_judged(examples):
    example = examples('depth')[0]
    plain, near, window = (task_of('depth'), task_of('depth', limits=(0.001, 2.0)), task_of('depth', crop='eigen'))
    size = example.depth.shape
    judged = [np.asarray(task.whole(example, size).target) > 0 for task in (plain, near, window)]
    np.testing.assert_array_equal(judged[0], example.depth > 0)
    np.testing.assert_array_equal(judged[1], (example.depth > 0) & (example.depth <= 2))
    assert judged[2].sum() < judged[0].sum()


def test_right_joints_are_perfect_and_wrong_ones_are_not(examples):
    task, dataset = task_of('pose'), examples('pose')
    rows, others = [], []
    for example in dataset:
        right = np.concatenate([example.person.joints, np.ones((16, 1))], 1)
        rows += task.rows(example, right)
        others += task.rows(example, right + np.array([60, 0, 0]))
    assert task.compute({}, rows)['pckh_0.5'] == 1
    assert task.compute({}, others)['pckh_0.5'] == 0


def test_right_joints_have_an_average_precision_of_1(examples):
    task, dataset = task_of('pose of coco'), examples('pose of coco')
    rows = []
    for example in dataset:
        rows += task.rows(example, np.concatenate([example.person.joints, np.ones((17, 1))], 1))
    assert task.compute({}, rows, dataset.truth())['ap'] == 1
    rows[0]['image'] = 99
    with pytest.raises(InputError, match='a detection names the image 99, which the annotations do not have'):
        task.compute({}, rows, dataset.truth())


@pytest.mark.parametrize('name', ['pose', 'pose of coco'])
def test_joints_of_a_crop_come_back_into_the_image(name, examples):
    task, example = task_of(name), examples(name)[1]
    target = task.whole(example, SIZE).target
    found = np.concatenate([target['joints'], np.ones((task.channels, 1))], 1)
    np.testing.assert_allclose(task.of_example(found, example)[:, :2], example.person.joints, atol=1e-3)


# ---- said before any work -------------------------------------------------------------------------------------------


class Of(datasets.Dataset):
    """A data set of given examples."""

    name, classes, palette = 'given', ('a', 'b'), np.zeros((2, 3), np.uint8)

    def __init__(self, *held):
        object.__setattr__(self, 'split', 'train')
        object.__setattr__(self, 'held', held)

    def __len__(self):
        return len(self.held)

    def __getitem__(self, index):
        return self.held[index]

    example_name = image_bytes = fingerprint = None


def depth_example(values):
    values = np.asarray(values, np.float32)
    return preprocess.DepthExample(
        np.zeros((*values.shape, 3), np.uint8), np.zeros(values.shape, np.uint8), values, 'a'
    )


@pytest.mark.parametrize(
    ('values', 'said'),
    [
        ([[0, 0], [0, 0]], 'the distances of train are all missing (0)'),
        ([[200, 300], [0, 500]], '200 to 500 m, all beyond task.limits (0.001, 10.0): is dataset.depth_scale right'),
    ],
)
def test_a_wrong_scale_is_refused_before_any_work(values, said, fault):
    assert said in fault(lambda: task_of('depth').announce(Of(depth_example(values))))


def test_what_is_odd_about_distances_is_said(capsys):
    task_of('depth').announce(Of(depth_example([[0, 0, 0], [2, 3, 40]])))
    out = capsys.readouterr().out
    assert 'distances of train (1 of 1 images): 2.00 to 40.00 m, 50.0 % missing' in out
    assert '33.3 % of the distances of train are beyond' in out


def test_rooms_without_labels_are_refused_where_they_are_needed(examples, fault):
    example = examples('depth_segmentation')[0]
    bare = example._replace(label=np.full_like(example.label, IGNORE_LABEL))
    assert 'hold no class at all; the task depth needs none' in fault(
        lambda: task_of('depth_segmentation').announce(Of(bare))
    )


def test_people_without_joints_or_heads_are_said(examples, capsys, fault):
    task, dataset = task_of('pose'), examples('pose')
    bare = [dataset[0]._replace(person=dataset[0].person._replace(visible=np.zeros(16, np.uint8)))]
    assert 'no joint of train is labelled' in fault(lambda: task.announce(Of(*bare)))
    task.announce(Of(dataset[0]._replace(person=dataset[0].person._replace(head=0.0))))
    assert "have no size (dataset.heads 'joints' measures them by joints)" in capsys.readouterr().out
