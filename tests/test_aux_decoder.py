"""The auxiliary-cell decoder as a module: its counts, its shapes, and equality with one in PyTorch."""

import json
import math

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import camvid
from dpc_jax import backbones, contexts, counting, networks
from dpc_jax.aux_decoder import Decoder
from dpc_jax.base import InputError, unstack
from dpc_jax.journeys import evaluate, train
from dpc_jax.segmenter import Segmenter
from dpc_jax.spaces import aux_cells
from dpc_jax.spaces.aux_cells import OPS, STRIDES, Space, flat

pytestmark = pytest.mark.usefixtures('quick_compilation')

SPACE = Space()
CHANNELS = (24, 32, 96, 320)
CLASSES = 21


def network(name, filters, repeats, **settings):
    encoder = backbones.make('mobilenet_v2_refinenet', output_stride=32, width=1.0)
    return Segmenter(encoder, Decoder.of(SPACE.named(name), filters=filters, repeats=repeats, **settings), CLASSES)


def total(tree):
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(tree))


@pytest.mark.parametrize(
    ('name', 'final', 'search', 'auxiliary', 'macs', 'stride'),
    [
        ('arch0', 2_629_909, 2_212_517, 200_367, 4.208e9, 4),
        ('arch1', 2_810_133, 2_316_197, 253_359, 2.854e9, 8),
        ('arch2', 2_853_141, 2_407_205, 298_863, 3.373e9, 8),
    ],
)
def test_counts_are_those_of_the_paper(name, final, search, auxiliary, macs, stride):
    for filters, repeats, params in ((64, 2, final), (48, 1, search)):
        net = network(name, filters, repeats)
        assert net.logits_stride == stride
        shapes = networks.variable_shapes(net)['params']
        assert total(shapes['backbone']) == 1_812_800
        heads = {part: shape for part, shape in shapes['context'].items() if part.endswith('_auxiliary')}
        of_heads = total(heads) + total(shapes['auxiliary'])
        assert total(shapes) - of_heads == params
        if repeats == 1:
            assert of_heads == auxiliary
        plain = networks.variable_shapes(network(name, filters, repeats, auxiliary='none'))['params']
        assert total(plain) == params
        # Arithmetic on the genotype gives the same as the built module.
        counted = aux_cells.count(
            SPACE.named(name),
            sizes=((128, 128), (64, 64), (32, 32), (16, 16)),
            channels=CHANNELS,
            filters=filters,
            classes=CLASSES,
            repeats=repeats,
        )
        assert counted.params == params - 1_812_800
        image = jax.ShapeDtypeStruct((1, 512, 512, 3), jnp.float32)
        found = counting.operations(network(name, filters, repeats, auxiliary='none'), image)
        of_encoder = sum(one.macs for one in found if one.path[:1] == ('backbone',))
        assert sum(one.macs for one in found) - of_encoder == counted.macs
        if repeats == 2:
            assert counted.macs + of_encoder == pytest.approx(macs, rel=1e-3)


def random_decoders(count):
    """Random decoders that together have every operator at every stride."""
    return unstack(SPACE.sample(jax.random.key(3), count))


