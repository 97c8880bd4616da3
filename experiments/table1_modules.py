"""What context modules and whole networks cost: parameters, multiply-adds, wall time; Table 1 of arXiv:1809.04184.

  python experiments/table1_modules.py                 (half a minute: nothing is computed)
  python experiments/table1_modules.py --repeats=3     (longer: measures the wall time on this machine, too)
  python experiments/table1_modules.py --genotype=cell.json --by_operator --image_size=361x481 --num_classes=11

Everything is counted in inference, for one image. Prints Markdown; --out and --json write it and its rows to files.
"""

import itertools
import json
import math
import pathlib
import statistics
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import ml_collections
import rich.console
from absl import app, flags

from configs import common as fields
from dpc_jax import backbones, command_line, contexts, counting, networks, progress, provenance
from dpc_jax.base import InputError, Size
from dpc_jax.counting import Operation
from experiments import common, image_size

BACKBONES = flags.DEFINE_list('backbones', ['mobilenet_v2', 'xception_65', 'xception_71'], 'Backbones.')
CONTEXTS = flags.DEFINE_list('contexts', ['aspp', 'dpc', 'image_level'], 'Contexts of the whole networks.')
GENOTYPE = flags.DEFINE_multi_string('genotype', [], 'A further cell: JSON in the official format. May be repeated.')
IMAGE_SIZE = flags.DEFINE_string('image_size', '1025x2049', 'Height x width in pixels.')
OUTPUT_STRIDE = flags.DEFINE_integer('output_stride', 16, 'Image / features.')
NUM_CLASSES = flags.DEFINE_integer('num_classes', 19, 'Classes of the whole networks.')
REPEATS = flags.DEFINE_integer('repeats', 0, 'Timed calls, of which the median is shown; 0 leaves wall time out.')
BY_OPERATOR = flags.DEFINE_bool('by_operator', False, 'Also list convolutions.')
OUT = flags.DEFINE_string('out', '', 'Markdown file.')
JSON = flags.DEFINE_string('json', '', 'JSON file.')

Row = dict[str, Any]


class NamedContext(NamedTuple):
    """What stands on the features: its name here, `config.context.name` and `.genotype`."""

    label: str
    name: str
    genotype: str = ''


ASPP, DPC = NamedContext('ASPP', 'aspp'), NamedContext('DPC', 'dpc', 'dpc_top1')
IMAGE_LEVEL = NamedContext('image level + 1x1', 'image_level')  # of the released MobileNet-v2 models

PUBLISHED_FOR = ((1025, 2049), 16, 19)  # size, output stride and classes of the multiply-adds below
PAPER = {  # Table 1, by channels of the features: Params, MAdds
    (320, ASPP): (0.25e6, 2.82e9),
    (320, DPC): (0.36e6, 3.00e9),
    (2048, ASPP): (1.59e6, 18.12e9),
    (2048, DPC): (0.81e6, 6.84e9),
}
ZOO = {  # official g3doc/model_zoo.md, Cityscapes at output stride 16: backbone, context, decoder -> MAdds
    ('xception_71', DPC, True): 502.07e9,
    ('xception_65', ASPP, True): 418.64e9,
    ('mobilenet_v2', IMAGE_LEVEL, False): 21.27e9,
}
UNDERCOUNT = (
    'The Params that the paper prints for ASPP hold one of its three separable convolutions, beside the 1x1 and the'
    ' image-level convolution: these weights, and no other number of pointwise and depthwise kernels, give 0.25M and'
    ' 1.59M, while the MAdds of the same table need all three (inferred here from Table 1 of arXiv:1809.04184, which'
    ' does not say so). Table 1 counts no projection.'
)

# ---- rows -----------------------------------------------------------------------------------------------------------


def settings(backbone: str, context: NamedContext, *, decoder: bool) -> ml_collections.ConfigDict:
    """The config of a network."""
    config = fields.network_config()
    config.backbone.name, config.backbone.output_stride = backbone, OUTPUT_STRIDE.value
    config.context.name, config.context.genotype = context.name, context.genotype
    config.decoder.output_stride = 4 if decoder else 0
    return config


