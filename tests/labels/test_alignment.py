"""Labels in the order of samples that are packed another way: every label by its id, every difference counted."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from schemas.errors import LabelsMissing, StoreError
from stages.labels import matching
from stages.labels.alignment import AlignedLabels
from stages.labels.reader import LabelSet
from stages.places import Place
from tests.labels.fakes import FakeSamples, FakeShard, OracleTeacher, make_fake_set

ROWS = (5, 4, 2)


class Repacked(FakeSamples):
    """Some rows of other samples, in another order and other shards."""

    def __init__(self, of: FakeSamples, rows: Sequence[int], cuts: Sequence[int]) -> None:
        self.values, ids, content = (np.concatenate(part) for part in (of._x, of._ids, of._content))
        edges = [0, *cuts, len(rows)]
        lots = [list(rows[begin:end]) for begin, end in pairwise(edges) if begin < end]
        self.order = np.array([row for lot in lots for row in lot], np.int64)
        self._x = [self.values[lot] for lot in lots]
        self._ids = [[str(ids[row]) for row in lot] for lot in lots]
        self._content = [content[lot] for lot in lots]
        self.shards = tuple(FakeShard(f"{n}", len(lot), f"{n:032x}") for n, lot in enumerate(lots))
        self.rows = len(self.order)


@pytest.fixture(params=["memory", "files"])
def _way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.param == "files":
        for bound, value in (("IN_MEMORY", 0), ("BUCKET_ROWS", 4), ("BLOCK_ROWS", 3)):
            monkeypatch.setattr(matching, bound, value)


@given(data=st.data())
@settings(max_examples=25)
def test_every_label_is_found_by_its_id(data: st.DataObject) -> None:
    total = sum(ROWS)
    rows = data.draw(st.lists(st.integers(0, total - 1), min_size=1, max_size=total, unique=True))
    cuts = sorted(data.draw(st.lists(st.integers(0, len(rows)), max_size=3)))
    samples = FakeSamples(ROWS)
    with tempfile.TemporaryDirectory() as folder:
        make_fake_set(Place(folder), samples, OracleTeacher())
        labels, repacked = LabelSet.open(folder), Repacked(samples, rows, cuts)
        aligned = labels.align(repacked)
        assert isinstance(aligned, AlignedLabels)
        wanted = repacked.values[repacked.order].astype("f2").astype("f4")
        assert np.array_equal(aligned.logits(np.arange(len(rows))), wanted)
        back = np.arange(len(rows))[::-1]
        assert np.array_equal(aligned.decode(aligned.gather(back)).dense(), wanted[::-1])
        assert aligned.classes == labels.classes
        assert labels.align(samples) is labels


@pytest.fixture(scope="module")
def labels(tmp_path_factory: pytest.TempPathFactory) -> LabelSet:
    place = Place(str(tmp_path_factory.mktemp("store")))
    make_fake_set(place, FakeSamples(ROWS), OracleTeacher())
    return LabelSet.open(place)


@pytest.mark.usefixtures("_way")
def test_what_is_missing_is_counted(labels: LabelSet) -> None:
    with pytest.raises(LabelsMissing, match=r"3 of 14 samples have no label .*first: sample-3-0-\\xe9, sample-3-1-"):
        labels.align(FakeSamples((*ROWS, 3)))


@pytest.mark.usefixtures("_way")
def test_other_content_is_counted_and_unknown_content_passes(labels: LabelSet) -> None:
    other = Repacked(FakeSamples(ROWS), range(11), [4])
    other._content[1] = other._content[1].copy()
    other._content[1][:2] ^= 1
    with pytest.raises(StoreError, match=r"2 of 11 samples have other content .*first: sample-0-4"):
        labels.align(other)


def test_no_samples_need_no_labels(labels: LabelSet) -> None:
    assert labels.align(Repacked(FakeSamples(ROWS), [], [])).logits(np.arange(0)).shape == (0, 4)
