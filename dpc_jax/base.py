"""Words that every room shares: shape letters, frozen types, function types, the one error of bad input.

Letters of shapes, the same in every signature and docstring of the project:

    P  candidates evaluated together (the population)
    K  branches of a cell
    N  cached images (or views of images)
    B  images in a batch
    H, W  height and width of an image or of its label
    h, w  height and width of a feature map: `h = (H - 1) / output_stride + 1`
    C  channels of the backbone's features
    D  filters of every operator in the cell (256 in the paper)
    A  filters of all maps of a decoder of auxiliary cells (48 in the search, 64 in the end)
    L  classes
    T  training steps of the proxy
    S  output strides of the features that a head reads
    E  evaluations during one proxy run (the points of a curve)

Contract: images are NHWC, RGB, float32 in 0..255 until a backbone scales them; labels are integers with
`IGNORE_LABEL` where no class is known; sizes, rates and grids are always (height, width); sizes of crops
are `output_stride * k + 1`, so that align-corners resizing keeps the corner pixels on the corner cells.
"""

import dataclasses
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import Bool, Float, Int

IGNORE_LABEL = 255
"""Label value of pixels that take no part in loss or score, in every data set after loading."""

FEATURES = -1
"""Branch input that stands for the backbone's features (the official files write -1 too)."""

Size = tuple[int, int]
"""(height, width) of an image, a rate, a grid."""

PyTree = Any
"""A nest of arrays whose structure belongs to Flax (parameters, batch statistics)."""


class InputError(Exception):
    """Bad input of the user: one line that names the bad value and the allowed ones.

    `run.py` and the experiment scripts print it without a traceback and exit with code 2.

    >>> try:
    ...     dpc_jax.Space(0)
    ... except dpc_jax.InputError as error:
    ...     print(error)
    """


class DivergedError(InputError):
    """A training whose loss or weights are no longer finite: of a candidate of a search a result, else an error."""


Genotype = Any
"""A NamedTuple of int arrays whose fields belong to its space: unbatched, or a population with a leading axis P.

It is the same pytree in NumPy (sampling, files) and in JAX (as data of the one compiled program). What its fields mean,
its space knows (`spaces`); others use `stack`, `unstack` and `population_size`. The type is open because each space
has its own: a method of one space takes no genotype of another.
"""


class ProxyResult(NamedTuple):
    """What an evaluator found out about P candidates.

    A candidate whose loss was not finite has `finite = False` and NaN scores from there on; the study records
    it as failed and it ranks last. `seconds` is the wall time of the call, shared evenly among its candidates.
    """

    scores: Float[np.ndarray, ' P']  # mIoU on val in 0..1 after the last step; NaN if not finite
    curves: Float[np.ndarray, 'P E']  # mIoU on val at each evaluation; NaN where not evaluated
    losses: Float[np.ndarray, 'P E']  # mean training loss since the evaluation before
    finite: Bool[np.ndarray, ' P']
    pruned: Bool[np.ndarray, ' P']  # stopped before the last evaluation by `KeepGoing`
    steps: Int[np.ndarray, ' P']  # training steps taken: fewer than T for a pruned candidate
    seconds: float
    confusions: Int[np.ndarray, 'P E L L']  # pixels by (label, prediction) at each evaluation; 0 where not evaluated
    extras: Mapping[str, Float[np.ndarray, ' P']]  # other scores after the last evaluation, by name; NaN if not finite


KeepGoing = Callable[[int, Float[np.ndarray, ' P']], Bool[np.ndarray, ' P']]
"""`(evaluation, scores) -> which candidates go on`: how a pruner stops candidates between evaluations."""

Evaluator = Callable[[Genotype, KeepGoing | None], ProxyResult]
"""Trains and scores a population `[P, K]`; its seed, data and budget were bound when it was made.

It does not mention vmap, devices or spaces: the search is the same for every evaluator.
"""


@dataclasses.dataclass(frozen=True)
class Rung:
    """One step of the ladder from many cheap scores to few dear ones."""

    name: str
    evaluate: Evaluator
    keep: int  # how many candidates the rung takes: all (the search's budget) on the first, the best of the last after
    at_once: int = 1  # candidates in one call of the evaluator
    seed: int | None = None  # by default the config's; a rung may be there once for each of several seeds
    study: str = ''  # name of its study, by default that of the rung
    given: tuple[Genotype, ...] = ()  # unbatched cells that it takes in any case, before any others
    recipe: Mapping[str, Any] = dataclasses.field(default_factory=dict)  # what only its scores depend on
    same: Callable[[Genotype], str] | None = None  # a text that is equal for cells that score the same here
    # After this evaluation, so many go on at most of the candidates that are evaluated together.
    best_of: Mapping[int, int] = dataclasses.field(default_factory=dict)


