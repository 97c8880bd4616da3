"""Where the crop of a person lies in the image: centre and size of the box, a turn, a mirror (arXiv:1804.06208).

Points are (x, y) in pixels, sizes (height, width). The corners of the box come to lie on the centres of the corner
pixels of the crop, as everywhere in this project, where the released code of Simple Baselines sets the sides equal.
"""

import math

import cv2
import numpy as np
from jaxtyping import Float, Float32, Float64, UInt8

from dpc_jax.base import Size
from dpc_jax.preprocess import MEAN_PIXEL


def fitted_size(size: tuple[float, float], crop_size: Size, margin: float) -> tuple[float, float]:
    """The smallest size (height, width) of the crop's shape that holds a box of `size`, times `margin`."""
    height, width = size
    ratio = (crop_size[1] - 1) / (crop_size[0] - 1)
    return margin * max(height, width / ratio), margin * max(width, height * ratio)


def affine(
    centre: tuple[float, float],
    size: tuple[float, float],
    crop_size: Size,
    *,
    turn: float = 0.0,
    mirrored: bool = False,
) -> Float64[np.ndarray, '2 3']:
    """The matrix that takes (x, y, 1) of the image to (x, y) of the crop.

    Args:
      centre: (x, y) of the box in the image, which comes to lie in the middle of the crop.
      size: (height, width) of the box, of the crop's shape (`fitted_size`).
      turn: degrees by which the image is turned, clockwise as seen.
      mirrored: left and right of the crop exchanged.
    """
    zoom = (crop_size[0] - 1) / size[0]
    sine, cosine = math.sin(math.radians(turn)), math.cos(math.radians(turn))
    turned = zoom * np.array([[cosine, -sine], [sine, cosine]])
    middle = np.array([(crop_size[1] - 1) / 2, (crop_size[0] - 1) / 2])
    matrix = np.concatenate([turned, (middle - turned @ np.array(centre, np.float64))[:, None]], axis=1)
    if mirrored:
        matrix[0] = np.array([0, 0, crop_size[1] - 1]) - matrix[0]
    return matrix


def moved(points: Float[np.ndarray, 'J 2'], matrix: Float64[np.ndarray, '2 3']) -> Float64[np.ndarray, 'J 2']:
    """The points where the matrix takes them."""
    return np.asarray(points, np.float64) @ matrix[:, :2].T + matrix[:, 2]


def inverse(matrix: Float64[np.ndarray, '2 3']) -> Float64[np.ndarray, '2 3']:
    """The matrix that takes points of the crop to the image."""
    back = np.linalg.inv(matrix[:, :2])
    return np.concatenate([back, -(back @ matrix[:, 2:])], axis=1)


def crop(
    image: UInt8[np.ndarray, 'H W 3'], matrix: Float64[np.ndarray, '2 3'], crop_size: Size
) -> Float32[np.ndarray, 'H2 W2 3']:
    """The crop, bilinear; what lies outside of the image is the mean pixel (black in the released code)."""
    size = (crop_size[1], crop_size[0])
    outside = (MEAN_PIXEL,) * 3
    warped = cv2.warpAffine(
        image, matrix, size, flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_CONSTANT, borderValue=outside
    )
    return warped.astype(np.float32)
