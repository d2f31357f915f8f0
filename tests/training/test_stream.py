"""The stream: every row once per epoch, windows that bound what is touched, order pinned, resume by one integer."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.errors import DataError
from stages.training.stream import Positions, RowStream, rng, shuffled


def offsets_of(shard_rows: list[int]) -> Positions:
    return np.cumsum([0, *shard_rows]).astype(np.int64)


@st.composite
def streams(draw: st.DrawFn) -> RowStream:
    offsets = offsets_of(draw(st.lists(st.integers(1, 40), min_size=1, max_size=6)))
    chosen = draw(st.sets(st.integers(0, int(offsets[-1]) - 1), min_size=1))
    return RowStream(
        positions=np.array(sorted(chosen), dtype=np.int64),
        offsets=offsets,
        bytes_per_row=draw(st.sampled_from([1.0, 3.5, 1000.0])),
        batch_size=draw(st.integers(1, 50)),
        window_bytes=draw(st.integers(1, 200)),
        seed=draw(st.integers(0, 2**40)),
    )


@given(streams(), st.integers(0, 3))
def test_every_row_comes_once_per_epoch(stream: RowStream, epoch: int) -> None:
    steps = [stream.at(epoch * stream.steps_per_epoch + index) for index in range(stream.steps_per_epoch)]
    assert all(rows.epoch == epoch for rows in steps)
    assert all(rows.positions.shape == rows.weights.shape == (stream.batch_size,) for rows in steps)
    counted = np.concatenate([rows.positions[rows.weights == 1.0] for rows in steps])
    assert sorted(counted) == stream.positions.tolist()
    assert all((rows.weights == 1.0).all() for rows in steps[:-1]), "only the last batch is filled up"
    assert np.isin(np.concatenate([rows.positions for rows in steps]), stream.positions).all()


@given(streams(), st.lists(st.integers(0, 60), max_size=8))
def test_a_step_is_the_same_from_wherever_one_comes(stream: RowStream, steps: list[int]) -> None:
    fresh = RowStream(
        stream.positions, stream.offsets, stream.bytes_per_row, stream.batch_size, stream.window_bytes, stream.seed
    )
    walked = [fresh.at(step) for step in range(61)]
    for step in steps:
        here = stream.at(step)
        assert here.epoch == walked[step].epoch
        assert np.array_equal(here.positions, walked[step].positions)
        assert np.array_equal(here.weights, walked[step].weights)


@given(streams())
def test_a_window_holds_no_more_than_its_bytes(stream: RowStream) -> None:
    """Sorted within windows, the order is that of whole shards, one after the other."""
    order = shuffled(stream.positions, stream.offsets, stream.bytes_per_row, stream.window_bytes, stream.seed, 0)
    rows = max(1, int(stream.window_bytes // stream.bytes_per_row))
    window = np.arange(len(order)) // rows
    shard = np.searchsorted(stream.offsets, order, side="right") - 1
    stays = []
    for number in np.unique(shard):
        here = order[shard == number][np.lexsort((order[shard == number], window[shard == number]))]
        assert np.array_equal(here, np.sort(here)), "a shard is read from its first row to its last"
        stays.append((window[shard == number].min(), window[shard == number].max()))
    assert all(before[1] <= after[0] for before, after in pairwise(sorted(stays))), "a shard is left for good"


def test_the_order_is_pinned() -> None:
    """A change here changes every training: raise the stages' versions with it."""
    positions = np.arange(12, dtype=np.int64)
    order = shuffled(positions, offsets_of([4, 4, 4]), 1.0, 6, 7, 0)
    assert order.tolist() == [0, 4, 1, 3, 2, 5, 6, 11, 10, 9, 7, 8]
    assert shuffled(positions, offsets_of([4, 4, 4]), 1.0, 6, 7, 1).tolist() == [1, 6, 7, 5, 0, 4, 3, 9, 11, 10, 8, 2]
    assert rng(0, "augment", 5).integers(1000, size=4).tolist() == [982, 979, 270, 639]
    assert rng(0, "augment", 5).bit_generator.random_raw() == 18068038274362401337


def test_order_depends_on_seed_and_epoch() -> None:
    positions, offsets = np.arange(64, dtype=np.int64), offsets_of([32, 32])
    orders = {tuple(shuffled(positions, offsets, 1.0, 64, seed, epoch)) for seed in range(3) for epoch in range(3)}
    assert len(orders) == 9


def test_random_numbers_belong_to_their_purpose() -> None:
    keys: list[tuple[int, list[int | str]]] = [
        (0, ["a", 1]),
        (0, ["a", 11]),
        (0, ["a1", 1]),
        (0, ["a", "1"]),
        (1, ["a", 1]),
        (0, [1, "a"]),
    ]
    assert len({rng(seed, *counters).bit_generator.random_raw() for seed, counters in keys}) == len(keys)
    assert rng(3, "x", 1).random() == rng(3, "x", 1).random()


def test_a_stream_without_rows_says_so() -> None:
    empty = RowStream(np.array([], dtype=np.int64), offsets_of([3]), 1.0, 4, 10, 0)
    assert empty.steps_per_epoch == 1
    with pytest.raises(DataError, match="no rows"):
        empty.at(0)
