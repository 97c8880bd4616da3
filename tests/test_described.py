"""What checkpoints say of their networks: enough to build them, and to refuse another one of the same shapes."""

import importlib
import json
import logging
import pathlib

import jax
import ml_collections
import numpy as np
import pytest

import dpc_jax
from configs import from_checkpoint, scenes
from dpc_jax import contexts, datasets, described, networks, weights
from dpc_jax.journeys import evaluate, train
from dpc_jax.spaces.dpc import Space

SCENES = ml_collections.ConfigDict({'name': 'scenes'})
CONFIGS = ('scenes', 'camvid', 'cityscapes', 'coco', 'pascal_voc', 'person_part', 'voc_aux', 'camvid_aux')
CONFIGS += ('ade20k', 'pascal_context')


def config_of(name='dpc', **fields):
    config = scenes.get_config('toy')
    config.context.name = name
    config.context.filters = 4
    config.update_from_flattened_dict({field.replace('__', '.'): value for field, value in fields.items()})
    return config


def said(config, folder):
    """A folder with the description of the config's network and no weights."""
    folder.mkdir(exist_ok=True)
    for name, text in described.files(described.of(config)).items():
        (folder / name).write_text(text)
    return folder


def other_cell():
    """A cell of the same shapes as the released one: two of its rates exchanged."""
    space = Space(5)
    genotype = space.named('dpc_top1')
    parsed = json.loads(space.to_json(genotype))
    places = [index for index, branch in enumerate(parsed) if 'rate' in branch]
    first, second = places[1], places[2]
    parsed[first]['rate'], parsed[second]['rate'] = parsed[second]['rate'], parsed[first]['rate']
    assert parsed[first]['rate'] != parsed[second]['rate']
    return json.dumps(parsed)


@pytest.mark.parametrize('name', CONFIGS)
def test_the_network_of_every_config_is_built_from_what_its_checkpoint_says(name, tmp_path):
    config = importlib.import_module(f'configs.{name}').get_config()
    said(config, tmp_path)
    open_config = described.settled(from_checkpoint.get_config(), tmp_path)
    classes = datasets.classes(config.dataset)
    for other in (open_config, described.config_of(tmp_path)):
        assert networks.make(other, len(classes)) == networks.make(config, len(classes))
    held = described.read(tmp_path)
    assert (held.dataset, held.classes) == (config.dataset.name, classes)
    assert open_config.dataset.name == config.dataset.name
    kind = datasets.kind(config.dataset)
    np.testing.assert_array_equal(described.found_task(config, tmp_path).palette, kind.palette)
    assert held.export_ids == kind.export_ids
    again = datasets.kind(open_config.dataset)  # the facts that a config says go with the checkpoint
    assert (again.classes, again.splits, again.meaning) == (kind.classes, kind.splits, kind.meaning)


@pytest.mark.parametrize('name', contexts.names())
def test_every_context_names_fields_that_it_has(name):
    config = config_of(name) if name != 'aux_cells' else importlib.import_module('configs.voc_aux').get_config()
    found = contexts.described(config)
    assert {'name', 'filters', 'pooling', 'dropout_rate'} <= found.keys() <= {*config.context}


@pytest.mark.parametrize(
    ('there', 'here', 'line'),
    [
        ({}, {'context__genotype': other_cell()}, 'context.genotype is dpc_top1 there and '),
        ({'name': 'aspp'}, {'name': 'aspp', 'context__rates': (3, 6, 9)}, 'context.rates is [6, 12, 18] there and [3,'),
        ({'name': 'aspp'}, {}, 'context.name is "aspp" there and "dpc" here'),
        ({}, {'context__pooling': 'binned'}, 'context.pooling is "sliding" there and "binned" here'),
        ({}, {'backbone__width': 0.2}, 'backbone.width is 0.1 there and 0.2 here'),
        ({}, {'dataset__name': 'camvid'}, 'is of other classes: it has 13 of scenes, the data set has 11'),
    ],
)
def test_another_network_is_refused_and_the_difference_is_named(tmp_path, fault, there, here, line):
    folder = said(config_of(**there), tmp_path / 'held')
    found = fault(lambda: described.settled(config_of(**here), folder))
    assert found.startswith(f"checkpoint '{folder}' is of ")
    assert line in found


