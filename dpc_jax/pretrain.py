"""A backbone for data that has no published weights: MobileNet-v2 with linear logits, trained here in a minute.

The paper takes a backbone trained on ImageNet and COCO (§4). For generated scenes there is none, so a narrow one is
trained to label small crops: it learns what can be seen locally, and leaves context to the cells.
"""

import dataclasses
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Int

from dpc_jax import checks, initial, losses, ops, preprocess
from dpc_jax.base import InputError, PyTree, Size, Track
from dpc_jax.datasets import Dataset

BN_DECAY = 0.9  # for the `bn_decay` of a backbone trained here; slim's 0.997 is for runs a hundred times as long
CROPS_PER_IMAGE = 4  # drawing or decoding an image takes longer than a training step on a crop of it


@dataclasses.dataclass(frozen=True)
class PretrainSettings:
    """Adam with a cosine that ends at 0; loss at `loss_stride`."""

    steps: int = 400
    batch_size: int = 16
    crop_size: Size = (65, 65)
    learning_rate: float = 0.003
    loss_stride: int = 4
    seed: int = 0

    def __post_init__(self) -> None:
        checks.fields_at_least(1, self, ('steps', 'batch_size', 'loss_stride'), 'backbone.pretrain')
        if not self.learning_rate > 0:
            raise InputError(f'backbone.pretrain.learning_rate is {self.learning_rate}; it must be greater than 0')
        if min(self.crop_size) < 1 or any((side - 1) % self.loss_stride for side in self.crop_size):
            raise InputError(
                f'backbone.pretrain.crop_size is {self.crop_size}; it must be loss_stride ({self.loss_stride}) * k + 1'
            )
        checks.at_least(0, seed=self.seed)


class LinearLogits(nn.Module):
    """A backbone's features -> logits of every class at the size asked for."""

    backbone: nn.Module
    num_classes: int

    @nn.compact
    def __call__(self, images: Float[Array, 'B H W 3'], size: Size, train: bool) -> Float[Array, 'B L _ _']:
        features = self.backbone(images, train)['features']
        y = nn.Dense(self.num_classes, name='logits')(features)
        return jnp.moveaxis(ops.resize_bilinear(y, size), -1, 1)


class PretrainState(NamedTuple):
    """Everything that a step changes."""

    params: PyTree
    batch_stats: PyTree
    opt_state: optax.OptState


def train_backbone(
    key: jax.Array,
    backbone: nn.Module,
    dataset: Dataset,
    settings: PretrainSettings,
    *,
    track: Track = lambda items, _, __: items,
) -> tuple[PyTree, float]:
    """Variables (`params`, `batch_stats`) of the backbone, and the mean loss over the last tenth of the steps.

    Raises:
      InputError: the loss is no longer finite at the end.
    """
    model = LinearLogits(backbone, dataset.num_classes)
    crop = settings.crop_size
    size = ((crop[0] - 1) // settings.loss_stride + 1, (crop[1] - 1) // settings.loss_stride + 1)
    variables = initial.variables(lambda key: model.init(key, jnp.zeros((1, *crop, 3)), size, False), key)
    schedule = optax.cosine_decay_schedule(settings.learning_rate, settings.steps)
    optimizer = optax.adam(schedule)
    params, stats = variables['params'], variables['batch_stats']
    state = PretrainState(params, stats, optimizer.init(params))

    @jax.jit
    def step(
        state: PretrainState, images: Float[Array, 'B H W 3'], labels: Int[Array, 'B i j']
    ) -> tuple[PretrainState, Float[Array, '']]:
        def loss_of(params: PyTree) -> tuple[jax.Array, Any]:
            held = {'params': params, 'batch_stats': state.batch_stats}
            y, mutated = model.apply(held, images, size, True, mutable=['batch_stats'])
            return losses.cross_entropy(y, labels), mutated['batch_stats']

        (loss, stats), grads = jax.value_and_grad(loss_of, has_aux=True)(state.params)
        with jax.numpy_dtype_promotion('standard'):  # optax's Adam raises a float to an integer count
            updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
        return PretrainState(optax.apply_updates(state.params, updates), stats, opt_state), loss

    history = []
    for index in track(range(settings.steps), 'training the backbone', settings.steps):
        images, labels = _batch(dataset, settings, index)
        state, loss = step(state, images, labels)
        history.append(loss)
    last = float(np.mean([float(loss) for loss in history[-max(1, settings.steps // 10) :]]))
    if not np.isfinite(last):
        raise InputError(
            f'the backbone diverged (loss {last}) at backbone.pretrain.learning_rate {settings.learning_rate}; lower it'
        )
    return {'params': state.params['backbone'], 'batch_stats': state.batch_stats['backbone']}, last


def _batch(dataset: Dataset, settings: PretrainSettings, step: int) -> tuple[np.ndarray, np.ndarray]:
    """Crops of images drawn by seed and step; labels at the loss stride."""
    count = -(-settings.batch_size // CROPS_PER_IMAGE)
    chosen = np.random.default_rng((settings.seed, step)).integers(len(dataset), size=count)
    examples = [dataset[int(index)] for index in chosen]
    crops = [
        preprocess.augment(
            np.random.SeedSequence(settings.seed, spawn_key=(step, place)),
            examples[place // CROPS_PER_IMAGE],
            crop_size=settings.crop_size,
            scales=(1.0,),
        )
        for place in range(settings.batch_size)
    ]
    stride = settings.loss_stride
    labels = np.stack([crop.label[::stride, ::stride] for crop in crops]).astype(np.int32)
    return np.stack([crop.image for crop in crops]), labels
