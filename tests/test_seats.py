"""Who stands where: everybody once, as few rounds of chunks as there can be, and nobody in vain."""

import itertools
import math

import numpy as np
import pytest

from dpc_jax import seats

SHAPES = ((1, 4, 2), (2, 2, 2), (4, 3, 1), (3, 2, 4), (1, 1, 8))


def some_living(shape, seed=0):
    """Every number of candidates that the shape holds, each with who of them lives, the first of all cases included."""
    rng = np.random.default_rng(seed)
    for count in range(1, int(np.prod(shape)) + 1):
        for share in (0.1, 0.5, 0.9):
            living = rng.random(count) < share
            living[rng.integers(count)] = True
            yield living


def chunks(seated, shape):
    """(members, taken) of each chunk that runs."""
    rows = zip(seated.who.reshape(-1, shape[-1]), seated.taken.reshape(-1, shape[-1]), strict=True)
    return [(who, taken) for who, taken in rows if taken.any()]


@pytest.mark.parametrize('shape', SHAPES)
def test_everybody_stands_once_in_as_few_chunks_as_can_be_spread_over_the_devices(shape):
    for living in some_living(shape):
        wanted = np.flatnonzero(living)
        seated = seats.seat(wanted, shape)
        assert sorted(seated.who[seated.places]) == wanted.tolist()
        needed = -(-len(wanted) // shape[-1])
        assert len(chunks(seated, shape)) == needed
        assert seats.rounds(seated, shape) == -(-needed // shape[0])


@pytest.mark.parametrize('shape', SHAPES)
def test_a_chunk_holds_nobody_but_those_that_live_in_it(shape):
    """What a chunk leaves out is what none of its members needs, so a place that is over must not need more."""
    for living in some_living(shape):
        begun = seats.seat(np.arange(len(living)), shape)
        for seated in (begun, seats.without(begun, living, shape), seats.seat(np.flatnonzero(living), shape)):
            for who, taken in chunks(seated, shape):
                assert set(who) == set(who[taken])


@pytest.mark.parametrize('shape', SHAPES)
def test_those_that_live_keep_their_places_or_move_and_save_a_round(shape):
    moves = 0
    for living in some_living(shape):
        begun = seats.seat(np.arange(len(living)), shape)
        left = seats.without(begun, living, shape)
        np.testing.assert_array_equal(left.taken, begun.taken & living[begun.who])
        np.testing.assert_array_equal(left.who[left.taken], begun.who[left.taken])
        moved = seats.closed_up(left, shape)
        least = math.ceil(math.ceil(living.sum() / shape[-1]) / shape[0])
        assert seats.rounds(moved, shape) == least
        assert (moved is left) == (seats.rounds(left, shape) == least)
        if moved is not left:
            moves += 1
            np.testing.assert_array_equal(left.who[seats.origins(left, moved)], moved.who)
            assert left.taken[seats.origins(left, moved)].all()
    assert moves > 0 or shape[1] == 1


def test_a_row_of_stops_is_followed_from_place_to_place():
    shape = (2, 2, 2)
    seated = seats.seat(np.arange(8), shape)
    held = seated.who.copy()  # what a device would hold in each place
    for left in ([0, 2, 3, 5, 7], [2, 5, 7], [7]):
        living = np.isin(np.arange(8), left)
        before = seats.without(seated, living, shape)
        seated = seats.closed_up(before, shape)
        if seated is not before:
            held = held[seats.origins(before, seated)]
        assert held[seated.places].tolist() == seated.who[seated.places].tolist()
        assert sorted(held[seated.places]) == left


def test_the_chunks_are_dealt_out_to_the_devices():
    seated = seats.seat(np.arange(5), (2, 2, 2))
    rows = seated.who.reshape(2, 2, 2).tolist(), seated.taken.reshape(2, 2, 2).tolist()
    assert rows[0] == [[[0, 1], [4, 4]], [[2, 3], [0, 0]]]
    assert rows[1] == [[[True, True], [True, False]], [[True, True], [False, False]]]
    assert list(itertools.chain(seated.places)) == [0, 1, 2, 4, 5]