def test_networks_of_the_same_shapes_cannot_be_told_apart_otherwise():
    """So the description is what refuses them."""
    shapes = [
        networks.variable_shapes(networks.make(config, 5))
        for config in (config_of(), config_of(context__genotype=other_cell()))
    ]
    assert jax.tree.map(lambda leaf: leaf.shape, shapes[0]) == jax.tree.map(lambda leaf: leaf.shape, shapes[1])


def test_classes_of_other_names_are_refused(tmp_path, fault):
    folder = said(config_of(), tmp_path)
    text = json.loads((folder / described.FILE).read_text())
    text['classes'][3] = 'lamp'
    (folder / described.FILE).write_text(json.dumps(text))
    classes = datasets.classes(SCENES)
    assert f"class 3 is 'lamp' there and '{classes[3]}' in the data set" in fault(
        lambda: described.settled(config_of(), folder)
    )


def test_another_output_stride_is_said_and_its_rates_follow(tmp_path, capsys):
    folder = said(config_of('aspp'), tmp_path)
    found = described.settled(config_of('aspp', backbone__output_stride=8), folder)
    assert capsys.readouterr().out == 'output stride 8; the checkpoint was trained at 16, atrous rates follow\n'
    assert found.backbone.output_stride == 8
    config = from_checkpoint.get_config()
    config.backbone.output_stride = 8
    assert described.settled(config, folder).backbone.output_stride == 8


def test_dropout_and_the_name_of_a_cell_make_no_other_network(tmp_path):
    folder = said(config_of(), tmp_path / 'held')
    text = Space(5).to_json(Space(5).named('dpc_top1'))
    described.settled(config_of(context__dropout_rate=0.4, context__genotype=text), folder)


def test_an_older_checkpoint_is_taken_for_the_configs_with_a_warning(tmp_path, caplog, fault):
    with caplog.at_level(logging.WARNING):
        assert described.settled(config_of(), tmp_path).context.name == 'dpc'
    assert 'does not say which network it is of' in caplog.text
    (tmp_path / 'SHA256SUMS').write_text('')
    line = fault(lambda: described.settled(from_checkpoint.get_config(), tmp_path))
    assert line.startswith(f"backbone.name is not given, and checkpoint '{tmp_path}' does not say which network")
    assert 'give the config that it was trained with, too' in fault(lambda: described.config_of(tmp_path))
    for ask in (described.config_of, lambda folder: described.settled(from_checkpoint.get_config(), folder)):
        assert fault(lambda ask=ask: ask(tmp_path / 'no')) == f"checkpoint '{tmp_path / 'no'}': no such folder"


def test_a_folder_above_that_of_the_weights_is_named(tmp_path, fault):
    (tmp_path / 'net/weights').mkdir(parents=True)
    (tmp_path / 'net/weights/SHA256SUMS').write_text('')
    line = fault(lambda: described.settled(from_checkpoint.get_config(), tmp_path / 'net'))
    assert line.endswith(f"holds no weights of this project; did you mean '{tmp_path / 'net/weights'}'?")


def test_label_files_that_are_read_in_another_way_are_warned_of(tmp_path, capsys):
    config = from_checkpoint.get_config()
    for ids in ([0, 255], [255, 0]):
        fields = {'classes': ['a', 'b'], 'images': 'x', 'labels': 'y', 'splits': {'train': 0.5, 'val': 0.5}}
        (tmp_path / 'dataset.json').write_text(json.dumps({**fields, 'label_kind': 'id', 'ids': ids}))
        trained = importlib.import_module('configs.own_data').get_config()
        trained.dataset.root = str(tmp_path)
        if ids == [0, 255]:
            said(trained, tmp_path / 'held')
        config.dataset.root = str(tmp_path)
        described.settled(config, tmp_path / 'held')
        assert ('warning: values in label files' in capsys.readouterr().out) == (ids == [255, 0])


