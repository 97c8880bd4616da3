"""How fast is the population engine? Ratios from one run, on the machine at hand.

  python experiments/bench_population.py                 (N = 8, 21x21x320, D = 256: two cores)
  python experiments/bench_population.py --size=49x49 --classes=19 --dtype=bfloat16 --candidates=64  (the paper's shape)
  XLA_FLAGS=--xla_force_host_platform_device_count=2 python experiments/bench_population.py --space=aux_cells --torch

Compared on the same random cells and the same work, one training step on a minibatch of N images:

  population   the engine of the search: genotype as data, chunks of candidates, one compiled program
  static       one candidate at a time with the Flax module of its cell, compiled for each cell
  torch        the same in eager PyTorch, where it is installed (--torch); it is not a requirement

Beside them stand the floor (what any program must read, write and multiply, at the rates that this device reaches in
the same run) and the share of it that the engine reaches, what a search of the paper's size would take, and with
--profile the time of each part. --estimate=h100 times nothing: it compiles the step for an H100, which need not be
there, and reads from the program what it must cost at least; JAX_PLATFORMS=cpu keeps it off a GPU that is.
"""

import dataclasses
import importlib.util
import resource
import time
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np
import optax
from absl import app, flags

from dpc_jax import cell, checks, command_line, population, proxy
from dpc_jax.base import FEATURES, InputError, PyTree, Size, population_size, unstack
from dpc_jax.fastest_chunk import fastest_chunk
from dpc_jax.heads import dpc as dpc_head
from dpc_jax.spaces import dpc
from dpc_jax.spaces.dpc import Genotype, Space
from experiments import bench_aux_cells, common, h100_estimate, population_floor

SPACE = flags.DEFINE_enum(
    'space', 'dpc', ['dpc', 'aux_cells'], 'Whose candidates; see bench_aux_cells.py of the latter.'
)
SIZE = flags.DEFINE_string('size', '21x21', 'Feature map, height x width; of stride 4 for aux_cells (64x64).')
IMAGES = flags.DEFINE_integer('images', 8, 'N, images in a minibatch.')
CHANNELS = flags.DEFINE_integer('channels', 320, 'C, channels of the features.')
FILTERS = flags.DEFINE_integer('filters', 256, 'D, filters of the cell.')
CLASSES = flags.DEFINE_integer('classes', 11, 'L, classes.')
DTYPE = flags.DEFINE_enum('dtype', 'float32', ['float32', 'bfloat16'], "The cell's computation.")
OPERATOR = flags.DEFINE_string('operator', '', "Not random cells: five branches of it, e.g. 'sep 6x6' or 'conv1x1'.")
CANDIDATES = flags.DEFINE_integer('candidates', 4, 'Random cells to train.')
STEPS = flags.DEFINE_integer('steps', 10, 'Timed steps of each.')
CHUNKS = flags.DEFINE_list('chunks', ['1', '2', '4', '8', '16', '32'], 'Chunk sizes to try; one fixes it.')
STATIC = flags.DEFINE_integer('static', 2, 'How many of the cells to train one at a time (each is compiled).')
PROFILE = flags.DEFINE_bool('profile', False, 'Also time each part of a step, for the first of the cells.')
ESTIMATE = flags.DEFINE_enum('estimate', None, ['h100'], 'Time nothing; read the cost off a program compiled for it.')
TORCH = flags.DEFINE_bool('torch', False, 'Also train the same cells in eager PyTorch.')

PAPER_CANDIDATES, PAPER_STEPS = 28_000, 30_000  # §3.2 and §4.1
CACHED_IMAGES = 32
STRIDE = 16
LOSS_STRIDE = 4


@dataclasses.dataclass(frozen=True)
class Timing:
    """Seconds for one candidate-step, and seconds of compiling before."""

    step_seconds: float
    compile_seconds: float = 0.0
    compilations: int = 0


