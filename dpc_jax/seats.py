"""Which candidate stands in which place of a population, so that no chunk runs for the sake of a few.

A population has P places: each device takes an equal part of them, in chunks one after the other. The shape of a
population is (devices, chunks of each, places of a chunk). When candidates end early, the others move together.
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Int

Shape = tuple[int, int, int]


class Seats(NamedTuple):
    """One candidate in each place. A place that is not taken repeats a candidate, and its results are nobody's."""

    who: Int[np.ndarray, ' P']
    taken: Bool[np.ndarray, ' P']

    @property
    def places(self) -> Int[np.ndarray, ' n']:
        """The places that are taken."""
        return np.flatnonzero(self.taken)


def seat(living: Int[np.ndarray, ' n'], shape: Shape) -> Seats:
    """Fills as few chunks as possible, spread over the devices; at least one candidate, at most as many as places.

    What is over in a chunk repeats its candidates: what a chunk leaves out depends on who is in it.
    """
    devices, _, size = shape
    who, taken = np.full(shape, living[0], np.int64), np.zeros(shape, bool)
    for chunk, start in enumerate(range(0, len(living), size)):
        members = living[start : start + size]
        who[chunk % devices, chunk // devices] = np.resize(members, size)
        taken[chunk % devices, chunk // devices, : len(members)] = True
    return Seats(who.ravel(), taken.ravel())


def without(seats: Seats, living: Bool[np.ndarray, ' n'], shape: Shape) -> Seats:
    """The same places for those that live; the others' repeat one of their chunk that does, if there is one."""
    taken = (seats.taken & living[seats.who]).reshape(shape)
    who = seats.who.reshape(shape)
    first = np.take_along_axis(who, taken.argmax(-1)[..., None], -1)
    return Seats(np.where(taken, who, first).ravel(), taken.ravel())


def rounds(seats: Seats, shape: Shape) -> int:
    """Chunks that run one after the other: the most that any device has."""
    return int(seats.taken.reshape(shape).any(-1).sum(-1).max())


def closed_up(seats: Seats, shape: Shape) -> Seats:
    """Moves the living together if that saves a round of chunks; else the same seats."""
    moved = seat(np.sort(seats.who[seats.places]), shape)
    return moved if rounds(moved, shape) < rounds(seats, shape) else seats


def origins(before: Seats, after: Seats) -> Int[np.ndarray, ' P']:
    """The place before of whoever stands in each place after."""
    place = np.zeros(before.who.max() + 1, np.int32)
    place[before.who[before.places]] = before.places
    found: Int[np.ndarray, ' P'] = place[after.who]
    return found