def module_rows(contexts: Sequence[NamedContext], size: Size) -> list[Row]:
    """Context modules by themselves; backbones whose features have the same shape share their rows."""
    sharing: dict[tuple[int, ...], list[str]] = {}
    for backbone in BACKBONES.value:
        model = backbones.make(backbone, output_stride=OUTPUT_STRIDE.value)
        endpoints, _ = jax.eval_shape(model.init_with_output, jax.random.key(0), image_of(size))
        sharing.setdefault(endpoints['features'].shape, []).append(backbone)
    return [module_row(names, context, shape, size) for shape, names in sharing.items() for context in contexts]


def module_row(names: Sequence[str], context: NamedContext, shape: tuple[int, ...], size: Size) -> Row:
    """One context module on features [1, h, w, C] of the backbones `names`."""
    module: Any = contexts.make(settings(names[0], context, decoder=False))
    features = jax.ShapeDtypeStruct(shape, jnp.float32)
    operations = counting.operations(module, features)
    counted = counting.without_projection(operations)
    params, macs = PAPER.get((shape[-1], context), (None, None))
    return {
        'module': context.label,
        'backbones': names,
        'features': shape[1:],
        'params': counting.total(counted).weights,
        'params_by_the_rule': counting.as_published(operations).weights,
        'params_published': params,
        'params_with_projection': counting.total(operations).weights,
        'macs': counting.total(counted).macs,
        'macs_published': macs if (size, OUTPUT_STRIDE.value) == PUBLISHED_FOR[:2] else None,
        'macs_with_projection': counting.total(operations).macs,
        'seconds': wall_time(module, features),
        'operations': [described(operation) for operation in operations],
    }


def model_row(backbone: str, context: NamedContext, size: Size, *, decoder: bool) -> Row:
    """A whole network."""
    network = networks.make(settings(backbone, context, decoder=decoder), NUM_CLASSES.value)
    operations = counting.operations(network, image_of(size))
    variables = counting.count_variables(networks.variable_shapes(network))
    comparable = (size, OUTPUT_STRIDE.value, NUM_CLASSES.value) == PUBLISHED_FOR
    return {
        'backbone': backbone,
        'context': context.label,
        'decoder': decoder,
        'trainable': variables.trainable,
        'variables': variables.all,
        'tensors': variables.tensors,
        'weights': counting.total(operations).weights,
        'macs': counting.total(operations).macs,
        'macs_published': ZOO.get((backbone, context, decoder)) if comparable else None,
        'seconds': wall_time(network, image_of(size)),
        'parts': summed(operations, lambda operation: operation.path[0]),
        'kinds': summed(operations, lambda operation: f'{operation.path[0]}, {operation.kind}'),
    }


def image_of(size: Size) -> jax.ShapeDtypeStruct:
    """One image."""
    return jax.ShapeDtypeStruct((1, *size, 3), jnp.float32)


def described(operation: Operation) -> Row:
    """All that is known of one convolution."""
    row = operation._asdict() | {'path': '/'.join(operation.path)}
    return row | {'weights': operation.weights, 'macs': operation.macs}


def summed(operations: Iterable[Operation], group: Callable[[Operation], str]) -> dict[str, Row]:
    """Weights and multiply-adds by group."""
    return {name: cost._asdict() for name, cost in counting.totals(operations, group).items()}


# ---- wall time ------------------------------------------------------------------------------------------------------


def wall_time(module: nn.Module, x: jax.ShapeDtypeStruct) -> float | None:
    """Seconds of a compiled call, the median of --repeats after a first call that does not count."""
    if not REPEATS.value:
        return None
    variables = jax.tree_util.tree_map_with_path(plain, jax.eval_shape(module.init, jax.random.key(0), x))
    array, run = jnp.full(x.shape, 100.0), jax.jit(module.apply)
    jax.block_until_ready(run(variables, array))
    seconds = []
    for _ in range(REPEATS.value):
        started = time.perf_counter()
        jax.block_until_ready(run(variables, array))
        seconds.append(time.perf_counter() - started)
    jax.clear_caches()
    return statistics.median(seconds)