def random_data(size: Size) -> proxy.ProxyData:
    """Noise in the shape of a cache."""
    rng = np.random.default_rng(0)
    image = tuple((side - 1) * STRIDE + 1 for side in size)
    small = label_size(size)
    features = rng.standard_normal((CACHED_IMAGES, *size, CHANNELS.value), np.float32)
    labels = [
        rng.integers(0, CLASSES.value, (n, *shape)).astype(np.uint8)
        for n, shape in ((CACHED_IMAGES, small), (2, image))
    ]
    cached = jnp.asarray(features, jnp.bfloat16)
    return proxy.ProxyData({STRIDE: cached}, jnp.asarray(labels[0]), {STRIDE: cached[:2]}, jnp.asarray(labels[1]))


def head() -> dpc_head.Head:
    """A cell and its logits."""
    return dpc_head.Head(CLASSES.value, cell.CellSettings(FILTERS.value, STRIDE))


def settings() -> proxy.ProxySettings:
    """The settings that the flags ask for."""
    return proxy.ProxySettings(
        head(),
        steps=max(STEPS.value, 4),
        batch_size=IMAGES.value,
        dtype=DTYPE.value,
    )


def shape_of(size: Size) -> population_floor.Shape:
    """The shape that the flags ask for."""
    labels = label_size(size)
    return population_floor.Shape(IMAGES.value, size, CHANNELS.value, FILTERS.value, CLASSES.value, labels, DTYPE.value)


def chunks() -> list[int]:
    """The sizes of --chunks."""
    if not CHUNKS.value or not all(size.isdigit() and int(size) > 0 for size in CHUNKS.value):
        raise InputError(f"--chunks is '{','.join(CHUNKS.value)}'; it must be numbers of at least 1, such as 1,2,4")
    return [int(size) for size in CHUNKS.value]


