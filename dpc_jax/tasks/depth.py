"""Depth: the distance of what each pixel shows, in metres; 0 where it is missing.

arXiv:1810.10804 trained its decoders for depth on NYU Depth v2 and published no recipe; the reverse Huber loss over
pixels that have a distance is that of the authors' later multi-task code (design notes), the measures and the window in
which they are taken are those of Eigen et al. 2014 (arXiv:1406.2283).
"""

import dataclasses
import functools
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import jax.numpy as jnp
import ml_collections
import numpy as np
from jaxtyping import Array, Bool, Float, Float32, Int, UInt8
from matplotlib.figure import Figure
from PIL import Image

from dpc_jax import checks, depth, label_counts, preprocess
from dpc_jax.base import DepthExample, InputError, MainScore, Shown, Size
from dpc_jax.datasets import Dataset, Facts
from dpc_jax.task import Counts, Seen, Task, Views, Written, no_classes
from dpc_jax.tasks import field

FOLDER = 'depth'
SUMS = 'depth'  # the one count
MILLIMETRES = 1000  # per metre, of 16-bit PNGs
OUTPUTS = ('linear', 'exp')
COLOUR = (68, 1, 84)
MAIN = MainScore('rmse', 'RMSE', 'm', 1.0, highest=False)
TABLE = (
    *(('rmse', 'RMSE, m'), ('rmse_log', 'RMSE of logarithms'), ('absolute', 'absolute error, m')),
    *(('absolute_relative', 'absolute relative error'), ('log10', 'log10 error')),
    *(('delta1', 'δ < 1.25'), ('delta2', 'δ < 1.25²'), ('delta3', 'δ < 1.25³')),
)
"""Scores of the report, and what they are called."""


