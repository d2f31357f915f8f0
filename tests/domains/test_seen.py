"""What somebody has learned from: exact membership, whole files, and test rows counted among it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from schemas.domains import SplitInputs
from schemas.errors import DataError, StoreError
from schemas.spec import Split
from stages.context import Context
from stages.domains.reader import TEST, TRAIN, Samples, read_split
from stages.domains.seen import Seen, check_unseen, seen_keys, together
from stages.domains.stage import SPLITS
from tests.domains.helpers import ingest_words, open_samples


def seen(keys: list[int], whole: bool = True) -> Seen:
    return Seen(np.unique(np.array(keys, np.uint64)), whole)


@pytest.fixture
def domain(local_context: Context, tmp_path: Path) -> tuple[Samples, np.ndarray]:
    """Thirty texts, the last five as the first ones, in shards of seven; and their splits."""
    outputs = ingest_words(local_context, tmp_path, [(f"text {row % 25}", "0") for row in range(30)], shard_rows=7)
    shares = Split(train=0.5, validation=0.1, test=0.4)
    split = SPLITS.run(local_context, SplitInputs(samples=outputs.samples, split=shares)).split
    return open_samples(local_context, outputs), read_split(local_context.place(split), split)


def test_a_key_is_the_beginning_of_the_content_id() -> None:
    ids = np.frombuffer(bytes.fromhex("00000000000000ff" + "ab" * 8 + "ff00000000000000" + "cd" * 8), np.uint8)
    assert [hex(key) for key in seen_keys(ids.reshape(2, 16)).tolist()] == ["0xff", "0xff00000000000000"]


def test_test_rows_are_counted_and_shown(domain: tuple[Samples, np.ndarray]) -> None:
    samples, split = domain
    keys = seen_keys(samples.all_content_ids())
    check_unseen(Seen(np.unique(keys[split != TEST]), True), samples, split, "it")
    check_unseen(seen([]), samples, split, "it")
    test = np.flatnonzero(split == TEST)
    known = Seen(np.unique(keys[np.append(test[1:3], np.flatnonzero(split == TRAIN))]), True)
    hit = [row for row in test.tolist() if keys[row] in known.keys]
    ids = [name for shard in range(5) for name in samples.sample_ids(shard)]
    with pytest.raises(DataError) as error:
        check_unseen(known, samples, split, "teacher 'big'", "texts")
    message = str(error.value)
    assert message.startswith(
        f"{len(hit)} of the {len(test)} test rows of 'texts' are among the {len(known.keys)} that"
    )
    assert "teacher 'big' was trained on" in message
    assert all(ids[row] in message for row in hit[:5])
    check_unseen(known, samples, np.full(30, TRAIN, np.int8), "it")


@given(st.lists(st.lists(st.integers(0, 2**64 - 1), max_size=20), min_size=1, max_size=4))
@settings(max_examples=30, suppress_health_check=[HealthCheck.too_slow])
def test_several_together_and_back_from_a_file(parts: list[list[int]]) -> None:
    whole = together(seen(part) for part in parts)
    assert whole is not None
    assert whole.whole
    assert whole.keys.tolist() == sorted({key for part in parts for key in part})
    again = Seen.load(whole.to_bytes(), whole.info("x"), "x")
    assert (again.keys.tolist(), again.whole) == (whole.keys.tolist(), True)
    less = together([*(seen(part) for part in parts), None])
    assert less is not None
    assert (less.keys.tolist(), less.whole) == (whole.keys.tolist(), False)
    assert together([None, None]) is None


def test_a_file_that_is_another_is_refused() -> None:
    one = seen([3, 5, 9])
    data, info = one.to_bytes(), one.info("seen.npy")
    for broken, message in ((None, "is missing"), (data[:-1], "is damaged"), (data[:-1] + b"\1", "is damaged")):
        with pytest.raises(StoreError, match=message):
            Seen.load(broken, info, "seen.npy")
    for strange in (Seen(np.array([5, 3], np.uint64), True), Seen(np.array([3, 3], np.uint64), True)):
        with pytest.raises(StoreError, match="do not rise"):
            Seen.load(strange.to_bytes(), strange.info("x"), "x")
    pickled = seen([1]).info("x")
    with pytest.raises(StoreError, match="damaged"):
        Seen.load(b"\x80\x04N.", pickled, "x")