@pytest.mark.parametrize(
    'text', ['{', '[]', '{"format": 1}', '{"format": 1, "network": {"backbone": 3}}', '{"format": "x"}']
)
def test_a_description_that_cannot_be_read_is_one_line(tmp_path, fault, text):
    (tmp_path / described.FILE).write_text(text)
    assert fault(lambda: described.read(tmp_path)).startswith(f'{tmp_path / described.FILE} cannot be read: ')


def test_fields_of_the_data_set_go_with_the_checkpoint_and_are_said(tmp_path, capsys):
    config = config_of(dataset__noise=9.0)
    found = described.settled(from_checkpoint.get_config(), said(config, tmp_path))
    assert (found.dataset.noise, found.dataset.size) == (9.0, (65, 97))
    assert 'the data set as in the training of the checkpoint: ' in (out := capsys.readouterr().out)
    assert 'noise=9.0' in out


def test_what_takes_part_in_training_alone_makes_no_other_network(tmp_path):
    """Nor do fields that a config may lack, if they are as by default."""
    config = importlib.import_module('configs.voc_aux').get_config('toy')
    folder = said(config, tmp_path)
    with config.unlocked():
        del config.context.repeats
        del config.context.auxiliary_inner
        config.context.auxiliary = 'none'
    described.settled(config, folder)
    described.check_start(config, folder, 'all')


def test_a_later_format_is_one_line(tmp_path, fault):
    (tmp_path / described.FILE).write_text('{"format": 2}')
    assert 'format 2, which a later version wrote' in fault(lambda: described.read(tmp_path))


def test_a_training_does_not_begin_with_the_weights_of_another_cell(tmp_path, fault):
    folder = said(config_of(), tmp_path / 'held')
    config = config_of(context__genotype=other_cell())
    line = fault(lambda: described.check_start(config, folder, 'all'))
    assert 'context.genotype is dpc_top1 there' in line
    assert line.endswith("; train.init.parts 'backbone' takes what both have")
    described.check_start(config, folder, 'backbone')
    described.check_start(config_of(), folder, 'all')
    described.check_start(config_of('aspp'), folder, 'all')  # variables of other names: nothing of it is loaded
    described.check_start(config, tmp_path, 'all')  # official weights have no description
    config.train.init.checkpoint = str(folder)
    assert 'context.genotype is dpc_top1 there' in fault(lambda: train.initial_variables(config))


def test_an_evaluation_refuses_before_any_work(tmp_path, fault):
    config = config_of('aspp', context__rates=(3, 6, 9), journey='evaluate')
    config.checkpoint = str(said(config_of('aspp'), tmp_path / 'held'))
    assert 'context.rates is [6, 12, 18] there' in fault(lambda: evaluate.run(config, tmp_path / 'work'))
    assert not (tmp_path / 'work').exists()
    assert 'context.rates is [6, 12, 18] there' in fault(lambda: dpc_jax.load_network(config))


def test_the_description_is_among_what_the_checksums_cover(tmp_path, fault):
    variables = {'params': {'x': np.ones(2, np.float32)}}
    weights.save(tmp_path / 'held', variables, beside=described.files(described.of(config_of())))
    assert described.read(tmp_path / 'held').dataset == 'scenes'
    np.testing.assert_array_equal(weights.read(tmp_path / 'held')['params']['x'], variables['params']['x'])
    (tmp_path / 'held' / described.FILE).write_text('{}')
    assert f'{described.FILE} is not as' in fault(lambda: weights.read(tmp_path / 'held'))


def test_the_file_says_what_images_a_network_takes():
    held = json.loads(described.files(described.of(config_of()))[described.FILE])
    assert held['images'] == {'channels': 'RGB', 'range': [0, 255], 'padding': 127.5}
    assert held['format'] == described.FORMAT
    assert isinstance(ml_collections.ConfigDict(held['network']), ml_collections.ConfigDict)
    assert pathlib.Path(described.FILE).suffix == '.json'