@dataclasses.dataclass(frozen=True)
class Depth(Task):
    """One channel; targets are metres [H, W], 0 where the distance is missing.

    Attributes:
      loss_name: 'berhu', 'l1' or 'log_l2'.
      output: 'linear': the channel is the distance; 'exp': its natural logarithm, which is never below 0.
      limits: (nearest, farthest) in metres: predictions are clipped to them, and truth beyond them is not judged.
      crop: the window that is judged: 'none' or 'eigen'.
    """

    loss_name: str = 'berhu'
    output: str = 'linear'
    limits: tuple[float, float] = (0.001, 10.0)
    crop: str = depth.NO_CROP

    name: ClassVar[str] = 'depth'
    needs: ClassVar[tuple[str, ...]] = ('depth',)
    main: ClassVar[MainScore] = MAIN
    logged: ClassVar[tuple[str, ...]] = ('rmse', 'absolute_relative', 'delta1')

    def __post_init__(self) -> None:
        checks.one_of('task.loss', self.loss_name, depth.LOSSES)
        checks.one_of('task.output', self.output, OUTPUTS)
        checks.one_of('task.crop', self.crop, depth.CROPS)
        if not 0 < self.limits[0] < self.limits[1]:
            raise InputError(f'task.limits is {self.limits}; it must be (nearest, farthest) in metres, above 0')
        if self.loss_name == 'log_l2' and self.output != 'exp':
            raise InputError(
                f"task.loss is 'log_l2' and task.output '{self.output}', whose values may be below 0; allowed: exp"
            )

    @property
    def names(self) -> tuple[str, ...]:
        """The one channel."""
        return ('depth',)

    @property
    def palette(self) -> UInt8[np.ndarray, 'L 3']:
        """The colour of what is near."""
        return np.array([COLOUR], np.uint8)

    def fields(self) -> dict[str, Any]:
        """All of them."""
        return {
            **{'name': self.name, 'loss': self.loss_name, 'output': self.output},
            **{'limits': self.limits, 'crop': self.crop},
        }

    def check_training(self, train: ml_collections.ConfigDict) -> None:
        """Classes and their hard pixels are those of segmentation."""
        no_classes(train, self.name)

    def announce(self, dataset: Dataset) -> None:
        """Prints the range of the distances in a sample of the split, and how many are missing.

        InputError where all of them are missing or beyond the limits, as with a wrong scale.
        """
        announce(dataset, self.limits)

    # ---- what a network sees ----------------------------------------------------------------------------------------

    def augment(self, key: np.random.SeedSequence, example: DepthExample, views: Views) -> Seen:
        """The official augmentation of segmentation; what is shown larger is nearer: metres / scale."""
        view = preprocess.draw_view(
            key, example.depth.shape, views.crop_size, scales=views.scales, flip_probability=views.flip_probability
        )
        return Seen(preprocess.see(view, example).image, self.seen(view, example))

    def seen(self, view: preprocess.View, example: DepthExample) -> Float32[np.ndarray, 'H W']:
        """The distances as a view shows them, nearer by its scale; 0 outside of the image."""
        return preprocess.see_map(view, example.depth, 0.0) / np.float32(view.factor)

    def whole(self, example: DepthExample, size: Size) -> Seen:
        """Padded; what is not judged is missing."""
        return Seen(preprocess.pad_to(example, size).image, self.judged_depth(example, size))

    def judged_depth(self, example: DepthExample, size: Size) -> Float32[np.ndarray, 'H W']:
        """The distances within limits and window, padded to `size` with missing ones."""
        nearest, farthest = self.limits
        kept = (example.depth >= nearest) & (example.depth <= farthest) & self.window(example)
        return preprocess.pad_map(np.where(kept, example.depth, np.float32(0)), size, 0.0)

    def window(self, example: DepthExample) -> Bool[np.ndarray, 'H W']:
        """Which pixels are judged."""
        return depth.crop_mask((example.depth.shape[0], example.depth.shape[1]), self.crop)

    def nothing(self, size: Size) -> Float32[np.ndarray, 'H W']:
        """Every distance is missing."""
        return np.zeros(size, np.float32)

    def size_of(self, example: DepthExample) -> Size:
        """Of the image."""
        return example.depth.shape[0], example.depth.shape[1]

    # ---- training ---------------------------------------------------------------------------------------------------

    def metres(self, channel: Float[Array, '*n']) -> Float[Array, '*n']:
        """What the channel means."""
        return jnp.exp(channel) if self.output == 'exp' else channel

    def counted(self, target: Float[Array, 'B H W']) -> Int[Array, '']:
        """Pixels that have a distance."""
        return (target > 0).sum()

    def loss(
        self,
        fitted: Float[Array, 'B L H W'],
        target: Float[Array, 'B H W'],
        *,
        counted: Float[Array, ''],
        step: Int[Array, ''],
        parts: int,
    ) -> Float[Array, '']:
        """The mean over the pixels that have a distance; c of berHu is that of these images."""
        return depth.total_loss(self.loss_name, self.metres(fitted[:, 0]), target) / counted

    def hits(self, fitted: Float[Array, 'B L H W'], target: Float[Array, 'B H W']) -> Int[Array, '']:
        """Pixels within a factor of 1.25."""
        found = jnp.maximum(self.metres(fitted[:, 0]), self.limits[0])
        ratio = jnp.maximum(found / jnp.maximum(target, self.limits[0]), target / found)
        return ((ratio < 1.25) & (target > 0)).sum()

    # ---- inference --------------------------------------------------------------------------------------------------

    def of_pass(
        self, logits: Float[Array, 'B H W L'], mirrored: bool | Bool[Array, ''], *, scale: float, alone: bool
    ) -> Float[Array, 'B H W L']:
        """Metres; what an enlarged image shows is farther away than it looks by the scale."""
        return self.metres(logits) * scale

    def found(self, mean: Float[Array, 'B H W L']) -> Float[Array, 'B H W']:
        """Metres within the limits."""
        return jnp.clip(mean[..., 0], *self.limits)

    def measure(self, found: Float[Array, 'B H W'], target: Float[Array, 'B H W']) -> dict[str, Array]:
        """The sums of `depth.SUMS`."""
        return {SUMS: depth.measure(found, target)}

    # ---- scores -----------------------------------------------------------------------------------------------------

    def empty(self) -> dict[str, np.ndarray]:
        """No images."""
        return {SUMS: np.zeros(len(depth.SUMS), np.float64)}

    def merge(self, one: Counts, other: Counts) -> dict[str, np.ndarray]:
        """The sums of single images [B, 11] are added up as well."""
        return {SUMS: one[SUMS] + np.asarray(other[SUMS], np.float64).reshape(-1, len(depth.SUMS)).sum(0)}

    def compute(self, counts: Counts, rows: Sequence[Any] = (), truth: Any = None) -> dict[str, Any]:
        """Metres and shares."""
        return depth.compute(counts[SUMS])

    # ---- one image --------------------------------------------------------------------------------------------------

    def of_example(self, found: Float[np.ndarray, 'H W'], example: DepthExample) -> Float[np.ndarray, 'H2 W2']:
        """Without what was padded."""
        return found[: example.depth.shape[0], : example.depth.shape[1]]

    def overlay(self, image: UInt8[np.ndarray, 'H W 3'], found: Float[np.ndarray, 'H W']) -> UInt8[np.ndarray, '_ _ 3']:
        """Distances as colours, with a bar in metres."""
        return depth.with_bar(found)

    def files_of(self, found: Float[np.ndarray, 'H W'], *, exported: bool) -> Mapping[str, Written]:
        """A gray PNG of 16 bits, in millimetres."""
        return {FOLDER: Written('.png', functools.partial(write_millimetres, found))}

    def summary(self, found: Float[np.ndarray, 'H W']) -> dict[str, Any]:
        """Metres."""
        values = {'nearest': found.min(), 'mean': found.mean(), 'farthest': found.max()}
        return {f'{name} m': round(float(value), 4) for name, value in values.items()}

    # ---- text and pictures ------------------------------------------------------------------------------------------

    def headline(self, row: Mapping[str, Any]) -> str:
        """RMSE and two others."""
        if not row['judged_pixels']:
            return 'no score: the images have no distances that are judged'
        return (
            f'RMSE {row["rmse"]:.3f} m (absolute relative error {row["absolute_relative"]:.3f},'
            f' δ < 1.25 {100 * row["delta1"]:.1f} %)'
        )

    def definition(self, row: Mapping[str, Any]) -> str:
        """Which mean the measures are."""
        return (
            'All measures are means over the judged pixels of all images together (Eigen et al. 2014). The mean of the'
            f" images' own RMSE is {row['rmse_by_image']:.3f} m."
        )

    def tables(self, counts: Counts, row: Mapping[str, Any]) -> list[str]:
        """All measures."""
        if not row['judged_pixels']:
            return []
        lines = ['| measure | |', '|:--|--:|', *(f'| {label} | {row[name]:.4f} |' for name, label in TABLE)]
        return ['\n'.join(lines), self.definition(row)]

    @property
    def tabled(self) -> tuple[str, ...]:
        """What the table says."""
        return (*(name for name, _ in TABLE), 'rmse_by_image')

    def panels(self, shown: Sequence[Shown]) -> Figure:
        """Image, distance, prediction, error."""
        return depth.panels(shown, [self.window(example) for example, _ in shown])

    def program(self, logits: Float[Array, 'B _ _ L'], size: Size) -> dict[str, Array]:
        """'depth': metres (float32) at the size of the images."""
        return {'depth': super().program(logits, size)['found']}