def plain(path: tuple[Any, ...], leaf: jax.ShapeDtypeStruct) -> jax.Array:
    """Values that keep maps ordinary numbers: a convolution is a mean, a batch norm changes nothing."""
    if path[-1].key == 'kernel':
        return jnp.full(leaf.shape, leaf.shape[-1] / math.prod(leaf.shape))
    return jnp.full(leaf.shape, 1.0 if path[-1].key in ('scale', 'var') else 0.0)


# ---- Markdown -------------------------------------------------------------------------------------------------------


def markdown(report: Row) -> str:
    """The whole report."""
    conditions = f'output stride {report["output_stride"]}, {report["num_classes"]} classes, inference'
    timed = f' Wall time: {report["machine"]}, jax {report["jax"]}, float32, compiled, median of {report["repeats"]}.'
    parts = [
        '# Cost of context modules and whole networks',
        f'One image of {by(report["image_size"])}, {conditions}. One MAdd is a multiplication with its addition;'
        f' convolutions alone have any.{timed if report["repeats"] else ""}',
        '## Context modules (Table 1)',
        module_table(report['modules']),
        UNDERCOUNT,
        ratio_table(report['modules']),
        '## Whole networks',
        model_table(report['models']),
        "Published are the figures of the official model zoo, which TensorFlow's profiler made; it counts more than"
        ' convolutions.',
    ]
    return '\n\n'.join([*parts, *operator_parts(report)]) + '\n'


def module_table(rows: Sequence[Row]) -> str:
    """One row per features and module."""
    heads = ['features', 'module', 'Params published', 'by its rule', 'true', 'with projection']
    heads += ['MAdds published', 'here', 'off', 'with projection']
    lines = []
    for row in rows:
        published, macs = row['macs_published'], row['macs']
        line = [f'{by(row["features"])} ({", ".join(row["backbones"])})', row['module']]
        line += [millions(row['params_published']), millions(row['params_by_the_rule'])]
        line += [f'{row["params"]:,}', f'{row["params_with_projection"]:,}', billions(published), billions(macs)]
        line += [f'{100 * (macs / published - 1):+.2f} %' if published else '–', billions(row['macs_with_projection'])]
        lines.append(line)
    return table(heads, lines, rows, left=2)


def ratio_table(rows: Sequence[Row]) -> str:
    """Each cell against ASPP on the same features: as published, and true."""
    heads = ['cell / ASPP', 'Params published', 'by its rule', 'true', 'with projection', 'MAdds published', 'here']
    keys = ('params_published', 'params_by_the_rule', 'params', 'params_with_projection', 'macs_published', 'macs')
    lines = []
    for row in rows:
        aspp = next(r for r in rows if r['features'] == row['features'] and r['module'] == ASPP.label)
        if row is not aspp:
            shares = (f'{100 * row[key] / aspp[key]:.0f} %' if row[key] and aspp[key] else '–' for key in keys)
            lines.append([f'{row["module"]}, {row["features"][-1]} channels', *shares])
    return table(heads, lines)


def model_table(rows: Sequence[Row]) -> str:
    """One row per network."""
    heads = [
        'backbone',
        'context',
        'decoder',
        'trainable',
        'with moving averages',
        'tensors',
        'MAdds published',
        'here',
    ]
    lines = []
    for row in rows:
        line = [row['backbone'], row['context'], 'yes' if row['decoder'] else 'no']
        line += [f'{row[key]:,}' for key in ('trainable', 'variables', 'tensors')]
        lines.append([*line, billions(row['macs_published']), billions(row['macs'])])
    return table(heads, lines, rows, left=3)


def operator_parts(report: Row) -> list[str]:
    """Every convolution of the modules, and the networks by part and kind; nothing without --by_operator."""
    if not BY_OPERATOR.value:
        return []
    parts = ['## By operator']
    for row in report['modules']:
        lines = []
        for operation in row['operations']:
            shapes = [by(operation[key]) for key in ('kernel', 'rate', 'size')]
            lines.append([operation['path'], operation['kind'], *shapes, *cost(operation)])
        heads = ['convolution', 'kind', 'kernel', 'rate', 'output', 'weights', 'MAdds']
        parts += [f'### {row["module"]} on {row["features"][-1]} channels', table(heads, lines, left=2)]
    for row in report['models']:
        lines = [[name, *cost(sums)] for name, sums in [*row['parts'].items(), *row['kinds'].items()]]
        name = f'{row["backbone"]}, {row["context"]}{", decoder" * row["decoder"]}'
        parts += [f'### {name}', table(['part, kind', 'weights', 'MAdds'], lines)]
    return parts


