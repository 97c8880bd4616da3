"""Every config builds and is accepted, and every value that cannot work is refused in one line before any work."""

import ast
import importlib
import math
import pathlib

import ml_collections
import pytest
from absl import flags
from ml_collections import config_flags

from configs import common, scenes_search
from dpc_jax import assembly, command_line, datasets, evaluation, rerank
from dpc_jax.base import InputError
from dpc_jax.training import config as train_config

ROOT = pathlib.Path(__file__).resolve().parent.parent
NAMES = sorted(
    path.stem for path in (ROOT / 'configs').glob('*.py') if path.stem not in ('__init__', 'common', 'from_checkpoint')
)
CHECKS = {'search': assembly.check, 'train': lambda config: train_config.check(config, num_devices=1)}
COMMON = {
    ('search', 'dpc'): common.search_config,
    ('train', 'dpc'): common.network_config,
    ('search', 'aux_cells'): common.aux_search_config,
    ('train', 'aux_cells'): common.aux_network_config,
}
PAPERS = {'dpc': '1809.04184', 'aux_cells': '1810.10804'}
MORE = {
    **{'pascal_voc': ('stage2', 'stage2,toy'), 'pascal_context': ('background', 'background,toy')},
    **dict.fromkeys(('mpii_pose', 'coco_pose'), ('deeplab', 'deeplab,toy')),
    'camvid_aux': ('aspp', 'dpc', 'dpc,toy'),
}
ARGS = [(name, arg) for name in NAMES for arg in ('', 'toy', *MORE.get(name, ()))]


def config_of(name, arg=''):
    return importlib.import_module(f'configs.{name}').get_config(arg)


def space_of(config):
    return config.space.name if config.journey == 'search' else config.context.name


def fields(config, prefix=''):
    for name, value in config.items():
        if isinstance(value, ml_collections.ConfigDict):
            yield from fields(value, f'{prefix}{name}.')
        yield prefix + name


def changed(field, value):
    config = scenes_search.get_config('toy')
    *parents, last = field.split('.')
    place = config
    for parent in parents:
        place = place[parent]
    place[last] = value
    return config


def refusal(config):
    with pytest.raises(InputError) as error:
        assembly.check(config)
    text = str(error.value)
    assert '\n' not in text
    return text


@pytest.mark.parametrize('name', NAMES)
def test_a_config_says_the_paper_and_the_command(name):
    text = ast.get_docstring(ast.parse((ROOT / f'configs/{name}.py').read_text()))
    assert PAPERS[space_of(config_of(name))] in text
    assert f'python run.py --config=configs/{name}.py' in text


@pytest.mark.parametrize(('name', 'arg'), ARGS)
def test_a_config_builds_and_is_accepted(name, arg, drawn):
    config = config_of(name, arg)
    if name.startswith('own_data') and not arg:
        config.dataset.root = str(drawn('folders'))  # their classes stand in its dataset.json
    CHECKS[config.journey](config)
    if config.journey == 'train':
        evaluation.check(config)


@pytest.mark.parametrize(('name', 'arg'), ARGS)
def test_a_config_has_the_common_fields_and_no_others(name, arg):
    def own(config):
        """Without what data sets and tasks have for themselves, and without rules of parts."""
        free = ('dataset.', 'task.', 'train.parts.')
        return {field for field in fields(config) if not field.startswith(free)}

    config = config_of(name, arg)
    first_system = {'deeplab', 'aspp', 'dpc'} & set(arg.split(','))
    common_one = common.network_config() if first_system else COMMON[config.journey, space_of(config)]()
    assert own(config) == own(common_one)


@pytest.mark.parametrize('name', NAMES)
def test_an_unknown_argument_is_refused_in_one_line(name):
    with pytest.raises(
        ValueError, match=r"config argument ':toi' is not known; allowed: none, (':(stage2|background)', )?':toy'"
    ):
        config_of(name, 'toi')


