"""Milliseconds per image of any network of the project on the device at hand, in inference.

  python experiments/latency.py --config=configs/camvid.py --config.context.name=aspp --sizes=360x480 --out=runs/latency
  python experiments/latency.py --config=configs/cityscapes.py --sizes=512x512,1024x2048 --dtype=bfloat16 \\
    --network=context.name=aspp --network="configs/scenes.py context.filters=64" \\
    --network="context.name=aux_cells context.genotype=arch0 context.filters=64 backbone.output_stride=32
      decoder.output_stride=0"

The config is the first network, and each --network is a further one: a file in `configs/`, where it begins with one,
else the config; then fields that differ, with spaces between. What is timed is one compiled program on one device, from
images that lie there already (float32, 0..255) to what --output says:

  classes   the class of each pixel: logits, resized to the images, and the largest of them (the default)
  logits    the logits, resized to the images
  coarse    the logits at the network's own stride, not resized

Each network runs as it is and with its batch norms folded into its convolutions, which is the same function
(`dpc_jax/folding.py`). Auxiliary heads, which training alone needs, are neither run nor counted. Weights are those of
`config.checkpoint`, or drawn: time does not depend on them. Products are float32 products on GPUs too, as in an
evaluation, unless --dtype says bfloat16. Compilation is listed apart; where JAX's compilation cache has the program it
is the time of reading it. Prints a table; with --out it is in `latency.md`, and every repetition in `latency.json`.
"""

import functools
import json
import pathlib
import shlex
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
import rich.console
from absl import app, flags
from jaxtyping import Array, Float
from ml_collections import config_flags

from dpc_jax import (
    checks,
    command_line,
    counting,
    described,
    evaluation,
    files,
    folding,
    metrics,
    networks,
    ops,
    progress,
    provenance,
    sharding,
    weights,
)
from dpc_jax.base import InputError, PyTree, Size
from dpc_jax.inference import InferenceSettings
from dpc_jax.segmenter import Segmenter
from experiments import common, image_size

NETWORK = flags.DEFINE_multi_string('network', [], 'A further network: a config file, or fields that differ, or both.')
SIZES = flags.DEFINE_list('sizes', ['512x512', '1024x2048'], 'Height x width of the images in pixels.')
BATCH = flags.DEFINE_integer('batch', 1, 'Images in a call.')
REPEATS = flags.DEFINE_integer('repeats', 30, 'Calls that are timed, one after the other.')
WARMUP = flags.DEFINE_integer('warmup', 5, 'Calls before them.')
DTYPE = flags.DEFINE_string('dtype', '', 'Of the computation; by default config.evaluate.dtype.')
FOLD = flags.DEFINE_enum('fold', 'both', ['both', 'yes', 'no'], 'Batch norms folded into convolutions, or not.')
OUTPUT = flags.DEFINE_enum('output', 'classes', ['classes', 'logits', 'coarse'], 'What the program gives.')
OUT = flags.DEFINE_string('out', '', 'Folder for latency.json and latency.md.')

flags.adopt_module_key_flags(common)  # so that --help lists them

INFERENCE = (
    'Networks run in inference mode, by the moving averages of their batch norms. The latencies in arXiv:1904.02365, a'
    ' later paper by authors of arXiv:1810.10804, had been taken in training mode, and they corrected them afterwards.'
)
TOO_LARGE = 'out of memory'

Row = dict[str, Any]


class Named(NamedTuple):
    """A network as it was asked for."""

    label: str  # file and fields
    config: ml_collections.ConfigDict


class Job(NamedTuple):
    """A program that is timed."""

    number: int  # of the network, from 1 on
    network: Segmenter
    variables: PyTree  # those that inference reads
    size: Size
    settings: InferenceSettings
    macs: int  # of one image
    folded: bool


# ---- networks -------------------------------------------------------------------------------------------------------


def asked_for() -> list[Named]:
    """The network of --config, and those of --network; InputError names the flag that is wrong."""
    found = []
    if common.CONFIG.value is not None:
        holder = flags.FLAGS['config']
        changes = (f'{name}={value}' for name, value in config_flags.get_override_values(holder).items())
        label = ' '.join([config_flags.get_config_filename(holder), *changes])
        found = [Named(label, common.CONFIG.value)]
    found += [further(text, found[:1]) for text in NETWORK.value]
    if not found:
        raise InputError('--config or --network is needed: a config of a whole network, such as configs/camvid.py')
    return [whole(named) for named in found]


def whole(named: Named) -> Named:
    """The same with the --dtype, if there is one; InputError unless it is a whole network."""
    common.check_whole_network(named.config, f"'{named.label}'")
    config = named.config.copy_and_resolve_references()
    config.evaluate.dtype = DTYPE.value or config.evaluate.dtype
    return Named(named.label, config)


