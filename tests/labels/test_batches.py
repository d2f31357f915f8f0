"""A shuffled epoch: the stream of `shuffled` for any number of ranks, from any step on, every sample once."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.data import DataLoader

from schemas.encodings import TopK
from schemas.errors import StoreError
from stages.cache import KEYS_AHEAD
from stages.labels.batches import Epoch
from stages.labels.reader import LabelSet
from stages.places import Place
from stages.training.stream import shard_order, shuffled, windows
from tests.far import Far
from tests.labels.fakes import FakeSamples, OracleTeacher, inputs_for, make_fake_set

ROWS = (10, 7, 1, 22)


@pytest.fixture(scope="module", params=["dense", "ragged"])
def labels(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> LabelSet:
    """A set whose labels have one size, and one whose labels have not."""
    place = Place(str(tmp_path_factory.mktemp("store")))
    encoding = TopK(kind="top-k", k=None, mass=0.9, temperatures=(1.0,)) if request.param == "ragged" else None
    make_fake_set(place, FakeSamples(ROWS), OracleTeacher(), inputs_for(encoding))
    return LabelSet.open(place)


@given(
    lengths=st.lists(st.integers(0, 9), min_size=1, max_size=8),
    rows=st.integers(1, 20),
    seed=st.integers(0, 3),
    first=st.integers(0, 80),
)
def test_windows_are_the_shuffle(lengths: list[int], rows: int, seed: int, first: int) -> None:
    offsets = np.cumsum([0, *lengths])
    total = int(offsets[-1])
    first = min(first, total)
    whole = shuffled(np.arange(total), offsets, 1.0, rows, seed, 3)
    found = list(windows(offsets, rows, seed, 3, first))
    assert not found or found[0].first <= first
    for window in found:
        positions = np.concatenate([np.arange(begin, end) for begin, end in window.pieces])
        here = whole[window.first : window.first + len(window.order)]
        assert np.array_equal(positions[window.order], here)
        assert len(positions) == min(rows, total - window.first)
        for begin, end in window.pieces:
            assert begin < end
            assert np.searchsorted(offsets, begin, "right") == np.searchsorted(offsets, end - 1, "right")
    assert sum(len(window.order) for window in found) == total - first // rows * rows


@given(
    batch_size=st.integers(1, 50),
    world_size=st.sampled_from([1, 2, 4]),
    window=st.integers(1, 300),
    epoch=st.integers(0, 2),
    data=st.data(),
)
@settings(max_examples=40)
def test_any_number_of_ranks_from_any_step(
    labels: LabelSet, batch_size: int, world_size: int, window: int, epoch: int, data: st.DataObject
) -> None:
    epochs = [Epoch(labels, batch_size, 5, epoch, rank, world_size, 0, window) for rank in range(world_size)]
    start = data.draw(st.integers(0, len(epochs[0])))
    parts = [list(item.steps(start)) for item in epochs]
    assert {len(part) for part in parts} == {len(epochs[0]) - start}
    steps = [np.concatenate([item["position"] for item in step]) for step in zip(*parts, strict=True)]
    order = shuffled(np.arange(labels.rows), labels.offsets, labels.bytes_per_row, window, 5, epoch)
    assert np.array_equal(np.concatenate(steps) if steps else order[:0], order[start * batch_size :])
    assert all(len(step) == batch_size for step in steps[:-1])
    for part in parts:
        for batch in part:
            sizes = [len(step["position"]) for step in (other[-1] for other in parts)]
            assert max(sizes) - min(sizes) <= 1
            wanted = labels.gather(batch["position"])
            assert set(batch) == {*wanted, "position"}
            assert all(np.array_equal(batch[name], values) for name, values in wanted.items())


def test_batches_are_their_readers_own(labels: LabelSet) -> None:
    """Kept, changed, and never touched again."""
    kept = list(labels.batches(3, seed=1, window_bytes=64))
    copies = [{name: values.copy() for name, values in batch.items()} for batch in kept]
    for batch in kept[::2]:
        for values in batch.values():
            values.fill(1)
    for batch, copy in zip(kept[1::2], copies[1::2], strict=True):
        assert all(np.array_equal(batch[name], copy[name]) for name in batch)
    again = labels.batches(3, seed=1, window_bytes=64)
    assert all(np.array_equal(a["position"], b["position"]) for a, b in zip(again, copies, strict=True))


@pytest.mark.parametrize("start", [0, 5])
def test_units_that_are_far_come_once_and_give_the_same_stream(start: int, tmp_path: Path) -> None:
    rows = (4, 1, 7, 3, 9, 2, 6)
    make_fake_set(Place(str(tmp_path / "store")), FakeSamples(rows), OracleTeacher())
    far = Far(str(tmp_path / "store"), log=tmp_path / "downloads")
    wanted = list(LabelSet.open(Place(far.uri)).batches(5, seed=3, window_bytes=40, start=start))
    for _ in range(2):
        found = list(LabelSet.open(far).batches(5, seed=3, window_bytes=40, start=start))
        assert len(found) == len(wanted)
        assert all(
            np.array_equal(ours[name], batch[name]) for ours, batch in zip(found, wanted, strict=True) for name in batch
        )
    labels = LabelSet.open(far)
    touched = {labels.unit_at(int(row))[0] for batch in wanted for row in batch["position"]}
    objects = [
        item for unit in touched for item in labels.units[unit].receipt.objects if item.name.startswith("logits/")
    ]
    assert len(far.downloads) == len({item.checksum for item in objects})  # equal bytes are one file
    assert all("/logits/" in name for name in far.downloads)


def test_what_fails_ahead_of_need_is_named_when_it_is_needed(tmp_path: Path) -> None:
    make_fake_set(Place(str(tmp_path / "store")), FakeSamples((4,) * 12), OracleTeacher())
    labels = LabelSet.open(Far(str(tmp_path / "store")))
    last = shard_order(labels.offsets, 0, 0)[KEYS_AHEAD]
    receipt = labels.units[last].receipt
    (tmp_path / "store" / labels.store.unit_folder(receipt.key, receipt.attempt) / "logits/c/0/0").unlink()
    batches = labels.batches(4, window_bytes=1)
    next(batches)
    with pytest.raises(StoreError, match=rf"{receipt.key}.*logits/c/0/0 is missing"):
        list(batches)


@pytest.mark.parametrize(
    "wrong",
    [
        {"batch_size": 0},
        {"batch_size": 2, "rank": 1},
        {"batch_size": 2, "rank": -1, "world_size": 2},
        {"batch_size": 2, "view": 1},
        {"batch_size": 2, "start": 21},
        {"batch_size": 2, "start": -1},
        {"batch_size": 2, "window_bytes": 0},
    ],
)
def test_numbers_that_make_no_sense(labels: LabelSet, wrong: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="rows|ranks|views|step"):
        next(iter(labels.batches(**wrong)))


def test_a_damaged_unit_is_named(tmp_path: Path) -> None:
    place = Place(str(tmp_path))
    make_fake_set(place, FakeSamples((4,)), OracleTeacher())
    (path,) = tmp_path.glob("units/*/*/logits/c/0/0")
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    with pytest.raises(Exception, match="logits/c/0/0 is damaged"):
        next(LabelSet.open(place).batches(2))


def test_a_loader_with_workers_gives_the_same_stream(labels: LabelSet) -> None:
    stream = labels.to_torch(4, seed=2, window_bytes=100)
    alone = [batch["position"].tolist() for batch in stream]
    assert stream.state_dict() == {"epoch": 1, "step": 0}
    other = labels.to_torch(4, seed=2, window_bytes=100)
    loader = DataLoader(other, batch_size=None, num_workers=2, multiprocessing_context="fork")
    assert [batch["position"].tolist() for batch in loader] == alone
    assert sorted(row for batch in alone for row in batch) == list(range(sum(ROWS)))
    assert [batch["position"].tolist() for batch in stream] != alone  # the next epoch has another order


def test_a_stream_goes_on_where_it_was(labels: LabelSet) -> None:
    whole = labels.to_torch(4, seed=2)
    whole.load_state_dict({"epoch": 3, "step": 0})
    wanted = [batch["position"].tolist() for batch in whole]
    stopped = labels.to_torch(4, seed=2)
    stopped.load_state_dict({"epoch": 3, "step": 0})
    begun = iter(stopped)
    seen = [next(begun)["position"].tolist() for _ in range(4)]
    resumed = labels.to_torch(4, seed=2)
    resumed.load_state_dict(stopped.state_dict())
    assert seen + [batch["position"].tolist() for batch in resumed] == wanted
    with pytest.raises(ValueError, match="no step 99"):
        resumed.load_state_dict({"epoch": 0, "step": 99})


def test_rows_by_position(labels: LabelSet) -> None:
    rows = labels.to_rows()
    assert len(rows) == 40
    for position, found in zip([39, 0], rows.__getitems__([39, 0]), strict=True):
        wanted = labels.gather(np.array([position]))
        assert all(np.array_equal(found[name].numpy(), wanted[name].reshape(found[name].shape)) for name in wanted)
    with pytest.raises(IndexError):
        rows[40]