def test_the_common_values_are_those_of_the_paper():
    config = common.search_config()
    # §4.1 and §4.2: 28K cells of 5 branches and 256 filters, crops of 769, 30K steps of batch 8, 0.01 and 4e-5.
    assert (config.search.num_candidates, config.space.num_branches, config.cell.filters) == (28_000, 5, 256)
    assert (config.cache.crop_size, config.proxy.steps, config.proxy.batch_size) == ((769, 769), 30_000, 8)
    assert (config.proxy.learning_rate, config.proxy.power, config.proxy.weight_decay) == (0.01, 0.9, 4e-5)


def test_the_values_of_training_are_those_of_the_paper():
    # §4.2 by way of DeepLabv3, and official train.py: 90K steps of batch 16, crops of 769, 0.01 by poly 0.9, 4e-5.
    train = config_of('cityscapes').train
    assert (train.steps, train.batch_size, train.crop_size) == (90_000, 16, (769, 769))
    assert (train.learning_rate, train.power, train.momentum, train.weight_decay) == (0.01, 0.9, 0.9, 4e-5)
    # DeepLabv3 §4: 30K and 0.007 on train_aug, then 30K, frozen norms, output stride 8, on trainval.
    first, second = config_of('pascal_voc'), config_of('pascal_voc', 'stage2')
    assert (first.train.steps, first.train.learning_rate, first.train.split) == (30_000, 0.007, 'train_aug')
    assert (second.train.batch_norm, second.backbone.output_stride, second.train.split) == ('frozen', 8, 'trainval')


