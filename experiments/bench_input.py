"""Does the input pipeline keep up with the training step, and what bounds it? Rates from one run on this machine.

  python experiments/bench_input.py --config=configs/camvid.py --workdir=runs/bench --config.dataset.root=/data/camvid

It prints images per second of reading and decoding, the same with augmentation (both in one thread), the whole pipeline
with the config's workers and threads from the folder and from a pack of it (made in the workdir), and the compiled
step. The pipeline is compared with the step, and the time of one image is split into its parts.
"""

import pathlib
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

import jax
import ml_collections
import numpy as np
from absl import app, flags

from dpc_jax import command_line, datasets, drawn_data, input_pipeline, networks, preprocess, sharding, tasks, training
from dpc_jax.base import InputError, key_from_seed
from dpc_jax.datasets import Dataset, _packed
from dpc_jax.input_pipeline import PipelineSettings
from dpc_jax.progress import track
from dpc_jax.task import Task
from experiments import common

IMAGES = flags.DEFINE_integer('images', 64, 'Images that are decoded for each rate.')
STEPS = flags.DEFINE_integer('steps', 5, 'Batches of the pipeline, and training steps, that are timed.')

flags.adopt_module_key_flags(common)  # so that --help lists them


def per_second(work: Callable[[int], object], count: int) -> float:
    """Calls of `work` in a second; the first is not timed."""
    work(0)
    started = time.perf_counter()
    for number in range(count):
        work(number)
    return count / (time.perf_counter() - started)


def parts(dataset: Dataset, settings: PipelineSettings, count: int) -> dict[str, float]:
    """Seconds of one image by part, in one thread."""

    def augment(number: int) -> object:
        key = np.random.SeedSequence(settings.seed, spawn_key=(number,))
        return preprocess.augment(
            key, examples[number % len(examples)], crop_size=settings.crop_size, scales=settings.scales
        )

    examples = [dataset[index] for index in range(min(8, len(dataset)))]
    whole = 1 / per_second(lambda number: dataset[number % len(dataset)], count)
    read = 1 / per_second(lambda number: dataset.image_bytes(number % len(dataset)), count)
    return {
        'reading the image': read,
        'decoding image and label': max(whole - read, 0.0),
        'scale, pad, crop, flip': 1 / per_second(augment, count),
    }


def pipeline_rate(dataset: Dataset, task: Task, settings: PipelineSettings, steps: int) -> float:
    """Images per second of all workers together, placed on the devices; their start is not timed."""
    made = input_pipeline.train_batches(dataset, task, settings, start=0, stop=steps + 1)
    batches = input_pipeline.on_devices(made, sharding.data_mesh())
    next(batches)
    started = time.perf_counter()
    for _, images, _ in batches:
        images.block_until_ready()
    return steps * settings.batch_size / (time.perf_counter() - started)


def step_rate(config: ml_collections.ConfigDict, dataset: Dataset, settings: PipelineSettings, steps: int) -> float:
    """Images per second of the compiled step on one batch over and over."""
    mesh, network = sharding.data_mesh(), training.make_network(config)
    what = training.step_settings(config)
    step = training.make_step(network, what, mesh)
    key = key_from_seed(config.seed)
    state = sharding.replicate(training.init_state(networks.init_variables(key, network), network, what), mesh)
    (_, images, labels), *_ = input_pipeline.on_devices(
        input_pipeline.train_batches(dataset, what.task, settings, start=0, stop=1), mesh
    )
    state, report = step(key, state, images, labels)
    jax.block_until_ready(report)
    started = time.perf_counter()
    for _ in range(steps):
        state, report = step(key, state, images, labels)
    jax.block_until_ready(report)
    return steps * settings.batch_size / (time.perf_counter() - started)


def packed(config: ml_collections.ConfigDict, dataset: Dataset, workdir: pathlib.Path) -> Dataset:
    """The same split from a pack in the workdir, which is made if it is not there."""
    folder = workdir / f'packed_{dataset.name}'
    if not folder.is_dir():
        _packed.write({dataset.split: dataset}, pathlib.Path(config.root), folder, track=_silent)
    place = config.copy_and_resolve_references()
    place.root = str(folder)
    return datasets.load(dataset.name, place, dataset.split)


def _silent(items: Iterable[int], description: str, total: int) -> Iterator[int]:
    return iter(items)


def report(rates: Mapping[str, float], seconds: Mapping[str, float], settings: PipelineSettings) -> str:
    """Markdown: the rates, whether the pipeline keeps up, and the parts of an image's time."""
    lines = ['| | images/s |', '|:--|--:|', *(f'| {name} | {rate:.1f} |' for name, rate in rates.items()), '']
    step = rates['training step']
    for name in ('pipeline, from the folder', 'pipeline, from a pack'):
        times = rates[name] / step
        lines.append(
            f'{name}: {times:.1f} times the rate of the step, {"it keeps up" if times >= 1 else "it does not keep up"}.'
        )
    total = sum(seconds.values())
    shares = ', '.join(f'{name} {100 * value / total:.0f} %' for name, value in seconds.items())
    bound = max(seconds, key=lambda name: seconds[name])
    lines.append(f'One image takes {1000 * total:.1f} ms in one thread: {shares}. The pipeline is bound by {bound}.')
    lines.append(f'Crop {settings.crop_size}, {settings.workers} workers of {settings.threads} threads.')
    return '\n'.join(lines)


def main(argv: Sequence[str]) -> None:
    """Measures and prints."""
    del argv
    config, workdir = common.config_and_workdir()
    common.check_whole_network(config)
    if IMAGES.value < 1 or STEPS.value < 1:
        raise InputError(f'--images is {IMAGES.value} and --steps {STEPS.value}; both must be at least 1')
    training.check(config, jax.device_count())
    place = drawn_data.prepared(config.dataset, workdir)
    dataset = datasets.load(config.dataset.name, place, config.train.split)
    settings = input_pipeline.pipeline_settings(config, jax.device_count())
    workdir.mkdir(parents=True, exist_ok=True)
    seconds = parts(dataset, settings, IMAGES.value)
    decoding = seconds['reading the image'] + seconds['decoding image and label']
    rates = {'decoding, one thread': 1 / decoding, 'decoding and augmentation, one thread': 1 / sum(seconds.values())}
    sources = {'pipeline, from the folder': dataset, 'pipeline, from a pack': packed(place, dataset, workdir)}
    for name, source in track(sources.items(), 'measuring'):
        rates[name] = pipeline_rate(source, tasks.make(config), settings, STEPS.value)
    rates['training step'] = step_rate(config, dataset, settings, STEPS.value)
    print(report(rates, seconds, settings))


if __name__ == '__main__':
    app.run(common.one_line_errors(main), flags_parser=command_line.parse_flags)
