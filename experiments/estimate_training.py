"""What a training step of a whole network must cost an H100, read off the compiled program; and what its memory holds.

  JAX_PLATFORMS=cpu python experiments/estimate_training.py --config=configs/cityscapes.py \\
    --config.backbone.name=xception_65 --config.train.dtype=bfloat16 --config.train.batch_size=2

The config's batch goes through one GPU, in `train.accumulate` parts. It is an ESTIMATE (see `h100_estimate.py`); JAX
with its CUDA plugin is needed and no GPU.
"""

from collections import defaultdict
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import ml_collections
from absl import app, flags

from dpc_jax import command_line, training
from dpc_jax.base import InputError, PyTree
from experiments import common, h100_estimate

TOP = flags.DEFINE_integer('top', 12, 'Kernels that are listed, those that cost most first.')

flags.adopt_module_key_flags(common)  # so that --help lists them


def estimate(config: ml_collections.ConfigDict) -> h100_estimate.Estimate:
    """The step that the config's training compiles."""
    training.check(config, num_devices=1)
    network, settings, train = training.make_network(config), training.step_settings(config), config.train
    shape = (train.accumulate, train.batch_size // train.accumulate, *train.crop_size)
    images = jax.ShapeDtypeStruct((*shape, 3), jnp.float32)
    labels = jax.ShapeDtypeStruct(shape, jnp.int32)

    def step(state: PyTree, images: jax.Array, labels: jax.Array) -> PyTree:
        return training.train_step(jax.random.key(0), state, images, labels, network=network, settings=settings)

    return h100_estimate.estimate(step, training.state_shapes(network, settings), images, labels)


def text_of(found: h100_estimate.Estimate, images: int, top: int) -> str:
    """What is printed; `images` of a step."""
    by_kind: dict[str, float] = defaultdict(float)
    for kernel in found.kernels:
        by_kind[kernel.name.rstrip('0123456789.')] += kernel.times * kernel.bytes
    largest = sorted(by_kind.items(), key=lambda item: -item[1])[:6]
    lines = [
        'ESTIMATED from the program that is compiled for an H100; no GPU was timed.',
        f'{sum(kernel.times for kernel in found.kernels)} kernels, {found.bytes / 1e9:.1f} GB,'
        f' {1000 * found.seconds:.1f} ms for a step of {images} images',
        f'memory: {found.argument_bytes / 2**30:.2f} GiB of state and batch, {found.temporary_bytes / 2**30:.2f} GiB'
        f' temporary; if that grows with the images, {images_that_fit(found, images)} fit'
        f' {h100_estimate.MEMORY / 1e9:.0f} GB',
        'GB by kind: ' + ', '.join(f'{name} {moved / 1e9:.1f}' for name, moved in largest),
    ]
    for kernel in sorted(found.kernels, key=lambda kernel: -kernel.seconds)[:top]:
        milliseconds, source = 1000 * kernel.seconds, kernel.source[-80:]
        lines.append(f'{milliseconds:8.4f} ms {kernel.bytes / 1e6:9.1f} MB  {kernel.name[:32]:32} {source}')
    return '\n'.join(lines)


def images_that_fit(found: h100_estimate.Estimate, images: int) -> int:
    """Images of a step in one part that the card's memory holds beside the state."""
    return int((h100_estimate.MEMORY - found.argument_bytes) / (found.temporary_bytes / images))


def main(argv: Sequence[str]) -> None:
    """Compiles and prints."""
    del argv
    if common.CONFIG.value is None:
        raise InputError('--config is needed: a config of a training, such as configs/cityscapes.py')
    config = common.CONFIG.value
    common.check_whole_network(config)
    print(text_of(estimate(config), config.train.batch_size, TOP.value))


if __name__ == '__main__':
    app.run(common.one_line_errors(main), flags_parser=command_line.parse_flags)
