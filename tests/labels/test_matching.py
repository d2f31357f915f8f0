"""Rows matched by their ids: as a dictionary would, whether they fit in memory or lie in files."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from schemas.errors import PlaceError
from stages.labels import matching
from stages.labels.alignment import as_bytes
from stages.labels.matching import ABSENT, OTHER, Chunk, match

Side = list[list[tuple[str, int]]]
IDS = st.sampled_from(["", "a", "b", "aa", "é", "a-long-id-of-one-side", *(f"id-{number}" for number in range(20))])
SIDE = st.lists(st.lists(st.tuples(IDS, st.integers(0, 2)), max_size=12), max_size=5)


def chunks(side: Side) -> list[Chunk]:
    """Ids, and contents of which 0 is not known."""
    return [
        (as_bytes([name for name, _ in part]), np.array([[value] * 16 for _, value in part], "u1").reshape(-1, 16))
        for part in side
    ]


@contextmanager
def going(way: str) -> Iterator[None]:
    """How rows are matched; everything that is large is small here."""
    with pytest.MonkeyPatch.context() as patch:
        if way != "memory":
            for bound, value in (("IN_MEMORY", 0), ("BUCKET_ROWS", 8), ("BLOCK_ROWS", 3)):
                patch.setattr(matching, bound, value)
        if way == "files, hashes collide":
            patch.setattr(matching, "hashes", lambda ids, key: np.char.str_len(ids).astype("<u8") % np.uint64(3))
        yield


@pytest.mark.parametrize("way", ["memory", "files", "files, hashes collide"])
@given(held=SIDE, wanted=SIDE)
@settings(max_examples=40)
def test_as_a_dictionary_would(way: str, held: Side, wanted: Side) -> None:
    known: dict[str, tuple[int, int]] = {}
    for row, (name, content) in enumerate(item for part in held for item in part):
        known.setdefault(name, (row, content))
    expected = []
    for name, content in (item for part in wanted for item in part):
        row, theirs = known.get(name, (ABSENT, 0))
        expected.append(OTHER if theirs and content and theirs != content else row)
    with going(way):
        found = match(chunks(held), chunks(wanted), sum(map(len, held)), len(expected))
    assert found.rows.tolist() == expected
    for kind in (ABSENT, OTHER):
        rows = [row for row, value in enumerate(expected) if value == kind]
        assert found.counts[kind] == len(rows)
        assert found.first[kind] == rows[:5]


@pytest.mark.parametrize("way", ["memory", "files"])
def test_files_are_gone_and_the_answer_stays(way: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    ids = as_bytes([f"{number:04d}" for number in range(100)])
    with going(way):
        found = match([(ids, None)], [(ids[::-1], None)], 100, 100)
    assert list(tmp_path.glob("crossdistill-*")) == []
    assert isinstance(found.rows, np.memmap) == (way != "memory")
    assert np.array_equal(found.rows, np.arange(100)[::-1])


def test_no_room_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(self: object, bucket: int, records: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(matching, "IN_MEMORY", 0)
    monkeypatch.setattr(matching._Side, "_put", full)
    with pytest.raises(PlaceError, match=r"2 rows are matched .*\(No space left on device\): make room.*TMPDIR"):
        match([(as_bytes(["a"]), None)], [(as_bytes(["a"]), None)], 1, 1)


def test_hashes_do_not_see_padding() -> None:
    ids = as_bytes(["a", "bb", "abcdefgh", ""]).astype("S8")
    assert np.array_equal(matching.hashes(ids, 5), matching.hashes(ids.astype("S32"), 5))
    assert len(set(matching.hashes(ids, 5).tolist())) == 4
    assert not np.array_equal(matching.hashes(ids, 5)[:3], matching.hashes(ids, 6)[:3])