def test_the_values_of_auxiliary_cells_are_those_of_the_release():
    """Nekrasov et al.: 4,000 samples, 5 epochs of batch 64, Adam, clipping, averages; width 48, then 64."""
    search = config_of('voc_aux_search')
    proxy, dataset = search.proxy, search.dataset
    assert (dataset.train_list, dataset.train_images, search.cache.views) == ('train_aug', 4000, 1)
    assert dataset.held_out == 1059  # 10,582 - 9,523
    assert (proxy.batch_size, proxy.steps, proxy.polyak, proxy.polyak_every) == (64, 5 * (4000 // 64), 0.9, 4000 // 64)
    assert (proxy.optimizer, proxy.learning_rate, proxy.weight_decay, proxy.clip_norm) == ('adam', 3e-3, 1e-5, 3.0)
    assert (search.cache.crop_size, search.cell.filters, proxy.bn_decay) == ((257, 257), 48, 0.9)
    assert (search.search.sampler, search.search.population) == ('controller', 1)
    assert search.search.score == 'geometric_mean_without_background'
    for config in (config_of('voc_aux'), config_of('camvid_aux'), config_of('voc_aux_search').rerank):
        parts = config.train.parts
        assert (parts.backbone.optimizer, parts.backbone.learning_rate) == ('sgd', 1e-3)
        assert {(parts[part].optimizer, parts[part].learning_rate) for part in ('context', 'logits', 'auxiliary')} == {
            ('adam', 3e-3)
        }
        assert (config.context.filters, config.decoder.output_stride) == (64, 0)


@pytest.mark.parametrize('name', ['voc_aux_search', 'camvid_aux_search'])
def test_the_best_decoders_can_be_trained_as_whole_networks(name):
    config = config_of(name, 'toy')
    config.search.ladder = (('full', 1),)
    rerank.check(config, assembly.make_space(config))


def test_two_networks_of_the_first_system_are_refused():
    with pytest.raises(ValueError, match="names two networks; allowed: ':aspp' or ':dpc'"):
        config_of('camvid_aux', 'aspp,dpc')


def test_own_data_without_a_folder_is_refused():
    for name in ('own_data', 'own_data_search'):
        config = config_of(name)
        with pytest.raises(InputError, match=r'dataset\.root is empty'):
            datasets.classes(config.dataset)


@pytest.mark.parametrize(('arg', 'count', 'first'), [('', 59, 'aeroplane'), ('background', 60, 'background')])
def test_the_background_of_pascal_context_is_left_out_or_kept(arg, count, first):
    config = config_of('pascal_context', arg).dataset
    kind = datasets.kind(config)
    assert (len(kind.classes), kind.classes[0], kind.published['val']) == (count, first, 5105)
    assert kind.export_ids == (None if arg else tuple(range(1, 60)))


def test_the_classes_of_ade20k():
    """The 150 of objectInfo150.txt: some of its rows, by their number."""
    kind = datasets.kind(config_of('ade20k').dataset)
    rows = {1: 'wall', 13: 'person', 21: 'car', 45: 'chest of drawers', 101: 'poster', 128: 'bicycle', 150: 'flag'}
    assert {number: kind.classes[number - 1] for number in rows} == rows
    assert (len(kind.classes), kind.export_ids) == (150, tuple(range(1, 151)))


def test_there_are_configs_of_every_journey():
    journeys = {name: config_of(name).journey for name in NAMES}
    assert set(journeys.values()) == set(CHECKS)
    assert all((journey == 'search') == name.endswith('_search') for name, journey in journeys.items())


def test_free_fields_exist():
    known = {field for name in NAMES for field in fields(config_of(name))}
    assert set(assembly.FREE_FIELDS) <= known


@pytest.mark.parametrize(
    ('field', 'value', 'said'),
    [
        ('backbone.output_stride', 32, 'output stride 32: the rates of a cell need 4, 8 or 16'),
        ('backbone.output_stride', 7, 'output stride 7 of mobilenet_v2_shallow: it must be one of 8, 16, 32'),
        ('backbone.name', 'resnet', "backbone.name is 'resnet'; allowed: mobilenet_v2"),
        ('backbone.width', 0.0, 'width 0.0'),
        ('backbone.pretrain.steps', 0, 'backbone.pretrain.steps is 0'),
        ('backbone.pretrain.batch_size', -2, 'backbone.pretrain.batch_size is -2'),
        ('backbone.pretrain.learning_rate', 0.0, 'backbone.pretrain.learning_rate is 0.0'),
        ('backbone.pretrain.crop_size', (66, 65), 'backbone.pretrain.crop_size is (66, 65)'),
        ('backbone.pretrain.crop_size', (65,), 'backbone.pretrain.crop_size is (65,); it must be (height, width)'),
        ('backbone.pretrain.loss_stride', 7, 'loss_stride (7)'),
        ('cache.crop_size', (66, 97), 'crop size (66, 97) is not 16 * k + 1; the next that is: (81, 97)'),
        ('cache.crop_size', (65,), 'cache.crop_size is (65,); it must be (height, width)'),
        ('cache.crop_size', (65.0, 97.0), 'cache.crop_size is (65.0, 97.0)'),
        ('cache.crop_size', (-15, 1), 'cache.crop_size is (-15, 1)'),
        ('cache.views', 0, 'cache.views is 0'),
        ('cache.scales', (), 'cache.scales is ()'),
        ('cache.scales', (1.0, 0.0), 'cache.scales is (1.0, 0.0)'),
        ('cache.scales', ('one',), "cache.scales is ('one',); it must be numbers"),
        ('cache.flip_probability', 2.0, 'cache.flip_probability is 2.0'),
        ('cache.batch_size', 0, 'cache.batch_size is 0'),
        ('cell.pooling', 'max', "cell.pooling is 'max'; allowed: sliding, binned"),
        ('cell.filters', 0, 'cell.filters is 0'),
        ('cell.dropout_rate', 1.0, 'cell.dropout_rate is 1.0'),
        ('proxy.steps', 0, 'proxy.steps is 0'),
        ('proxy.batch_size', -1, 'proxy.batch_size is -1'),
        ('proxy.learning_rate', math.nan, 'proxy.learning_rate is nan'),
        ('proxy.momentum', 1.0, 'proxy.momentum is 1.0'),
        ('proxy.bn_decay', -0.1, 'proxy.bn_decay is -0.1'),
        ('proxy.power', -1.0, 'proxy.power is -1.0'),
        ('proxy.weight_decay', -1e-3, 'proxy.weight_decay is -0.001'),
        ('proxy.evaluations', 5, 'proxy.evaluations is 5; it may be at most proxy.steps (4)'),
        ('proxy.stops_at', (4,), 'proxy.stops_at is (4,); each of its steps must be from 1 to 3'),
        ('proxy.stops_at', (1.5,), 'proxy.stops_at is (1.5,); it must be whole numbers'),
        ('proxy.eval_batch_size', 0, 'proxy.eval_batch_size is 0'),
        ('proxy.kernels', 'triton', "proxy.kernels is 'triton'; allowed: auto, plain, fused, interpret"),
        ('proxy.kernels', 'fused', "proxy.kernels is 'fused', which needs an NVIDIA GPU; allowed here: auto, plain"),
        ('proxy.stream', 'yes', "proxy.stream is 'yes'; allowed: auto, never, always"),
        ('proxy.dtype', 'float64', "proxy.dtype is 'float64'; allowed: float32, bfloat16"),
        ('proxy.loss_stride', 0, 'proxy.loss_stride is 0'),
        ('proxy.loss_stride', 7, 'proxy.loss_stride is 7; it must divide the crop (65, 97) less one pixel'),
        ('proxy.loss_stride', -8, 'proxy.loss_stride is -8'),
        ('proxy.chunk', -1, 'proxy.chunk'),
        ('proxy.at_once', -1, 'proxy.at_once'),
        ('proxy.steps_per_call', 0, 'steps_per_call at least 1'),
        ('search.num_candidates', 0, 'search.num_candidates is 0'),
        ('search.num_candidates', -3, 'search.num_candidates is -3'),
        ('search.population', 0, 'search.population is 0'),
        (
            'search.sampler',
            'tpe',
            "sampler 'tpe' is not known; allowed: controller, evolution, near_best, uniform, optuna.",
        ),
        ('search.sampler_settings.near_best.exploit', 2.0, 'exploit is 2.0'),
        ('search.sampler_settings.near_best.incumbents', 0, 'incumbents is 0'),
        (
            'search.sampler_settings.near_best.neighbourhood',
            'far',
            "neighbourhood 'far' is not known; allowed: adjacent",
        ),
        ('search.pruner', 'median', "pruner 'median' is not known"),
        ('search.objectives', (), 'search.objectives is (); it is miou, perhaps followed by macs and params'),
        ('search.objectives', ('macs', 'miou'), "search.objectives is ('macs', 'miou'); it is miou, perhaps"),
        ('search.objectives', ('miou', 'macs', 'macs'), "search.objectives is ('miou', 'macs', 'macs')"),
        ('search.objectives', ('miou', 'seconds'), "search.objectives is ('miou', 'seconds')"),
        ('search.references', ('dpc',), "no cell is named 'dpc'; allowed: dpc_top1, aspp, conv1x1"),
        ('search.references', ('aspp',), "cell 'aspp' has 5 branches; this space has 2"),
        ('search.ladder', (('anew', 0, 1),), "search.ladder has ('anew', 0, 1); each rung is ('halve', step, share"),
        ('search.ladder', (('anew', 6, 0),), "search.ladder has ('anew', 6, 0)"),
        ('search.ladder', (('anew', 6),), "search.ladder has ('anew', 6)"),
        ('search.ladder', (6, 2), 'search.ladder has 6'),
        ('search.ladder', ((6, 2),), 'search.ladder has (6, 2)'),
        ('search.ladder', (('anew', 6.5, 2),), "search.ladder has ('anew', 6.5, 2)"),
        ('search.ladder', (('halve', 1, 1.0),), "search.ladder has ('halve', 1, 1.0)"),
        ('search.ladder', (('halve', 4, 0.5),), 'search.ladder halves at [4]; steps must rise and stay below'),
        ('search.ladder', (('halve', 2, 0.5), ('halve', 1, 0.5)), 'search.ladder halves at [2, 1]'),
        ('search.ladder', (('full', 1), ('halve', 1, 0.5)), "search.ladder has ('halve', 1, 0.5) after 'full'"),
        ('search.ladder', (('full', 1), ('full', 2)), "search.ladder has 2 rungs 'full'; allowed: one"),
        ('search.ladder', (('anew', 1, 2),), 'proxy.evaluations is 2; it may be at most proxy.steps (1)'),
        ('space.name', 'nasnet', "space.name is 'nasnet'; allowed: aux_cells, dpc"),
        ('space.num_branches', 0, 'num_branches is 0'),
        ('seed', -1, 'seed is -1'),
    ],
)
def test_a_wrong_value_is_refused_in_one_line(field, value, said):
    assert said in refusal(changed(field, value))


@pytest.mark.parametrize(
    ('fields', 'said'),
    [
        ({'pruner': 'optuna.MedianPruner'}, "search.pruner is 'optuna.MedianPruner'; pruners work with one objective"),
        ({'sampler': 'optuna.NSGAIISampler'}, ''),
        ({'sampler': 'optuna.TPESampler'}, ''),
        ({}, ''),
    ],
)
def test_two_objectives_work_without_a_pruner(fields, said):
    config = changed('search.objectives', ('miou', 'macs'))
    config.search.update(fields)
    if said:
        assert said in refusal(config)
    else:
        assembly.check(config)


@pytest.fixture
def parse(monkeypatch, tmp_path, capsys):
    """Parses a command line with a fresh set of flags; gives the config, or what was said before exit code 2."""

    def run(*argv):
        values = flags.FlagValues()
        config_flags.DEFINE_config_file('config', None, 'Config.', flag_values=values, sys_argv=['run.py', *argv])
        flags.DEFINE_string('workdir', None, 'Folder.', flag_values=values)
        monkeypatch.setattr(command_line.flags, 'FLAGS', values)
        command_line.parse_flags(['run.py', *argv])
        return values.config

    def refused(*argv):
        with pytest.raises(SystemExit) as stop:
            run(*argv)
        said = capsys.readouterr()
        assert (stop.value.code, said.out, said.err.count('\n')) == (2, '', 1)
        return said.err

    run.refused = refused
    return run


TOY = f'--config={ROOT}/configs/scenes_search.py:toy'


OLD_IMPORT = pytest.mark.filterwarnings('ignore:the load_module:DeprecationWarning')  # of ml_collections


@OLD_IMPORT
def test_any_field_can_be_set_on_the_command_line(parse):
    settings = (
        '--config.proxy.steps=9',
        "--config.search.ladder=(('anew', 6, 2),)",
        '--config.cache.crop_size=(33, 49)',
    )
    config = parse(TOY, *settings, '--config.search.references=()', '--config.search.pruner_settings={"x": 1}')
    assert (config.proxy.steps, config.search.ladder, config.cache.crop_size) == (9, (('anew', 6, 2),), (33, 49))
    assert (config.search.references, config.search.pruner_settings.to_dict()) == ((), {'x': 1})


@OLD_IMPORT
@pytest.mark.parametrize(
    ('argv', 'said'),
    [
        (
            (TOY, '--config.proxy.stepz=3'),
            "--config.proxy.stepz: the config has no field 'stepz'; did you mean 'steps'",
        ),
        ((TOY, '--config.dataset.root=x'), "--config.dataset.root: the config has no field 'root'; configs/ lists"),
        ((TOY, '--config.proxy.steps=many'), 'flag --config.proxy.steps=many: invalid literal for int()'),
        ((TOY, '--config.proxy.steps=1.5'), 'flag --config.proxy.steps=1.5'),
        ((TOY, '--config.proxy.steps.x=1'), '--config.proxy.steps.x: the config has no such field'),
        ((TOY, '--config.space.name.x=1'), '--config.space.name.x: the config has no such field'),
        ((TOY, '--config.proxy=3'), 'flag --config.proxy=3'),
        ((TOY, '--config.search.ladder=((6, 2)'), 'flag --config.search.ladder=((6, 2)'),
        (('--config=configs/absent.py',), "No such file or directory: 'configs/absent.py'"),
        (('--config=configs/absent.py', '--config.seed=1'), "No such file or directory: 'configs/absent.py'"),
        (('--config=',), 'Path to config file is an empty string'),
        ((TOY + 's',), "config argument ':toys' is not known; allowed: none, ':toy'"),
        ((f'--config={ROOT}/README.md',), 'the config cannot be read'),
        ((TOY, '--nope=3'), "Unknown command line flag 'nope'"),
        ((TOY, 'extra'), "'extra' is not a flag"),
    ],
)
def test_a_wrong_command_line_is_refused_in_one_line(parse, argv, said):
    assert said in parse.refused(*argv)


@pytest.mark.parametrize('name', ['uniform', 'near_best', 'evolution', 'optuna.TPESampler', 'optuna.RandomSampler'])
def test_every_strategy_is_a_flag_away(name):
    config = scenes_search.get_config('toy')
    config.search.sampler = name
    assembly.check(config)
