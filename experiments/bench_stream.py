"""What does it cost to leave the features on disk? Seconds per candidate-step of both ways, from one run.

  python experiments/bench_stream.py                 (N = 8, 21x21x320, D = 256: two cores)
  python experiments/bench_stream.py --size=49x49 --filters=256 --classes=19 --candidates=64 --chunk=8 --images=4000

The same random cells are trained on the same minibatches, by turns with all features on every device and with features
that are read from a file span by span (`--config.proxy.stream=always`). The file is written just before, so that it is
in the memory of the operating system unless it is larger than that; a slow disk has to be tried with more images than
the memory holds. Losses are compared, too: they must be equal bit for bit.
"""

import pathlib
import tempfile
import time
from collections.abc import Sequence

import jax
import ml_dtypes
import numpy as np
from absl import app, flags

from dpc_jax import cell, command_line, population, proxy, sharding, streaming
from dpc_jax.base import InputError, Size
from dpc_jax.heads import dpc as dpc_head
from dpc_jax.spaces.dpc import Space
from experiments.entry import one_line_errors

SIZE = flags.DEFINE_string('size', '21x21', 'Feature map, height x width.')
CHANNELS = flags.DEFINE_integer('channels', 320, 'C, channels of the features.')
FILTERS = flags.DEFINE_integer('filters', 256, 'D, filters of the cell.')
CLASSES = flags.DEFINE_integer('classes', 11, 'L, classes.')
BATCH = flags.DEFINE_integer('batch', 8, 'Images in a minibatch.')
IMAGES = flags.DEFINE_integer('images', 512, 'N, images in the file.')
CANDIDATES = flags.DEFINE_integer('candidates', 2, 'Random cells to train.')
CHUNK = flags.DEFINE_integer('chunk', 1, 'Candidates within one vmap.')
STEPS = flags.DEFINE_integer('steps', 30, 'Steps of each round.')
SPAN = flags.DEFINE_integer('span', 10, 'Steps whose images are on the device together (proxy.steps_per_call).')
ROUNDS = flags.DEFINE_integer('rounds', 3, 'Timed rounds of each way; the fastest counts.')

STRIDE, LOSS_STRIDE, VAL = 16, 4, 4


def write_features(folder: pathlib.Path, size: Size) -> streaming.StreamedData:
    """Noise in the shape of a cache, memory-mapped."""
    rng = np.random.default_rng(0)
    label_size = [(side - 1) * STRIDE // LOSS_STRIDE + 1 for side in size]

    def mapped(name: str, dtype: type, shape: tuple[int, ...]) -> np.ndarray:
        array = np.lib.format.open_memmap(folder / f'{name}.npy', 'w+', dtype, shape)
        for row in array:
            noise = rng.standard_normal(row.shape, np.float32)
            row[:] = noise.astype(ml_dtypes.bfloat16).view(np.uint16) if dtype is np.uint16 else 0
        array.flush()
        return np.load(folder / f'{name}.npy', mmap_mode='r')

    features = {
        name: {STRIDE: mapped(name, np.uint16, (count, *size, CHANNELS.value)).view(ml_dtypes.bfloat16)}
        for name, count in (('train', IMAGES.value), ('val', VAL))
    }
    labels = mapped('train_labels', np.uint8, (IMAGES.value, *label_size))
    val_labels = mapped('val_labels', np.uint8, (VAL, *label_size))
    return streaming.StreamedData(
        features['train'], labels, features['val'], val_labels, mesh=sharding.population_mesh()
    )


def make_round(data: proxy.Source) -> tuple[float, np.ndarray]:
    """Seconds of a round per candidate-step, and the losses at its end."""
    head = dpc_head.Head(CLASSES.value, cell.CellSettings(FILTERS.value, STRIDE))
    settings = proxy.ProxySettings(head, steps=STEPS.value, batch_size=BATCH.value)
    evaluator = population.PopulationEvaluator(
        settings, data, 0, CHUNK.value, CANDIDATES.value, steps_per_call=SPAN.value
    )
    genotypes = Space(5).sample(jax.random.key(0), evaluator.population)
    alive = np.ones(evaluator.population, bool)
    candidates = jax.block_until_ready(evaluator.programs.init(alive, genotypes, evaluator.plan.key_init))
    started = time.perf_counter()
    _, losses = evaluator.train(alive, candidates, genotypes, (0, STEPS.value))
    return (time.perf_counter() - started) / STEPS.value / evaluator.population, losses


def main(argv: Sequence[str]) -> None:
    """Measures and prints."""
    del argv
    sides = SIZE.value.split('x')
    if len(sides) != 2 or not all(side.isdigit() and int(side) > 0 for side in sides):
        raise InputError(f"--size is '{SIZE.value}'; it must be HEIGHTxWIDTH, e.g. 21x21")
    numbers = {flag.name: flag.value for flag in (IMAGES, BATCH, CANDIDATES, CHUNK, STEPS, SPAN, ROUNDS)}
    for name, value in numbers.items():
        if value < 1:
            raise InputError(f'--{name} is {value}; it must be at least 1')
    with tempfile.TemporaryDirectory() as folder:
        on_disk = write_features(pathlib.Path(folder), (int(sides[0]), int(sides[1])))
        sources: dict[str, proxy.Source] = {'on the device': on_disk.on_device(), 'on disk': on_disk}
        for data in sources.values():
            make_round(data)  # compiles
        times: dict[str, list[float]] = {name: [] for name in sources}
        losses = {}
        for _ in range(ROUNDS.value):  # by turns: what else runs here disturbs both
            for name, data in sources.items():
                seconds, losses[name] = make_round(data)
                times[name].append(seconds)
    image = sum(array.nbytes for array in (*on_disk.train_features.values(), on_disk.train_labels)) / IMAGES.value
    span = image * min(IMAGES.value, SPAN.value * BATCH.value)
    print(f'{jax.device_count()} x {jax.devices()[0].device_kind}, jax {jax.__version__}; {numbers}')
    print(f'features: {on_disk.num_bytes / 2**20:.0f} MiB; of a span: {span / 2**20:.0f} MiB')
    for name, values in times.items():
        print(f'{name:14} {min(values):.4f} s per candidate-step   ({", ".join(f"{value:.4f}" for value in values)})')
    first, second = (min(values) for values in times.values())
    print(f'features on disk: {100 * (second / first - 1):+.1f} % time')
    on_device, streamed = losses.values()
    print(f'losses are {"equal" if np.array_equal(on_device, streamed) else "NOT EQUAL"} bit for bit')


if __name__ == '__main__':
    app.run(one_line_errors(main), flags_parser=command_line.parse_flags)
