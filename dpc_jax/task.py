"""What a task is: what the output of a network means, what is learned from it, found in it, counted and shown.

Journeys, trainings, evaluations, predictions and exports ask a task by what stands here, and none by its name.
Everything that a task computes on a device is a pure function of arrays with a leading axis of images; counts add up,
so that batches, devices and processes may come in any order.
"""

import abc
import dataclasses
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, NamedTuple

import ml_collections
import numpy as np
from jax import lax
from jaxtyping import Array, Bool, Float, Float32, Int, UInt8
from matplotlib.figure import Figure

from dpc_jax import ops
from dpc_jax.base import InputError, MainScore, PyTree, Shown, Size
from dpc_jax.datasets import Dataset, Facts

Target = PyTree
"""What a network learns from, of one image or with a leading axis: arrays whose shapes follow the size of the crop."""

Counts = Mapping[str, np.ndarray]
"""What is counted over images: arrays that add up, int64 or float64."""

Row = dict[str, Any]
"""What the scores need of a single example, where sums are not enough; plain values, as JSON has them."""


class Views(NamedTuple):
    """How a training looks at images; a task may draw more than that."""

    crop_size: Size
    scales: tuple[float, ...]
    flip_probability: float


class Seen(NamedTuple):
    """An example as a network sees it."""

    image: Float32[np.ndarray, 'H W 3']  # 0..255
    target: Target


class Piece(NamedTuple):
    """A part of an image that goes through the network by itself, and how what is found there lies in the image."""

    image: np.ndarray  # [H, W, 3] in 0..255
    place: Any


