"""Skeletons on images."""

from collections.abc import Sequence
from typing import NamedTuple

import cv2
import numpy as np
from jaxtyping import Float, UInt8
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine

from dpc_jax.base import PoseExample
from dpc_jax.datasets import Skeleton
from dpc_jax.palette import BLUE, GREEN, ORANGE, RED

PANEL_WIDTH = 3.4  # inches
MARGIN = 0.2  # of the box around a person
SHOWN_HEIGHT = 0.1  # of a heat map: lower ones are not drawn
LINE = 1 / 160  # of the shorter side of an image


class Found(NamedTuple):
    """The people that were found in an image."""

    joints: Float[np.ndarray, 'N J 3']  # (x, y, height) in pixels of the image
    scores: Float[np.ndarray, ' N']
    boxes: Float[np.ndarray, 'N 4']  # (x, y, width, height) that were looked at


def draw(
    image: UInt8[np.ndarray, 'H W 3'],
    people: Float[np.ndarray, 'N J 3'],
    skeleton: Skeleton,
    palette: UInt8[np.ndarray, 'J 3'],
) -> UInt8[np.ndarray, 'H W 3']:
    """Limbs and joints of people over the image; joints whose height is low are left out."""
    picture = np.ascontiguousarray(image).copy()
    width = max(1, round(LINE * min(image.shape[:2])))
    for joints in people:
        seen = joints[:, 2] >= SHOWN_HEIGHT
        points = np.clip(np.rint(joints[:, :2]), -(2**15), 2**15).astype(int).tolist()
        for one, other in skeleton.limbs:
            if seen[one] and seen[other]:
                cv2.line(picture, points[one], points[other], palette[other].tolist(), width, cv2.LINE_AA)
        for index, point in enumerate(points):
            if seen[index]:
                cv2.circle(picture, point, width + 1, palette[index].tolist(), -1, cv2.LINE_AA)
    return picture


def panels(shown: Sequence[tuple[PoseExample, Float[np.ndarray, '_ 3']]], skeleton: Skeleton) -> Figure:
    """A row for each person: what is annotated, what was found, and how far the one is from the other."""
    titles = ('annotated', 'found', 'from annotated to found')
    figure = Figure(
        (len(titles) * PANEL_WIDTH, len(shown) * PANEL_WIDTH + 0.4),
        layout=ConstrainedLayoutEngine(w_pad=0.03, h_pad=0.03),
    )
    axes = figure.subplots(len(shown), len(titles), squeeze=False)
    for row, (example, found) in zip(axes, shown, strict=True):
        person = example.person
        seen = person.visible > 0
        for place in row:
            place.imshow(example.image)
            place.set_axis_off()
            _show_box(place, example, found)
        _show(row[0], person.joints, seen, skeleton, GREEN)
        _show(row[1], found[:, :2], found[:, 2] >= SHOWN_HEIGHT, skeleton, BLUE)
        for index in np.flatnonzero(seen):
            (x, y), (found_x, found_y) = person.joints[index], found[index, :2]
            row[2].plot([x, found_x], [y, found_y], color=RED, lw=1.5)
            row[2].plot(x, y, 'o', color=ORANGE, ms=3)
    for place, title in zip(axes[0], titles, strict=True):
        place.set_title(title, fontsize=10)
    return figure


def _show(place: Axes, joints: Float[np.ndarray, 'J 2'], seen: np.ndarray, skeleton: Skeleton, colour: str) -> None:
    for one, other in skeleton.limbs:
        if seen[one] and seen[other]:
            place.plot(*joints[[one, other]].T, color=colour, lw=2)
    place.plot(*joints[seen].T, 'o', color=colour, ms=4, mec='white', mew=0.7)


def _show_box(place: Axes, example: PoseExample, found: np.ndarray) -> None:
    """The window is that of the person, with a margin."""
    (x, y), (height, width) = example.person.centre, example.person.size
    half = (0.5 + MARGIN) * max(height, width)
    sides = example.image.shape
    place.set_xlim(max(x - half, -0.5), min(x + half, sides[1] - 0.5))
    place.set_ylim(min(y + half, sides[0] - 0.5), max(y - half, -0.5))