def further(text: str, base: Sequence[Named]) -> Named:
    """The network of one --network, read as --config and --config.field=value are; `base` may have that of --config."""
    values = flags.FlagValues()
    try:
        words = shlex.split(text)
    except ValueError as error:
        raise InputError(f"--network='{text}': {error}") from error
    is_file = bool(words) and words[0].partition(':')[0].endswith('.py')
    if not is_file and not base:
        raise InputError(f"--network='{text}' names no file, and there is no --config whose fields it could change")
    argv = ['--network', *[f'--config={word}' for word in words[:is_file]]]
    argv += [f'--config.{word}' for word in words[is_file:]]
    try:
        if is_file:
            config_flags.DEFINE_config_file('config', flag_values=values, sys_argv=argv)
        else:
            copy = base[0].config.copy_and_resolve_references()
            config_flags.DEFINE_config_dict('config', copy, flag_values=values, sys_argv=argv)
        values(argv)
        values.config.get('journey')  # the file is read only now
    except command_line.FAULTS as error:
        raise InputError(f"--network='{text}': {command_line.explained(error, argv)}") from error
    return Named(' '.join([*(named.label for named in base if not is_file), *words]), values.config)


def load(config: ml_collections.ConfigDict) -> tuple[Segmenter, PyTree]:
    """The network, and those of its variables that inference reads: the checkpoint's, or drawn ones."""
    if config.checkpoint:
        config = described.settled(config, pathlib.Path(config.checkpoint))
    network = evaluation.make_network(config)
    shapes = networks.variable_shapes(network)
    if config.checkpoint:
        variables = weights.restore(pathlib.Path(config.checkpoint).expanduser(), shapes)
    else:
        draw = functools.partial(drawn, np.random.default_rng(config.seed))
        variables = jax.tree_util.tree_map_with_path(draw, shapes)
    return network, jax.device_put(folding.read_in_inference(network, variables, small_image(network)))


def drawn(draw: np.random.Generator, path: tuple[Any, ...], leaf: jax.ShapeDtypeStruct) -> Float[np.ndarray, '*n']:
    """Values that keep maps ordinary numbers; the official initialisers would be compiled, which takes longer."""
    if path[-1].key == 'kernel':
        deviation = np.sqrt(2 * leaf.shape[-1] / leaf.size)
        return draw.normal(0, deviation, leaf.shape).astype(leaf.dtype)
    return np.full(leaf.shape, path[-1].key in ('scale', 'var'), leaf.dtype)


def small_image(network: Segmenter) -> jax.ShapeDtypeStruct:
    """What stands for images of any size."""
    side = 2 * network.output_stride + 1
    return jax.ShapeDtypeStruct((1, side, side, 3), jnp.float32)


# ---- time -----------------------------------------------------------------------------------------------------------


def program(job: Job, output: str) -> Callable[[PyTree, Float[Array, 'B H W 3']], Array]:
    """(variables, images) -> what `output` says."""
    network, folded = job.network, job.folded

    def run(variables: PyTree, images: Float[Array, 'B H W 3']) -> Array:
        arguments = (images, False, None, job.settings.pool_crop)
        apply: Callable[..., Any] = functools.partial(folding.apply, network) if folded else network.apply
        found: Array = apply(variables, *arguments)
        if output == 'coarse':
            return found
        found = ops.resize_bilinear(found, job.size)
        return found if output == 'logits' else metrics.predict(jnp.moveaxis(found, -1, 1))

    return run


def timed(job: Job) -> Iterator[Row]:
    """A dict after each call: first `compile_seconds`, then `seconds` of it; `failure` where memory is not enough."""
    variables, network = job.variables, job.network
    if job.folded:
        fold = functools.partial(folding.fold, network)
        variables = jax.jit(lambda variables: fold(variables, small_image(network)))(variables)
    images = jax.random.uniform(jax.random.key(0), (BATCH.value, *job.size, 3), maxval=255.0)
    try:
        # As in evaluation: by default a GPU rounds the factors of a float32 product to fewer bits.
        with jax.default_matmul_precision('float32'):
            started = time.perf_counter()
            run = jax.jit(program(job, OUTPUT.value)).lower(variables, images).compile()
        yield {'compile_seconds': time.perf_counter() - started}
        for _ in range(WARMUP.value + REPEATS.value):
            started = time.perf_counter()
            jax.block_until_ready(run(variables, images))
            yield {'seconds': time.perf_counter() - started}
    except (jax.errors.JaxRuntimeError, MemoryError) as error:
        if not sharding.is_out_of_memory(error):
            raise
        yield {'failure': TOO_LARGE}


def row_of(job: Job, calls: Sequence[Row]) -> Row:
    """What the table and the file say of a program."""
    seconds = [call['seconds'] for call in calls if 'seconds' in call][WARMUP.value :]
    failure = next((call['failure'] for call in calls if 'failure' in call), '')
    row = {
        **{'network': job.number, 'size': job.size, 'folded': job.folded, 'failure': failure},
        'parameters': counting.count_variables(job.variables).trainable,
        'multiply_adds': job.macs,
        'compile_seconds': next((call['compile_seconds'] for call in calls if 'compile_seconds' in call), None),
        'milliseconds_of_each_call': [1000 * value for value in seconds],
    }
    if failure:
        return row
    per_image = 1000 * np.array(seconds) / BATCH.value
    found = np.percentile(per_image, (0, 25, 50, 75)).tolist()
    return row | {
        'milliseconds_per_image': dict(zip(('min', 'lower_quartile', 'median', 'upper_quartile'), found, strict=True))
    }


