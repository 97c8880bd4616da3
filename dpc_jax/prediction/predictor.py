"""A network over images of any size: padded to the next size that fits, or in tiles where they are very large."""

import dataclasses
import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Float16, Float32, Num, UInt8

from dpc_jax import checks, inference, preprocess, sharding
from dpc_jax.base import InputError, PyTree, Size
from dpc_jax.inference import InferenceSettings
from dpc_jax.prediction import tiles
from dpc_jax.segmenter import Segmenter
from dpc_jax.task import Task

Image = Num[np.ndarray, '_ _ 3']
"""RGB in 0..255."""


@dataclasses.dataclass(frozen=True)
class PredictSettings:
    """How images become predictions; sizes are (height, width).

    Attributes:
      batch_size: images, or tiles, at a time on each device.
      top: how many of the most probable classes are kept with their probabilities; 0: the best alone, without.
      whole: images with more pixels than one of this size go in tiles.
      tile: the size of a tile.
      overlap: pixels that tiles share at least.

    Raises:
      InputError: a number that is too small, or an overlap of half a tile or more.
    """

    batch_size: int = 1
    top: int = 0
    whole: Size = (2049, 2049)
    tile: Size = (1025, 1025)
    overlap: int = 128

    def __post_init__(self) -> None:
        checks.at_least(1, evaluate__batch_size=self.batch_size, predict__whole=min(self.whole))
        checks.at_least(0, predict__probabilities=self.top, predict__overlap=self.overlap)
        if 2 * self.overlap >= min(self.tile):
            raise InputError(
                f'predict.overlap is {self.overlap}; it must be less than half of predict.tile {self.tile}'
            )


class Found(NamedTuple):
    """What is found in an image."""

    found: Any  # in the terms of the task: of segmentation the class of each pixel [H, W]
    top: tuple[UInt8[np.ndarray, 'H W k'], Float16[np.ndarray, 'H W k']] | None  # classes and their probabilities
    finite: bool  # False: the network gave values that are not finite, and nothing of this means anything


@dataclasses.dataclass(frozen=True)
class Predictor:
    """A network with its weights, ready for images; a program is compiled once for each padded size."""

    network: Segmenter
    task: Task
    variables: PyTree
    passes: InferenceSettings
    settings: PredictSettings
    mesh: jax.sharding.Mesh
    crop_size: Size = (0, 0)  # of the crops of a task that sees such
    boxes: Mapping[str, Any] = dataclasses.field(
        default_factory=dict
    )  # of people, by path of the image; of such a task

    def padded(self, size: Size) -> Size:
        """The size that images of this size are padded to; (0, 0) where they go in tiles, or in crops."""
        if self.task.of_crops:
            return 0, 0
        whole = self.settings.whole
        if size[0] * size[1] > whole[0] * whole[1]:
            return 0, 0
        return preprocess.next_crop(size, self.network.output_stride)

    @property
    def at_once(self) -> int:
        """How many images of one padded size go through together."""
        return self.settings.batch_size * self.mesh.size

    def found(self, images: Sequence[Image], names: Sequence[str] = ()) -> list[Found]:
        """What is found in images, of which either one goes in tiles, or at most `at_once` have one padded size.

        `names` are paths by which a task that sees crops finds their boxes.
        """
        if self.task.of_crops:
            return [
                self._in_crops(image, name) for image, name in zip(images, names or [''] * len(images), strict=True)
            ]
        if self.padded(_size(images[0])) == (0, 0):
            return [self._in_tiles(image) for image in images]
        found, top, finite = jax.tree.map(np.asarray, self._finish(self._total(images)))
        cuts = [functools.partial(_cut, i, _size(image)) for i, image in enumerate(images)]
        return [Found(jax.tree.map(cut, found), jax.tree.map(cut, top), bool(finite[i])) for i, cut in enumerate(cuts)]

    def _in_crops(self, image: Image, name: str) -> Found:
        """An image in crops, as many at a time as images otherwise; without boxes it is one person as a whole."""
        pieces = self.task.pieces(image, self.crop_size, self.boxes.get(name, []) if self.boxes else None) or []
        found: list[Any] = []
        finite = True
        for start in range(0, len(pieces), self.at_once):
            some = pieces[start : start + self.at_once]
            joints, _, are_finite = jax.tree.map(np.asarray, self._finish(self._total([piece.image for piece in some])))
            found += [joints[place] for place in range(len(some))]
            finite &= bool(are_finite[: len(some)].all())
        return Found(self.task.joined(image, pieces, found), None, finite)

    def _in_tiles(self, image: Image) -> Found:
        height, width = _size(image)
        parts: list[Any] = []
        count = min(self.settings.top, self.network.num_classes)
        top = (np.empty((height, width, count), np.uint8), np.empty((height, width, count), np.float16))
        finite = True
        for band in tiles.bands(image, self._of_tiles, tile=self.settings.tile, overlap=self.settings.overlap):
            rows = slice(band.top, band.top + len(band.probabilities))
            parts.append(
                jax.tree.map(lambda x: np.asarray(x)[0], self.task.found(jnp.asarray(band.probabilities[None])))
            )
            finite &= bool(np.isfinite(band.probabilities).all())
            if count:
                order = np.argsort(-band.probabilities, axis=-1, kind='stable')[..., :count]
                top[0][rows] = order
                top[1][rows] = np.take_along_axis(band.probabilities, order, -1)
        found = jax.tree.map(lambda *bands: np.concatenate(bands), *parts)
        return Found(found, top if count else None, finite)

    def _of_tiles(self, images: list[Image]) -> list[Float32[np.ndarray, 'h w L']]:
        found: list[np.ndarray] = []
        for start in range(0, len(images), self.at_once):
            some = images[start : start + self.at_once]
            chances = np.asarray(self._means(self._total(some)))
            found += [one[: image.shape[0], : image.shape[1]] for one, image in zip(chances, some, strict=False)]
        return found

    def _total(self, images: Sequence[Image]) -> Float[Array, 'B H W L']:
        """The scores of images of one padded size; what the batch lacks is filled up."""
        height, width = preprocess.next_crop(_size(images[0]), self.network.output_stride)
        batch = np.full((self.at_once, height, width, 3), preprocess.MEAN_PIXEL, np.float32)
        for place, image in enumerate(images):
            batch[place, : image.shape[0], : image.shape[1]] = image
        placed = jax.device_put(batch, sharding.along_data(self.mesh))
        with jax.default_matmul_precision('float32'):
            return self._program(self._held, placed)

    @functools.cached_property
    def _held(self) -> PyTree:
        return jax.device_put(self.variables, sharding.replicated(self.mesh))

    @functools.cached_property
    def _program(self) -> inference.Total:
        return inference.make_total(self.network, self.task, self.passes, self.mesh)

    @functools.cached_property
    def _finish(self) -> Callable[[Array], Any]:
        return _finisher(self.task, self.passes, min(self.settings.top, self.network.num_classes))

    @functools.cached_property
    def _means(self) -> Callable[[Array], Array]:
        return _blended(self.task, self.passes)