def maps_of(batch, side, key):
    keys = jax.random.split(key, 4)
    sizes = [side // stride for stride in STRIDES]
    return {
        stride: jax.random.normal(k, (batch, size, size + 1, channels))
        for stride, size, channels, k in zip(STRIDES, sizes, CHANNELS, keys, strict=True)
    }


def apply_all(decoder, variables, maps, train):
    """The map before the logits, the auxiliary ones, and the new moving averages."""
    return decoder.apply(variables, maps, train, None, None, method='of_maps', mutable=['batch_stats'])


@pytest.mark.parametrize('auxiliary', ['cell', 'conv', 'none'])
@pytest.mark.parametrize('inner', [False, True])
def test_heads_are_at_the_blocks_that_the_config_says(auxiliary, inner):
    decoder = Decoder.of(SPACE.named('arch1'), filters=6, repeats=1, auxiliary=auxiliary, inner=inner)
    maps = maps_of(2, 64, jax.random.key(0))
    variables = jax.eval_shape(lambda: decoder.init(jax.random.key(0), maps, False, None, None, method='of_maps'))
    blocks = {'none': []}.get(auxiliary, ['block1', 'block2'] if inner else ['block1', 'block2', 'block3'])
    assert decoder.auxiliary_weights == dict.fromkeys(blocks, 0.15)
    training, _ = jax.eval_shape(lambda v: apply_all(decoder, v, maps, True), variables)
    assert list(training.auxiliary) == blocks
    inference, _ = jax.eval_shape(lambda v: apply_all(decoder, v, maps, False), variables)
    assert inference.auxiliary == {}
    key = jax.random.key(0)  # of a training whose batch norms are frozen
    frozen = jax.eval_shape(lambda v: decoder.apply(v, maps, False, key, None, method='of_maps'), variables)
    assert list(frozen.auxiliary) == blocks
    cells = [name for name in variables['params'] if name.endswith('_auxiliary')]
    assert cells == ([f'{block}_auxiliary' for block in blocks] if auxiliary == 'cell' else [])


def test_init_is_uniform_within_the_fan_in():
    decoder = Decoder.of(SPACE.named('arch0'), filters=16, repeats=1)
    maps = maps_of(1, 64, jax.random.key(0))
    params = decoder.init(jax.random.key(1), maps, False, None, None, method='of_maps')['params']
    for kernel, fan_in in (
        (params['block1_1']['op0_0_depthwise']['kernel'], 25),
        (params['block1_1']['op0_0_pointwise']['kernel'], 16),
        (params['block1_1']['op1']['kernel'], 9 * 16),
        (params['concat_projection']['kernel'], 3 * 16),
        (params['adapter32']['kernel'], 320),
    ):
        bound = 1 / math.sqrt(fan_in)
        assert 0.85 * bound < float(jnp.abs(kernel).max()) <= bound
        assert float(kernel.std()) == pytest.approx(bound / math.sqrt(3), rel=0.15)


# ---- against PyTorch ------------------------------------------------------------------------------------------------


def carried_over(variables, torch_decoder, genotype):
    """Loads the weights of the Flax decoder and its logits into the one in PyTorch, module by module."""
    import torch

    params, stats = variables['params'], variables['batch_stats']

    def kernel(value, convolution):
        convolution.weight.data = torch.from_numpy(np.array(value, np.float64).transpose(3, 2, 0, 1).copy())

    def depthwise(value, convolution):
        convolution.weight.data = torch.from_numpy(np.array(value, np.float64).transpose(3, 2, 0, 1).copy())

    def unit(path, module):
        held, moving = params, stats
        for name in path:
            held, moving = held[name], moving[name]
        kernel(held['kernel'], module[0])
        norm = module[1]
        norm.weight.data = torch.from_numpy(np.array(held['BatchNorm']['scale'], np.float64))
        norm.bias.data = torch.from_numpy(np.array(held['BatchNorm']['bias'], np.float64))
        norm.running_mean = torch.from_numpy(np.array(moving['BatchNorm']['mean'], np.float64))
        norm.running_var = torch.from_numpy(np.array(moving['BatchNorm']['var'], np.float64))

    def cell(path, module):
        for number, (slot, operator) in enumerate(zip(aux_cells.slots(genotype), module.operators, strict=True)):
            kind = OPS[slot.op].kind
            if kind in ('conv', 'pooling'):
                unit([*path, f'op{number}'], operator.steps[0])
            if kind == 'separable':
                for repeat, step in enumerate(operator.steps):
                    held = params
                    for name in path:
                        held = held[name]
                    depthwise(held[f'op{number}_{repeat}_depthwise']['kernel'], step[0])
                    unit([*path, f'op{number}_{repeat}_pointwise'], step[1])

    def classifier(held, module):
        kernel(held['kernel'], module)
        module.bias.data = torch.from_numpy(np.array(held['bias'], np.float64))

    for stride, module in zip(STRIDES, torch_decoder.adapters, strict=True):
        unit(['context', f'adapter{stride}'], module)
    for block in range(3):
        for side in range(2):
            name = f'block{block + 1}_{side + 1}'
            cell(['context', name], torch_decoder.cells[2 * block + side])
            unit(['context', f'{name}_merge'], torch_decoder.merges[2 * block + side])
        cell(['context', f'block{block + 1}_auxiliary'], torch_decoder.auxiliary_cells[block])
        classifier(params['auxiliary'][f'block{block + 1}'], torch_decoder.auxiliary_classifiers[block])
    unit(['context', 'concat_projection'], torch_decoder.projection)
    classifier(params['logits'], torch_decoder.classifier)


class Maps(nn.Module):
    """Stands for an encoder: every so many pixels of the image, spread over so many channels."""

    output_stride: int = 32
    official_scope: str = ''
    low_level: str = 'm4'

    @property
    def by_stride(self):
        return {stride: f'm{stride}' for stride in STRIDES}

    def __call__(self, images, train=False):
        found = {}
        for stride, channels in zip(STRIDES, CHANNELS, strict=True):
            pixels = images[:, ::stride, ::stride]
            found[f'm{stride}'] = jnp.sin(
                pixels @ jax.random.normal(jax.random.key(stride), (3, channels), images.dtype)
            )
        return found | {'features': found['m32']}


CASES = [*((name, 2) for name in SPACE.names), *((number, 1) for number in range(4))]


@pytest.mark.parametrize(('which', 'repeats'), CASES)
def test_it_is_the_decoder_that_was_written_in_pytorch(which, repeats):
    torch = pytest.importorskip('torch', reason='PyTorch is not installed')
    from experiments import torch_aux_decoder

    genotype = SPACE.named(which) if isinstance(which, str) else random_decoders(4)[which]
    filters, classes = 6, 5
    with (
        jax.enable_x64(True),
        jax.numpy_dtype_promotion('standard'),
    ):  # rounding is amplified where a batch norm sees few values
        net = Segmenter(Maps(), Decoder.of(genotype, filters=filters, repeats=repeats), classes)
        images = jax.random.normal(jax.random.key(0), (2, 96, 128, 3), jnp.float64)
        maps = {int(name[1:]): x for name, x in Maps()(images).items() if name != 'features'}

        def outputs(variables, train):
            found, moved = net.apply(variables, images, train, None, mutable=['batch_stats'], method='outputs')
            return found, moved['batch_stats']

        variables = net.init(jax.random.key(1), images)
        leaves, tree = jax.tree.flatten(variables)
        draws = np.random.default_rng(0)
        variables = tree.unflatten([leaf * draws.uniform(0.5, 1.5, leaf.shape) for leaf in leaves])
        other = torch_aux_decoder.Decoder(flat(genotype), CHANNELS, filters, classes, repeats).double()
        carried_over(variables, other, genotype)
        inputs = [torch.from_numpy(np.array(maps[stride]).transpose(0, 3, 1, 2).copy()) for stride in STRIDES]
        for train in (True, False):
            other.train(train)
            with torch.no_grad():
                expected, heads = other(inputs)
            found, moved = jax.jit(outputs, static_argnums=1)(variables, train)
            np.testing.assert_allclose(found.logits, expected.numpy().transpose(0, 2, 3, 1), atol=1e-9, rtol=1e-9)
            if train:
                for name, head in zip(found.auxiliary, heads, strict=True):
                    np.testing.assert_allclose(
                        found.auxiliary[name], head.numpy().transpose(0, 2, 3, 1), atol=1e-9, rtol=1e-9
                    )
                mean = moved['context']['concat_projection']['BatchNorm']['mean']
                np.testing.assert_allclose(mean, other.projection[1].running_mean.numpy(), atol=1e-9)
                var = moved['context']['concat_projection']['BatchNorm']['var']
                np.testing.assert_allclose(var, other.projection[1].running_var.numpy(), atol=1e-9, rtol=1e-9)
                variables = {**variables, 'batch_stats': moved}


# ---- by config ------------------------------------------------------------------------------------------------------


def config_of(genotype='arch0', **fields):
    config = camvid.get_config('toy')
    config.backbone.output_stride, config.decoder.output_stride = 32, 0
    config.context = {
        **{'name': 'aux_cells', 'genotype': genotype, 'filters': 6, 'repeats': 1, 'auxiliary': 'cell'},
        **{'auxiliary_inner': False, 'auxiliary_weight': 0.15, 'dropout_rate': 0.0, 'pooling': 'sliding'},
    }
    config.update_from_flattened_dict(fields)
    return config


def test_the_config_makes_it():
    made = contexts.make(config_of())
    assert made == Decoder.of(SPACE.named('arch0'), filters=6, repeats=1, decay=0.9)  # PyTorch's, not DeepLab's
    assert networks.make(config_of(), CLASSES).context == made
    assert networks.make(config_of(), CLASSES, bn_decay=0.7).context.decay == 0.7
    assert contexts.make(config_of(SPACE.to_json(SPACE.named('arch0')))) == made
    for fields, message in (
        ({'context.auxiliary': 'all'}, r"^context\.auxiliary is 'all'; allowed: cell, conv, none$"),
        ({'context.repeats': 0}, r'^context\.repeats is 0; it must be at least 1$'),
        ({'backbone.output_stride': 16}, r'^backbone\.output_stride is 16; auxiliary cells read maps at strides 4'),
        ({'decoder.output_stride': 4}, r'^decoder\.output_stride is 4; the context aux_cells is a decoder itself: 0$'),
        ({'context.genotype': 'arch9'}, r"^context\.genotype 'arch9': .*one of arch0, arch1, arch2"),
    ):
        with pytest.raises(InputError, match=message):
            contexts.make(config_of(**fields))


@pytest.mark.slow
def test_it_is_trained_and_evaluated_without_its_heads(tmp_path):
    config = config_of('arch1', **{'train.steps': 2})
    trained = train.run(config, tmp_path / 'work')
    config.journey, config.checkpoint = 'evaluate', str(tmp_path / 'work/weights')
    assert evaluate.run(config, tmp_path / 'evaluated').confusion.tolist() == trained.confusion.tolist()
    records = [json.loads(line) for line in (tmp_path / 'work/metrics.jsonl').read_text().splitlines()]
    assert all(math.isfinite(record['loss']) for record in records if 'loss' in record)
