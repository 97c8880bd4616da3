"""Drawing an image and its label at once, for generated data."""

import dataclasses
from collections.abc import Sequence

import cv2
import numpy as np
from jaxtyping import Int32, UInt8

Colour = tuple[int, int, int]  # RGB, 0..255
Point = tuple[float, float]  # (x, y), shares of width and height, from the top left corner


@dataclasses.dataclass(frozen=True)
class Canvas:
    """Image and label at twice the final size; methods draw into both, with a `label` of None into the image alone."""

    image: UInt8[np.ndarray, 'H2 W2 3']
    label: UInt8[np.ndarray, 'H2 W2']

    @property
    def upright(self) -> float:
        """Height / width: something as wide as it is high, h, has the width `h * upright`."""
        return self.label.shape[0] / self.label.shape[1]

    def polygons(self, polygons: Sequence[Sequence[Point]], colour: Colour, label: int | None) -> None:
        """Draws polygons, filled with one colour."""
        points = [self._fixed(polygon) for polygon in polygons]
        cv2.fillPoly(self.image, points, colour, shift=4)
        if label is not None:
            cv2.fillPoly(self.label, points, label, shift=4)

    def box(self, foot: Point, width: float, height: float, colour: Colour, label: int | None) -> None:
        """Draws an upright box, the middle of its lower edge on `foot`."""
        (x, y), half = foot, width / 2
        self.polygons([[(x - half, y), (x + half, y), (x + half, y - height), (x - half, y - height)]], colour, label)

    def ellipse(
        self, centre: Point, half_height: float, colour: Colour, label: int | None, *, wide: float = 1.0
    ) -> None:
        """Draws an ellipse; a disc if `wide` is 1."""
        middle, axes = self._fixed([centre, (half_height * wide * self.upright, half_height)]).tolist()
        cv2.ellipse(self.image, middle, axes, 0, 0, 360, colour, -1, shift=4)
        if label is not None:
            cv2.ellipse(self.label, middle, axes, 0, 0, 360, label, -1, shift=4)

    def _fixed(self, points: Sequence[Point]) -> Int32[np.ndarray, 'V 2']:
        height, width = self.label.shape
        return np.rint(np.array(points) * (16 * width, 16 * height)).astype(np.int32)  # 1/16 pixels: shift=4