@dataclasses.dataclass(frozen=True)
class Task(abc.ABC):
    """What the channels of a network mean. The defaults are those of a value at each pixel."""

    facts: Facts

    name: ClassVar[str]
    needs: ClassVar[tuple[str, ...]]  # of `Dataset.targets`
    main: ClassVar[MainScore]
    logged: ClassVar[tuple[str, ...]]  # scores that the log of a training keeps, the main one first
    has_probabilities: ClassVar[bool] = False  # whether `blended` gives those of classes
    of_crops: ClassVar[bool] = False  # whether the network sees crops of one size in place of whole images

    # ---- what the channels are --------------------------------------------------------------------------------------

    @property
    @abc.abstractmethod
    def names(self) -> tuple[str, ...]:
        """The names of the channels; their number is that of the network's."""

    @property
    @abc.abstractmethod
    def palette(self) -> UInt8[np.ndarray, 'L 3']:
        """RGB colour of each channel, for pictures."""

    @property
    def channels(self) -> int:
        """L, the channels of the network's last layer."""
        return len(self.names)

    @abc.abstractmethod
    def fields(self) -> dict[str, Any]:
        """The fields of `config.task` by which `make` gives this task again."""

    def check_training(self, train: ml_collections.ConfigDict) -> None:
        """InputError for a field of `config.train` that cannot go with the task."""
        del train

    def check_size(self, field: str, size: Size) -> None:
        """InputError if the network cannot see crops of that size, which a field of the config gives."""
        del field, size

    def for_training(self, train: ml_collections.ConfigDict) -> 'Task':
        """The task with what `config.train` says of its loss."""
        self.check_training(train)
        return self

    def announce(self, dataset: Dataset) -> None:
        """Prints what occurs in the targets of a split before any work, and warns of what is odd; InputError."""
        del dataset

    # ---- what a network sees ----------------------------------------------------------------------------------------

    @abc.abstractmethod
    def augment(self, key: np.random.SeedSequence, example: Any, views: Views) -> Seen:
        """One random view of an example, of the size `views.crop_size`."""

    @abc.abstractmethod
    def whole(self, example: Any, size: Size) -> Seen:
        """The example as it is evaluated, padded or cropped to `size`."""

    @abc.abstractmethod
    def nothing(self, size: Size) -> Target:
        """The target of an image from which nothing is learned and on which nothing is judged."""

    @abc.abstractmethod
    def size_of(self, example: Any) -> Size:
        """The size of image that an evaluation must hold; (0, 0) where any size does."""

    # ---- training, on the device ------------------------------------------------------------------------------------

    def fitted(self, logits: Float[Array, 'B _ _ L'], size: Size) -> Float[Array, 'B L _ _']:
        """What losses are taken of: the logits at the size of the crop, in full float32 on every device."""
        return ops.upsample_logits(logits, size=size, precision=lax.Precision.HIGHEST)

    @abc.abstractmethod
    def counted(self, target: Target) -> Int[Array, '']:
        """How many values are learned from in some images; the loss is divided by their number."""

    @abc.abstractmethod
    def loss(
        self,
        fitted: Float[Array, 'B L _ _'],
        target: Target,
        *,
        counted: Float[Array, ''],
        step: Int[Array, ''],
        parts: int,
    ) -> Float[Array, '']:
        """What some images add to the loss of a step, of whose `parts` they are one; `counted` is of all parts."""

    @abc.abstractmethod
    def hits(self, fitted: Float[Array, 'B L _ _'], target: Target) -> Int[Array, '']:
        """How many of the `judged` values are right, for the log."""

    def judged(self, target: Target) -> Int[Array, '']:
        """How many values can be right."""
        return self.counted(target)

    # ---- inference, on the device -----------------------------------------------------------------------------------

    def output_size(self, size: Size) -> Size:
        """The size to which the outputs of an image of that size are resized."""
        return size

    @abc.abstractmethod
    def of_pass(
        self, logits: Float[Array, 'B H W L'], mirrored: bool | Bool[Array, ''], *, scale: float, alone: bool
    ) -> Float[Array, 'B H W L']:
        """What a pass over the image at that scale adds to the mean over all passes; `alone` if it is the only one.

        The logits are mirrored back already where the image was mirrored.
        """

    def blended(self, mean: Float[Array, 'B H W L'], *, alone: bool) -> Float[Array, 'B H W L']:
        """The mean over all passes in the terms in which overlapping tiles are averaged; `found` reads it as well."""
        return mean

    @abc.abstractmethod
    def found(self, mean: Float[Array, 'B H W L']) -> PyTree:
        """What the mean over all passes says of each image, arrays [B, ...]; the same for the only pass."""

    @abc.abstractmethod
    def measure(self, found: PyTree, target: Target) -> dict[str, Array]:
        """What is counted of some images, by name; pixels in integers."""

    # ---- scores -----------------------------------------------------------------------------------------------------

    @abc.abstractmethod
    def empty(self) -> dict[str, np.ndarray]:
        """The counts of no images: int64 or float64."""

    def merge(self, one: Counts, other: Counts) -> dict[str, np.ndarray]:
        """The counts of two sets of images together."""
        return {name: held + np.asarray(other[name], held.dtype) for name, held in one.items()}

    def rows(self, example: Any, found: Any) -> list[Row]:
        """What the scores need of this example beside the counts; `found` as `of_example` gives it."""
        return []

    @abc.abstractmethod
    def compute(self, counts: Counts, rows: Sequence[Row] = (), truth: Any = None) -> dict[str, Any]:
        """The scores by name, NaN for what cannot be said; `truth` is that of the data set (`Dataset.truth`)."""

    # ---- one image --------------------------------------------------------------------------------------------------

    @abc.abstractmethod
    def of_example(self, found: Any, example: Any) -> Any:
        """What was found in a padded image, in the terms of the example itself."""

    def pieces(self, image: np.ndarray, size: Size, boxes: Any = None) -> list[Piece] | None:
        """The crops of an image that are predicted; None where it goes through as a whole."""
        return None

    def joined(self, image: np.ndarray, pieces: Sequence[Piece], found: Sequence[Any]) -> Any:
        """What was found in the pieces of an image, as one."""
        raise NotImplementedError(f'the task {self.name} has no pieces')

    @abc.abstractmethod
    def overlay(self, image: UInt8[np.ndarray, 'H W 3'], found: Any) -> UInt8[np.ndarray, '_ _ 3']:
        """What was found, to look at."""

    @abc.abstractmethod
    def files_of(self, found: Any, *, exported: bool) -> Mapping[str, 'Written']:
        """Folder -> the file that holds what was found in an image; `exported`: as the server of the data set takes it.

        Empty where nothing is written of single images.
        """

    @abc.abstractmethod
    def summary(self, found: Any) -> dict[str, Any]:
        """What a table of predictions says of an image: plain values, the shares of classes in 0..1."""

    def caption(self, summary: Mapping[str, Any]) -> str:
        """A line below a picture, from the `summary`."""
        return ', '.join(
            f'{name} {value:.2f}' if isinstance(value, float) else f'{name} {value}'
            for name, value in summary.items()
            if isinstance(value, float | int)
        )

    def collected(self, rows: Sequence[tuple[str, str, Mapping[str, Any]]]) -> Mapping[str, str]:
        """File name -> text of what is written once of all images: `(name, path, summary)` of each."""
        return {}

    # ---- text and pictures ------------------------------------------------------------------------------------------

    @abc.abstractmethod
    def headline(self, row: Mapping[str, Any]) -> str:
        """The scores in a line."""

    def definition(self, row: Mapping[str, Any]) -> str:
        """Which of several definitions the scores follow, and what another one gives; '' where there is one alone."""
        return ''

    def is_defined_otherwise(self, row: Mapping[str, Any]) -> bool:
        """Whether another definition gives other scores, so that it is printed."""
        return False

    @abc.abstractmethod
    def tables(self, counts: Counts, row: Mapping[str, Any]) -> list[str]:
        """Tables of the report, in Markdown."""

    @property
    def tabled(self) -> tuple[str, ...]:
        """Scores that headline and tables say, so that the report does not list them again."""
        return ()

    def attachments(self, counts: Counts, rows: Sequence[Row]) -> Mapping[str, str]:
        """File name -> text of what lies beside a report."""
        return {}

    @abc.abstractmethod
    def panels(self, shown: Sequence[Shown]) -> Figure:
        """A row for each example: image, truth, prediction."""

    def program(self, logits: Float[Array, 'B _ _ L'], size: Size) -> dict[str, Array]:
        """What an exported program gives for images of that size, by name."""
        mean = self.of_pass(ops.resize_bilinear(logits, self.output_size(size)), False, scale=1.0, alone=True)
        return {'found': self.found(mean)}


class Written(NamedTuple):
    """A file of one image."""

    suffix: str
    write: Callable[[pathlib.Path], None]


def no_classes(train: ml_collections.ConfigDict, task: str) -> None:
    """InputError where `config.train` weighs classes or picks hard pixels, which are those of segmentation."""
    if train.class_weights or train.hard_pixels < 1:
        raise InputError(
            f'train.class_weights is {tuple(train.class_weights)} and train.hard_pixels {train.hard_pixels}; the task'
            f" '{task}' has neither: () and 1.0"
        )