def make(fields: Mapping[str, Any], facts: Facts) -> Depth:
    """The task of `loss`, `output`, `limits` and `crop`."""
    limits = tuple(field(fields, Depth.name, 'limits'))
    if len(limits) != 2:
        raise InputError(f'task.limits is {limits}; it must be (nearest, farthest) in metres, above 0')
    nearest, farthest = limits
    loss, output, crop = (field(fields, Depth.name, name) for name in ('loss', 'output', 'crop'))
    return Depth(facts, loss, output, (float(nearest), float(farthest)), crop)


def write_millimetres(found: Float[np.ndarray, 'H W'], path: pathlib.Path) -> None:
    """Distances as a gray PNG of 16 bits: 65.535 m is the most that it holds."""
    millimetres = np.clip(np.rint(found * MILLIMETRES), 0, 2**16 - 1).astype(np.uint16)
    Image.fromarray(millimetres).save(path, format='png')


def announce(dataset: Dataset, limits: tuple[float, float]) -> None:
    """See `Depth.announce`."""
    chosen = label_counts.sample(len(dataset))
    pixels, known, within, least, most = 0, 0, 0, np.inf, 0.0
    for index in chosen:
        try:
            found = dataset[index].depth
        except InputError:  # whoever reads it says what is wrong
            continue
        there = found[found > 0]
        pixels, known = pixels + found.size, known + there.size
        within += int(((there >= limits[0]) & (there <= limits[1])).sum())
        least, most = min(least, there.min(initial=np.inf)), max(most, there.max(initial=0))
    if pixels and not known:
        raise InputError(f'the distances of {dataset.split} are all missing (0): nothing can be learned or judged')
    if pixels and not within:
        raise InputError(
            f'the distances of {dataset.split} are {least:.4g} to {most:.4g} m, all beyond task.limits {limits}: is'
            ' dataset.depth_scale right, the value of the files that stands for a metre?'
        )
    if not pixels:
        return
    missing = 100 * (1 - known / pixels)
    print(
        f'distances of {dataset.split} ({len(chosen)} of {len(dataset)} images): {least:.2f} to {most:.2f} m,'
        f' {missing:.1f} % missing'
    )
    if missing > 50:
        print(f'warning: {missing:.1f} % of the distances of {dataset.split} are missing')
    if within < 0.9 * known:
        print(f'warning: {100 * (1 - within / known):.1f} % of the distances of {dataset.split} are beyond {limits} m')