def label_size(size: Size) -> Size:
    """Of the labels at the loss stride."""
    height, width = (((side - 1) * STRIDE) // LOSS_STRIDE + 1 for side in size)
    return height, width


def sample(count: int) -> Genotype:
    """The first of the random cells of this benchmark, or as many of five times the one operator."""
    if not OPERATOR.value:
        return Space(5).sample(jax.random.key(0), count)
    checks.one_of('--operator', OPERATOR.value, dpc.OP_NAMES)
    inputs, ops = np.array([FEATURES, 0, 1, FEATURES, 2]), np.full(5, dpc.OP_NAMES.index(OPERATOR.value))
    return Genotype(*(np.tile(genes, (count, 1)).astype(np.int32) for genes in (inputs, ops)))


def time_population(data: proxy.ProxyData, genotypes: Genotype) -> tuple[Timing, int, dict[int, float]]:
    """All candidates through the engine, at the chunk that a short measurement finds the fastest."""

    def make(chunk: int) -> population.PopulationEvaluator:
        return population.PopulationEvaluator(settings(), data, seed=0, chunk=chunk, steps_per_call=STEPS.value)

    sizes = [size for size in chunks() if size * jax.device_count() <= population_size(genotypes)]
    chunk, measured = fastest_chunk(make, sizes or [1], sample)
    evaluator = dataclasses.replace(
        make(chunk), at_once=_round_up(population_size(genotypes), chunk * jax.device_count())
    )
    padded = jax.tree.map(lambda genes: np.resize(genes, (evaluator.population, genes.shape[1])), genotypes)
    alive = np.arange(evaluator.population) < population_size(genotypes)
    candidates = evaluator.programs.init(alive, padded, evaluator.plan.key_init)
    compile_seconds, candidates = _timed(lambda: evaluator.train(alive, candidates, padded, (0, 1))[0])
    seconds, _ = _timed(lambda: evaluator.train(alive, candidates, padded, (0, STEPS.value))[0])
    compilations = population.compilations(evaluator.programs.train)
    return Timing(seconds / STEPS.value / population_size(genotypes), compile_seconds, compilations), chunk, measured


def time_static(data: proxy.ProxyData, genotypes: Sequence[Genotype]) -> Timing:
    """One candidate after the other, each with a program of its own."""
    compile_seconds, step_seconds = [], []
    for genotype in genotypes:
        step, state = static_step(data, genotype)
        seconds, state = _timed(lambda: step(state, 0))  # noqa: B023
        compile_seconds.append(seconds)
        started = time.perf_counter()
        for index in range(STEPS.value):
            state = step(state, index)
        jax.block_until_ready(state)
        step_seconds.append((time.perf_counter() - started) / STEPS.value)
    return Timing(float(np.mean(step_seconds)), sum(compile_seconds), len(genotypes))


def static_step(data: proxy.ProxyData, genotype: Genotype) -> tuple[Callable[[PyTree, int], PyTree], PyTree]:
    """The training step of one cell as a user would write it with the Flax module, and its first state."""
    work = settings()
    module = cell.DensePredictionCell.of(genotype, head().cell)
    key = jax.random.key(0)
    order = jnp.asarray(proxy.image_order(key, CACHED_IMAGES, work))
    dtype = jnp.dtype(work.dtype)
    variables = module.init(key, data.train_features[STRIDE][:1].astype(dtype))
    params = {'cell': variables['params'], 'logits': jnp.zeros((FILTERS.value, CLASSES.value))}
    optimizer = optax.chain(optax.add_decayed_weights(work.weight_decay), optax.sgd(work.learning_rate, work.momentum))

    def loss_of(params: PyTree, stats: PyTree, index: jax.Array) -> tuple[jax.Array, PyTree]:
        batch = order[index]
        features, labels = data.train_features[STRIDE][batch].astype(dtype), data.train_labels[batch]
        held = {'params': params['cell'], 'batch_stats': stats}
        y, mutated = module.apply(held, features, True, jax.random.fold_in(key, index), mutable=['batch_stats'])
        logits = jnp.einsum('bhwd,dl->blhw', y.astype(jnp.float32), params['logits'])
        return proxy.resized_cross_entropy(logits, labels.astype(jnp.int32)), mutated['batch_stats']

    @jax.jit
    def step(state: PyTree, index: jax.Array) -> PyTree:
        params, stats, opt_state = state
        grads, stats = jax.grad(loss_of, has_aux=True)(params, stats, index)
        updates, opt_state = optimizer.update(grads, opt_state, params)
        return optax.apply_updates(params, updates), stats, opt_state

    return step, (params, variables['batch_stats'], optimizer.init(params))


def _timed(work: Callable[[], PyTree]) -> tuple[float, PyTree]:
    started = time.perf_counter()
    result = jax.block_until_ready(work())
    return time.perf_counter() - started, result


def _round_up(count: int, unit: int) -> int:
    return -(-count // unit) * unit


def peak_memory() -> str:
    """Peak memory of the device where it is known, else of this process."""
    stats = jax.devices()[0].memory_stats() or {}
    if 'peak_bytes_in_use' in stats:
        return f'{stats["peak_bytes_in_use"] / 2**30:.2f} GiB on the device'
    return f'{resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20:.2f} GiB of the process'


def print_floor(shape: population_floor.Shape, genotypes: Genotype, step_seconds: float) -> None:
    """The floor, the share of it that is reached, and what a search of the paper's size takes."""
    work, ceilings = population_floor.floor(shape, genotypes), population_floor.ceilings(shape)
    least = work.seconds(ceilings) / jax.device_count()
    print(
        f'floor: {work.bytes / 1e9:.2f} GB and {work.flops / 1e9:.1f} GFLOP per candidate-step; at'
        f' {ceilings.bytes_per_second / 1e9:.0f} GB/s and {ceilings.flops_per_second / 1e9:.0f} GFLOP/s, measured here,'
        f' {1000 * least:.2f} ms; reached: {least / step_seconds:.0%} of it'
    )
    print(paper_search(step_seconds, f'{jax.device_count()} x {jax.devices()[0].device_kind}'))


def paper_search(step_seconds: float, devices: str) -> str:
    """What the search of the paper takes at this rate."""
    hours = step_seconds * PAPER_CANDIDATES * PAPER_STEPS / 3600
    return f'{PAPER_CANDIDATES} candidates of {PAPER_STEPS} steps each: {hours:,.0f} hours on {devices}'


def print_profile(shape: population_floor.Shape, step_seconds: float) -> None:
    """The time of each part, the longest first."""
    seconds = population_floor.profile(shape, unstack(sample(1))[0], settings())
    total = sum(seconds.values())
    print(
        f'parts of a step of the first cell, apart ({1000 * total:.1f} ms together, {1000 * step_seconds:.1f} in one):'
    )
    for name, value in sorted(seconds.items(), key=lambda item: -item[1]):
        print(f'  {name:22}{1000 * value:9.2f} ms {value / total:5.0%}')


def print_estimate(size: Size) -> None:
    """What the compiled program says of an H100, for the largest chunk of --chunks."""
    chunk = max(chunks())
    work, shape = settings(), shape_of(size)
    genotypes = sample(chunk)
    candidates = jax.eval_shape(
        jax.vmap(lambda genotype: proxy.init(jax.random.key(0), genotype, {STRIDE: CHANNELS.value}, work)), genotypes
    )
    features = jax.ShapeDtypeStruct((IMAGES.value, *size, CHANNELS.value), jnp.dtype(DTYPE.value))
    labels = jax.ShapeDtypeStruct((IMAGES.value, *shape.labels), jnp.int32)

    def step(candidates: PyTree, genotypes: Genotype, features: jax.Array, labels: jax.Array, used: PyTree) -> PyTree:
        def one(candidate: PyTree, genotype: Genotype) -> PyTree:
            maps = {STRIDE: features}
            return proxy.train_step(jax.random.key(0), candidate, genotype, maps, labels, (), settings=work, used=used)

        return jax.vmap(one)(candidates, genotypes)

    cells, used = jax.eval_shape(lambda: (genotypes, work.head.uses(genotypes)))
    found = h100_estimate.estimate(step, candidates, cells, features, labels, used)
    launched, least = sum(kernel.times for kernel in found.kernels), population_floor.floor(shape, genotypes)
    arithmetic = h100_estimate.FLOPS_PER_SECOND[DTYPE.value]
    each = max(found.seconds / chunk, least.flops / arithmetic)  # the products within own kernels are not in the text
    print('ESTIMATED from the program that is compiled for an H100; no GPU was timed.')
    print(
        'Every map that a kernel is handed counts in full, whether it reads it or not; caches and waiting do not count.'
    )
    print(f'chunk {chunk}: {launched} kernels, {1000 * each:.3f} ms per candidate-step')
    print(
        f'moved: {found.bytes / chunk / 1e9:.2f} GB; floor {least.bytes / 1e9:.2f} GB and {least.flops / 1e9:.1f} GFLOP'
    )
    memory = found.temporary_bytes / chunk / 2**30
    print(f'temporary memory: {memory:.3f} GiB per candidate; {largest_chunk(found, chunk)}')
    print(paper_search(each, 'one H100, estimated'))
    for kernel in sorted(found.kernels, key=lambda kernel: -kernel.seconds)[:20]:
        milliseconds, source = 1000 * kernel.seconds / chunk, kernel.source[-70:]
        print(f'{milliseconds:8.4f} ms {kernel.bytes / 1e6:9.1f} MB  {kernel.name[:32]:32} {source}')


def largest_chunk(found: h100_estimate.Estimate, chunk: int) -> str:
    """How many candidates the card's memory holds, if all that is needed grows with them."""
    each = (found.temporary_bytes + 2 * found.argument_bytes) / chunk
    most, memory = int(h100_estimate.MEMORY / each), h100_estimate.MEMORY / 1e9
    return f'about {most} candidates fit {memory:.0f} GB if the data took no room'


def aux_work(size: Size) -> bench_aux_cells.Work:
    """What the flags ask for; those that are not given have the values of the paper's search."""
    size = size if SIZE.present else (64, 64)
    return bench_aux_cells.Work(IMAGES.value, size, _or(FILTERS, 48), _or(CLASSES, 21), _or(STEPS, 10))


def _or(flag: flags.FlagHolder[int], value: int) -> int:
    """What the flag says, if it is given."""
    given: int = flag.value if flag.present else value
    return given


def main(argv: Sequence[str]) -> None:
    """Measures and prints."""
    del argv
    sides = SIZE.value.split('x')
    if len(sides) != 2 or not all(side.isdigit() and int(side) > 0 for side in sides):
        raise InputError(f"--size is '{SIZE.value}'; it must be HEIGHTxWIDTH, e.g. 21x21")
    if TORCH.value and importlib.util.find_spec('torch') is None:
        raise InputError('--torch needs PyTorch, which is no requirement of this project; pip install torch')
    height, width = map(int, sides)
    if SPACE.value == 'aux_cells':
        print(bench_aux_cells.run(aux_work((height, width)), _or(CANDIDATES, 12), torch=TORCH.value))
        return
    chunks()
    if ESTIMATE.value:
        print_estimate((height, width))
        return
    data = random_data((height, width))
    genotypes = sample(CANDIDATES.value)
    devices = f'{jax.device_count()} x {jax.devices()[0].device_kind}'
    shape = f'N = {IMAGES.value}, {height}x{width}x{CHANNELS.value}, D = {FILTERS.value}, {CLASSES.value} classes'
    print(
        f'{shape}, {DTYPE.value};'
        f' {CANDIDATES.value} {OPERATOR.value or "random"} cells, {STEPS.value} steps each;'
        f' {devices}, jax {jax.__version__}'
    )
    engine, chunk, measured = time_population(data, genotypes)
    memory = peak_memory()
    print('chunk: seconds per candidate-step   ' + ', '.join(f'{k}: {v:.3f}' for k, v in measured.items()))
    rows = [('population', engine, f'chunk {chunk}, peak memory {memory}')]
    one_by_one = unstack(genotypes)[: STATIC.value]
    if one_by_one:
        rows.append(('static', time_static(data, one_by_one), f'{len(one_by_one)} of the cells, one at a time'))
    if TORCH.value:
        from experiments import torch_cell  # only where it is asked for: PyTorch is not a requirement

        seconds = torch_cell.step_seconds(
            unstack(genotypes),
            images=IMAGES.value,
            size=(height, width),
            channels=CHANNELS.value,
            filters=FILTERS.value,
            classes=CLASSES.value,
            steps=STEPS.value,
        )
        rows.append(('torch', Timing(seconds), 'eager, float32'))
    print(f'{"":12}{"candidate-steps/s":>18}{"s each":>9}{"times":>7}{"compile s":>11}{"programs":>10}')
    for name, timing, note in rows:
        ratio = timing.step_seconds / engine.step_seconds
        print(
            f'{name:12}{1 / timing.step_seconds:18.2f}{timing.step_seconds:9.4f}{ratio:7.2f}'
            f'{timing.compile_seconds:11.1f}{timing.compilations:10d}  {note}'
        )
    print_floor(shape_of((height, width)), genotypes, engine.step_seconds)
    if PROFILE.value:
        print_profile(shape_of((height, width)), engine.step_seconds)
    if one_by_one:
        static = rows[1][1]
        with_compiling = static.step_seconds + static.compile_seconds / len(one_by_one) / STEPS.value
        here = engine.step_seconds + engine.compile_seconds / CANDIDATES.value / STEPS.value
        print(
            f'with compiling, {STEPS.value} steps per candidate: population {here:.3f} s per candidate-step,'
            f' static {with_compiling:.3f} s ({with_compiling / here:.1f} times)'
        )


if __name__ == '__main__':
    app.run(common.one_line_errors(main), flags_parser=command_line.parse_flags)
