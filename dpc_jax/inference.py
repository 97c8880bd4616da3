"""Images to what a task finds in them: at one scale, or the mean over several scales and over mirrored images.

It follows the official model.py (predict_labels, predict_labels_multi_scale). A pass at scale s reads the images at
scale_size(crop, s); its logits are resized to scale_size(crop, max(1, s) / logits stride) and from there to the crop,
or to the size of the task's outputs. What is averaged over several passes is the task's: of segmentation the softmax
probabilities. All resizing is bilinear with corners on corners.
"""

import dataclasses
import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, PartitionSpec
from jaxtyping import Array, Bool, Float

from dpc_jax import ops, sharding
from dpc_jax.base import InputError, PyTree, Size
from dpc_jax.segmenter import Segmenter, scale_size
from dpc_jax.task import Target, Task


@dataclasses.dataclass(frozen=True)
class InferenceSettings:
    """Which passes a prediction is made of.

    Attributes:
      flip: each scale a second time with left and right exchanged.
      pool_crop: pooling windows are those of images of this size at scale 1; None takes the images' own.

    Raises:
      InputError: no scales, or one that is not a number above 0.
    """

    scales: tuple[float, ...] = (1.0,)
    flip: bool = False
    pool_crop: Size | None = None

    def __post_init__(self) -> None:
        if not self.scales or not all(0 < scale < math.inf for scale in self.scales):
            raise InputError(f'evaluate.scales is {self.scales}; it must be one or more numbers greater than 0')

    @property
    def passes(self) -> list[tuple[float, bool]]:
        """(scale, whether mirrored) of each pass."""
        return [(scale, mirrored) for scale in self.scales for mirrored in (False, True)[: 1 + self.flip]]


class Prediction(NamedTuple):
    """What is found in a batch over N devices."""

    found: PyTree  # of each image, in the terms of the task
    counts: dict[str, Array]  # of each device's images, [N, ...]: add them up in int64 or float64
    finite: Bool[Array, ' B']  # whether all outputs of an image are finite; NaN would be counted as class 0


# ---- pure, of any batch ---------------------------------------------------------------------------------------------


def pass_logits(
    network: Segmenter,
    variables: PyTree,
    images: Float[Array, 'B H W 3'],
    mirrored: bool | Bool[Array, ''] = False,
    *,
    scale: float = 1.0,
    pool_crop: Size | None = None,
) -> Float[Array, 'B h w L']:
    """Logits of one pass, at scale_size(crop, max(1, scale) / logits stride) and mirrored back."""
    crop = _size(images)
    pool_crop = pool_crop and scale_size(pool_crop, scale)
    x = _resize(_flip(images, mirrored), scale_size(crop, scale))
    logits: Any = network.apply(variables, x, False, None, pool_crop)
    return _flip(_resize(logits, scale_size(crop, max(1.0, scale) / network.logits_stride)), mirrored)


def pass_scores(
    network: Segmenter,
    task: Task,
    variables: PyTree,
    images: Float[Array, 'B H W 3'],
    mirrored: bool | Bool[Array, ''] = False,
    *,
    scale: float = 1.0,
    settings: InferenceSettings = InferenceSettings(),
) -> Float[Array, 'B H2 W2 L']:
    """What a pass adds to the outputs: of segmentation its probabilities, or logits where it is the only pass."""
    logits = pass_logits(network, variables, images, mirrored, scale=scale, pool_crop=settings.pool_crop)
    logits = _resize(logits, task.output_size(_size(images)))
    return task.of_pass(logits, mirrored, scale=scale, alone=len(settings.passes) == 1)


def _size(images: Float[Array, 'B H W C']) -> Size:
    return images.shape[1], images.shape[2]


def _resize(x: Float[Array, 'B h w C'], size: Size) -> Float[Array, 'B H W C']:
    return x if _size(x) == size else ops.resize_bilinear(x, size)


def _flip(x: Float[Array, 'B H W C'], mirrored: bool | Bool[Array, '']) -> Float[Array, 'B H W C']:
    return jnp.where(mirrored, x[:, :, ::-1], x)


# ---- compiled, over devices -----------------------------------------------------------------------------------------

Total = Callable[[PyTree, Float[Array, 'B H W 3']], Float[Array, 'B H2 W2 L']]
"""(variables on every device, images along the devices) -> the sum of `pass_scores`."""

Predict = Callable[[PyTree, Float[Array, 'B H W 3'], Target], Prediction]
"""(variables on every device, images and targets along the devices) -> what is found, and counts against those."""


def make_total(network: Segmenter, task: Task, settings: InferenceSettings, mesh: Mesh) -> Total:
    """The sum of `pass_scores` over a mesh; one program per scale.

    Passes are added up in one buffer of [B, H, W, L], so that memory does not grow with their number.
    """
    split, everywhere = PartitionSpec(sharding.DATA), PartitionSpec()

    @functools.partial(jax.jit, static_argnames='scale', donate_argnames='total')
    def add(
        total: Float[Array, 'B H2 W2 L'],
        variables: PyTree,
        images: Float[Array, 'B H W 3'],
        mirrored: Bool[Array, ''],
        scale: float,
    ) -> Float[Array, 'B H2 W2 L']:
        one = functools.partial(pass_scores, network, task, scale=scale, settings=settings)
        on_devices = _on_devices(one, mesh, everywhere, split, everywhere)
        added: Array = total + on_devices(variables, images, mirrored)
        return added

    def total_of(variables: PyTree, images: Float[Array, 'B H W 3']) -> Float[Array, 'B H2 W2 L']:
        shape = (images.shape[0], *task.output_size(_size(images)), network.num_classes)
        total = jnp.zeros(shape, jnp.float32, device=sharding.along_data(mesh))
        for scale, mirrored in settings.passes:
            total = add(total, variables, images, jnp.asarray(mirrored), scale=scale)
        return total

    return total_of


def make_predict(network: Segmenter, task: Task, settings: InferenceSettings, mesh: Mesh) -> Predict:
    """What the task finds in the mean of `pass_scores`, over a mesh; one program per scale, and one to finish."""
    split, total_of = PartitionSpec(sharding.DATA), make_total(network, task, settings, mesh)

    def count(total: Float[Array, 'B H2 W2 L'], target: Target) -> Prediction:
        found = task.found(mean_of(total, settings))
        counts = jax.tree.map(lambda x: x[None], task.measure(found, target))
        return Prediction(found, counts, jnp.isfinite(total).all((1, 2, 3)))

    finish = jax.jit(_on_devices(count, mesh, split, split))

    def predict(variables: PyTree, images: Float[Array, 'B H W 3'], target: Target) -> Prediction:
        prediction: Prediction = finish(total_of(variables, images), target)
        return prediction

    return predict


def mean_of(total: Float[Array, '*B L'], settings: InferenceSettings) -> Float[Array, '*B L']:
    """Of the sum of all passes."""
    return total if len(settings.passes) == 1 else total / len(settings.passes)


def _on_devices(one: Callable[..., PyTree], mesh: Mesh, *specs: PartitionSpec) -> Callable[..., PyTree]:
    return jax.shard_map(one, mesh=mesh, in_specs=specs, out_specs=PartitionSpec(sharding.DATA), check_vma=False)