def table(heads: Sequence[str], lines: Sequence[Sequence[str]], rows: Sequence[Row] = (), *, left: int = 1) -> str:
    """Markdown; the first `left` columns are words, the others numbers. The rows' wall time, if any, is the last."""
    rule = [':--'] * left + ['--:'] * (len(heads) - left)
    head, *body = [[*heads], rule, *lines]
    if any(row['seconds'] for row in rows):
        head, body[0] = [*head, 'wall time, s'], [*body[0], '--:']
        body[1:] = [[*line, f'{row["seconds"]:.3g}'] for line, row in zip(lines, rows, strict=True)]
    return '\n'.join(f'| {" | ".join(cells)} |' for cells in (head, *body))


def by(shape: Sequence[int]) -> str:
    """65x129x320."""
    return 'x'.join(map(str, shape))


def cost(row: Row) -> list[str]:
    """Two columns."""
    return [f'{row["weights"]:,}', billions(row['macs'])]


def millions(number: float | None) -> str:
    """As the paper prints Params."""
    return '–' if number is None else f'{number / 1e6:.2f}M'


def billions(number: float | None) -> str:
    """As the paper prints MAdds; more digits of small ones."""
    return '–' if number is None else f'{number / 1e9:.{2 if number >= 1e8 else 5}f}B'


# ---- main -----------------------------------------------------------------------------------------------------------


def known_context(name: str) -> NamedContext:
    """One that --contexts may name."""
    known = {context.name: context for context in (ASPP, DPC, IMAGE_LEVEL)}
    if name not in known:
        raise InputError(f"--contexts has '{name}'; allowed: {', '.join(known)}")
    return known[name]


def report_of(size: Size) -> Row:
    """All rows, with what they depend on."""
    further = [NamedContext(pathlib.Path(genotype).name, 'dpc', genotype) for genotype in GENOTYPE.value]
    chosen = [known_context(name) for name in CONTEXTS.value]
    models = list(itertools.product(BACKBONES.value, (*chosen, *further), (True, False)))
    console = rich.console.Console(stderr=True)
    tracked = progress.track(models, 'networks', console=console) if REPEATS.value else models
    return {
        'image_size': size,
        'output_stride': OUTPUT_STRIDE.value,
        'num_classes': NUM_CLASSES.value,
        'repeats': REPEATS.value,
        'machine': common.machine(),
        'jax': jax.__version__,
        'commit': provenance.commit(),
        'modules': module_rows((ASPP, DPC, *further), size),
        'models': [model_row(name, context, size, decoder=decoder) for name, context, decoder in tracked],
    }


def main(argv: Sequence[str]) -> None:
    """Counts, measures, writes."""
    del argv
    size = image_size.parse(IMAGE_SIZE.value, 'image_size')
    if not BACKBONES.value or not (CONTEXTS.value or GENOTYPE.value):
        raise InputError('--backbones and --contexts must name at least one each')
    if REPEATS.value < 0:
        raise InputError(f'--repeats is {REPEATS.value}; it must be 0 (no wall time) or more')
    paths = [pathlib.Path(name).expanduser() for name in (OUT.value, JSON.value)]
    for path in paths:
        if path.name and path.is_dir():
            raise InputError(f"'{path}' cannot be written: it is a folder")
        if not path.parent.is_dir():
            raise InputError(f"'{path}' cannot be written: there is no folder '{path.parent}'")
    report = report_of(size)
    text = markdown(report)
    print(text, end='')
    for path, content in zip(paths, (text, json.dumps(report, indent=1) + '\n'), strict=True):
        if path.name:
            path.write_text(content)


if __name__ == '__main__':
    app.run(common.one_line_errors(main), flags_parser=command_line.parse_flags)