def jobs_of(asked: Sequence[Named], sizes: Sequence[Size]) -> list[Job]:
    """All programs, one network after the other."""
    forms = {'both': (False, True), 'yes': (True,), 'no': (False,)}[FOLD.value]
    jobs = []
    for number, named in enumerate(asked, 1):
        network, variables = load(named.config)
        for size in sizes:
            settings = evaluation.inference_settings(named.config, size)
            image = jax.ShapeDtypeStruct((1, *size, 3), jnp.float32)
            macs = counting.total(counting.operations(network, image)).macs
            jobs += [Job(number, network, variables, size, settings, macs, folded) for folded in forms]
    return jobs


def measure(jobs: Sequence[Job]) -> list[Row]:
    """A row for each program; shows how many calls are done."""

    def calls() -> Iterator[tuple[int, Row]]:
        for place, job in enumerate(jobs):
            yield from ((place, call) for call in timed(job))
            jax.clear_caches()

    found: list[list[Row]] = [[] for _ in jobs]
    total = len(jobs) * (1 + WARMUP.value + REPEATS.value)
    for place, call in progress.track(calls(), 'calls', total, console=rich.console.Console(stderr=True)):
        found[place].append(call)
    return [row_of(job, made) for job, made in zip(jobs, found, strict=True)]


# ---- what is written ------------------------------------------------------------------------------------------------


def markdown(report: Row) -> str:
    """The whole report."""
    what = {
        'classes': 'images to the class of each pixel',
        'logits': 'images to logits of their size',
        'coarse': "images to logits at the network's own stride",
    }
    calls = f'{report["repeats"]} calls after {report["warmup"]} of warm-up'
    conditions = [report['device'], f'jax {report["jax"]}', f'batch {report["batch"]}', what[report['output']], calls]
    parts = [
        '# Latency',
        '\n'.join(f'{n}. `{one["label"]}` ({one["dtype"]})' for n, one in enumerate(report['networks'], 1)),
        '; '.join(conditions) + '.',
        table(report['rows']),
        INFERENCE,
    ]
    return '\n\n'.join(parts) + '\n'


def table(rows: Sequence[Row]) -> str:
    """A row for each program."""
    lines = [
        '| network | image | batch norms | parameters | multiply-adds | ms per image: median | quartiles | least |'
        ' compiled in, s |',
        '|--:|--:|:--|--:|--:|--:|--:|--:|--:|',
    ]
    for row in rows:
        if row['failure']:
            times = [row['failure'], '–', '–']
        else:
            found = row['milliseconds_per_image']
            quartiles = f'{found["lower_quartile"]:.4g} to {found["upper_quartile"]:.4g}'
            times = [f'{found["median"]:.4g}', quartiles, f'{found["min"]:.4g}']
        cells = [str(row['network']), 'x'.join(map(str, row['size'])), 'folded' if row['folded'] else 'as trained']
        cells += [f'{row["parameters"]:,}', f'{row["multiply_adds"] / 1e9:.4g}B', *times]
        compiled = row['compile_seconds']
        lines.append(f'| {" | ".join(cells)} | {"–" if compiled is None else f"{compiled:.1f}"} |')
    return '\n'.join(lines)


def report_of(asked: Sequence[Named], sizes: Sequence[Size]) -> Row:
    """All rows, with what they depend on."""
    described = [
        {'label': one.label, 'dtype': one.config.evaluate.dtype, 'config': json.loads(one.config.to_json_best_effort())}
        for one in asked
    ]
    return {
        **{'device': common.machine(), 'jax': jax.__version__, 'commit': provenance.commit(), 'mode': 'inference'},
        **{'precision': 'float32', 'output': OUTPUT.value, 'batch': BATCH.value},
        **{'repeats': REPEATS.value, 'warmup': WARMUP.value, 'networks': described},
        'rows': measure(jobs_of(asked, sizes)),
    }


def main(argv: Sequence[str]) -> None:
    """Measures, prints, writes."""
    del argv
    sharding.check_devices()
    sizes = [image_size.parse(text, 'sizes') for text in SIZES.value]
    if not sizes:
        raise InputError('--sizes is empty; it must be HEIGHTxWIDTH in pixels, e.g. 512x512,1024x2048')
    for flag, minimum in ((BATCH, 1), (REPEATS, 1), (WARMUP, 0)):
        checks.at_least(minimum, **{f'--{flag.name}': flag.value})
    if DTYPE.value:
        checks.one_of('--dtype', DTYPE.value, evaluation.DTYPES)
    asked = asked_for()
    out = pathlib.Path(OUT.value).expanduser() if OUT.value else None
    if out is not None:
        files.make_folder(out, '--out')
    report = report_of(asked, sizes)
    text = markdown(report)
    print(text, end='')
    if out is not None:
        files.write(out / 'latency.json', json.dumps(report, indent=1) + '\n')
        files.write(out / 'latency.md', text)


if __name__ == '__main__':
    app.run(common.one_line_errors(main), flags_parser=command_line.parse_flags)