def of(
    network: Segmenter,
    task: Task,
    variables: PyTree,
    passes: InferenceSettings,
    settings: PredictSettings = PredictSettings(),
    **crops: Any,
) -> Predictor:
    """The predictor on all devices of this process; `crops` are the last two fields of `Predictor`."""
    return Predictor(network, task, variables, passes, settings, sharding.local_mesh(), **crops)


def batches(sizes: Sequence[Size], predictor: Predictor) -> Iterator[list[int]]:
    """Indices of images that go through together: those of one padded size, in the order of their first one."""
    groups: dict[tuple[Size, int], list[int]] = {}
    for index, size in enumerate(sizes):
        padded = predictor.padded(size)
        groups.setdefault((padded, index if padded == (0, 0) else -1), []).append(index)
    for group in groups.values():
        for start in range(0, len(group), predictor.at_once):
            yield group[start : start + predictor.at_once]


def _size(image: Image) -> Size:
    return image.shape[0], image.shape[1]


def _cut(index: int, size: Size, values: np.ndarray) -> np.ndarray:
    return values[index, : size[0], : size[1]]


@functools.lru_cache(maxsize=8)
def _blended(task: Task, passes: InferenceSettings) -> Callable[[Array], Array]:
    """Compiled: the sum of all passes -> what tiles are blended in, of segmentation probabilities."""

    def mean(total: Float[Array, 'B H W L']) -> Float[Array, 'B H W L']:
        return task.blended(inference.mean_of(total, passes), alone=len(passes.passes) == 1)

    return jax.jit(mean)


@functools.lru_cache(maxsize=8)
def _finisher(task: Task, passes: InferenceSettings, count: int) -> Callable[[Array], Any]:
    """Compiled: the sum of all passes -> what is found, the `count` most probable classes, whether all is finite."""

    def finish(total: Float[Array, 'B H W L']) -> tuple[PyTree, tuple[Array, Array] | None, Bool[Array, ' B']]:
        mean = inference.mean_of(total, passes)
        found, finite = task.found(mean), jnp.isfinite(total).all((1, 2, 3))
        if not count:
            return found, None, finite
        chances, order = jax.lax.top_k(task.blended(mean, alone=len(passes.passes) == 1), count)
        return found, (order.astype(jnp.uint8), chances.astype(jnp.float16)), finite

    return jax.jit(finish)