class SegmentationExample(NamedTuple):
    """One image with its label, as a data set gives it."""

    image: np.ndarray  # uint8 [H, W, 3], RGB
    label: np.ndarray  # uint8 [H, W], 0..L-1 or IGNORE_LABEL
    name: str  # the image's file, or a description for generated ones; used in messages


class DepthExample(NamedTuple):
    """One image with the distance of what each pixel shows; segmentation reads its labels."""

    image: np.ndarray  # uint8 [H, W, 3], RGB
    label: np.ndarray  # uint8 [H, W], 0..L-1 or IGNORE_LABEL
    depth: np.ndarray  # float32 [H, W], metres; 0 where it is missing
    name: str


class Person(NamedTuple):
    """A person in an image; points are (x, y) in pixels from the centre of the first one, sizes (height, width)."""

    joints: np.ndarray  # float32 [J, 2]
    visible: np.ndarray  # uint8 [J]: 0 where the joint is not labelled
    centre: tuple[float, float]  # (x, y) of the box
    size: tuple[float, float]  # (height, width) of the box, without a margin
    head: float  # size of the head, by which PCKh measures distances, pixels; 0 where it is not known
    score: float  # of the detector that found the box; 1 for an annotated one
    number: int  # of the person in the files
    image_number: int  # of the image in the files


class PoseExample(NamedTuple):
    """One person in an image; an image with several is there as often."""

    image: np.ndarray  # uint8 [H, W, 3], RGB
    person: Person
    name: str


Example = SegmentationExample | DepthExample | PoseExample

Shown = tuple[Any, Any]
"""An example and what was found in it, in the terms of its task and of the size of the example."""


class MainScore(NamedTuple):
    """The number by which networks of a task are compared."""

    name: str  # in records and rows
    label: str  # where people read it
    unit: str
    factor: float  # of the number that people read: 100 for shares
    highest: bool  # whether more is better

    def shown(self, value: float) -> str:
        """`53.03 % mIoU`, `0.612 m RMSE`."""
        return f'{self.factor * value:.{2 if self.unit == "%" else 3}f} {self.unit} {self.label}'

    def best(self, values: Iterable[float]) -> float:
        """The best of at least one value."""
        return max(values) if self.highest else min(values)

    def is_better(self, value: float, before: Iterable[float]) -> bool:
        """Whether it is better than all before; NaN never is, unless there are none."""
        return all(value > other if self.highest else value < other for other in before)


Track = Callable[[Iterable[Any], str, int], Iterable[Any]]
"""`(items, description, total)`: the items again, with a progress bar."""


def key_from_seed(seed: int) -> jax.Array:
    """A PRNG key; one place, so that every journey uses the same generator."""
    return jax.random.key(seed)


def with_unit(number: int) -> str:
    """A count in four digits and a unit: 84.80 K, 2.986 G."""
    for unit, size in (('G', 10**9), ('M', 10**6), ('K', 10**3)):
        if number >= size:
            return f'{number / size:#.4g} {unit}'
    return str(number)


# ---- populations ----------------------------------------------------------------------------------------------------


def stack(genotypes: Sequence[Genotype]) -> Genotype:
    """A population [P, genes] of genotypes [genes]."""
    stacked: Genotype = jax.tree.map(lambda *genes: np.stack(genes), *genotypes)
    return stacked


def unstack(genotypes: Genotype) -> list[Genotype]:
    """The genotypes [genes] of a population [P, genes], in NumPy."""
    genotypes = jax.tree.map(np.asarray, genotypes)
    return [jax.tree.map(lambda genes: genes[index], genotypes) for index in range(population_size(genotypes))]  # noqa: B023


def as_int32(genotype: Genotype) -> Genotype:
    """The same genotype with fields of whole numbers, of any integer type or in lists, as int32 arrays."""
    if not hasattr(genotype, '_fields'):
        return genotype
    genes = [np.asarray(field) for field in genotype]
    return type(genotype)(*(field.astype(np.int32) if field.dtype.kind in 'iu' else field for field in genes))


def population_size(genotypes: Genotype) -> int:
    """P of a population [P, genes]."""
    size: int = jax.tree.leaves(genotypes)[0].shape[0]
    return size
