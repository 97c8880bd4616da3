"""What the recipe of Simple Baselines and the official evaluations say, written out once more, in loops."""

import math

import numpy as np

from dpc_jax.base import Person


def heat_maps(joints, size, *, stride, sigma):
    """Gaussians of height 1 around the nearest cell within three deviations; and which of them reach the map."""
    maps, inside = np.zeros((len(joints), *size)), []
    for index, (x, y) in enumerate(joints):
        cell_x, cell_y = math.floor(x / stride + 0.5), math.floor(y / stride + 0.5)
        for row in range(size[0]):
            for column in range(size[1]):
                if max(abs(row - cell_y), abs(column - cell_x)) <= 3 * sigma:
                    far = (row - cell_y) ** 2 + (column - cell_x) ** 2
                    maps[index, row, column] = math.exp(-far / (2 * sigma**2))
        inside.append(bool(maps[index].any()))
    return maps, inside


def joints_of(maps, stride):
    """The highest cell, moved by a quarter towards the higher neighbour along each axis unless it is on the rim."""
    found = np.zeros((*maps.shape[:2], 3))
    for place in np.ndindex(maps.shape[:2]):
        one = maps[place]
        row, column = np.unravel_index(one.argmax(), one.shape)
        x, y = float(column), float(row)
        if 0 < row < one.shape[0] - 1 and 0 < column < one.shape[1] - 1:
            x += 0.25 * np.sign(one[row, column + 1] - one[row, column - 1])
            y += 0.25 * np.sign(one[row + 1, column] - one[row - 1, column])
        found[place] = stride * x, stride * y, one[row, column]
    return found


def pckh(found, truth, visible, heads, threshold):
    """(mean, of each joint) in %, by the way of the Python form: percentages, then their weighted mean."""
    count = np.zeros(16)
    hits = np.zeros(16)
    for person in range(len(found)):
        for joint in range(16):
            if not visible[person, joint]:
                continue
            count[joint] += 1
            far = math.dist(found[person, joint], truth[person, joint]) / heads[person]
            hits[joint] += far <= threshold
    of_joints = 100 * hits / count
    scored = [joint for joint in range(16) if joint not in (6, 7)]
    ratio = count[scored] / count[scored].sum()
    return float((of_joints[scored] * ratio).sum()), of_joints


def similarity(one, other, area, sigmas):
    """Object keypoint similarity of two people of one area."""
    total = 0.0
    for a, b, sigma in zip(one, other, sigmas, strict=True):
        total += math.exp(-(math.dist(a[:2], b[:2]) ** 2) / (2 * area * sigma**2) / 4)
    return total / len(sigmas)


def with_height(joints):
    return np.concatenate([joints, np.ones((len(joints), 1))], 1).ravel().tolist()


def person(joints, **fields):
    low, high = joints.min(0), joints.max(0)
    centre, size = tuple((low + high) / 2), tuple((high - low)[::-1])
    held = {'head': 10.0, 'score': 1.0, 'number': 0, 'image_number': 0, **fields}
    return Person(joints.astype(np.float32), np.ones(len(joints), np.uint8), centre, size, **held)
