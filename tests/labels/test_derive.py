"""A smaller encoding of a set without its teacher: the labels that the teacher would have given, kept as exactly."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from schemas.encodings import Dense, Encoding, Hard, LowRank, TopK
from schemas.errors import StoreError
from stages.labels.derive import encode_set
from stages.labels.reader import LabelSet
from stages.labels.store import Store
from stages.labels.verify import verify
from stages.places import Place
from tests.labels.fakes import FakeSamples, OracleTeacher, inputs_for, make_fake_set
from tests.labels.test_commands import refused, said

ROWS = (10, 7, 3)
TOP = TopK(kind="top-k", k=2, temperatures=(1.0, 2.0))


def silent(done: int, total: int) -> None:
    assert done < total


def make(folder: Path, encoding: Encoding) -> LabelSet:
    place = Place(str(folder / encoding.kind))
    make_fake_set(place, FakeSamples(ROWS), OracleTeacher(), inputs_for(encoding))
    return LabelSet.open(place)


@pytest.mark.parametrize("encoding", [TOP, Hard(kind="hard"), Dense(dtype="bfloat16")])
def test_it_is_what_the_teacher_would_have_given(tmp_path: Path, encoding: Encoding) -> None:
    """From a float32 parent: the same bytes and figures as labelling with that encoding."""
    parent = make(tmp_path, Dense(dtype="float32"))
    child = LabelSet.open(
        Place(str(tmp_path / "new")), encode_set(parent, encoding, Place(str(tmp_path / "new")), silent).fingerprint
    )
    asked = make(tmp_path / "asked", encoding)
    rows = np.arange(sum(ROWS))
    for name, values in asked.gather(rows).items():
        assert np.array_equal(child.gather(rows)[name], values), name
    figures, wanted = child.manifest.statistics.dump(), asked.manifest.statistics.dump()
    assert figures.keys() == wanted.keys()
    for name, figure in wanted.items():  # sums of the same numbers in batches of another size
        assert figures[name] == (figure if isinstance(figure, str) else pytest.approx(figure, rel=1e-9)), name
    assert child.schema == asked.schema
    assert child.manifest.parents == (parent.digest,)
    assert (child.manifest.teacher, child.manifest.samples) == (parent.manifest.teacher, parent.manifest.samples)
    assert [child.sample_ids(n) for n in range(3)] == [parent.sample_ids(n) for n in range(3)]
    assert verify(child, deep=True) == []


def test_fidelity_is_against_the_teacher_not_against_the_parent(tmp_path: Path) -> None:
    """A coarse parent's error is in the child's figures, though the child loses nothing more."""
    parent = make(tmp_path, Dense(dtype="bfloat16"))
    manifest = encode_set(parent, Dense(dtype="float32"), parent.store.place, silent)
    coarse, fine = parent.manifest.statistics, manifest.statistics
    assert coarse.largest_error > 0
    assert fine.full_kl_sums == pytest.approx(coarse.full_kl_sums, rel=1e-6)
    assert fine.fidelity_rows == sum(ROWS)
    exact = LabelSet.open(parent.store.place, manifest.fingerprint).exact(0)[1]
    assert np.array_equal(exact, FakeSamples(ROWS).read(0)["x"])


def test_low_rank_gets_its_basis_from_the_parent(tmp_path: Path) -> None:
    parent = make(tmp_path, Dense(dtype="float32"))
    manifest = encode_set(parent, LowRank(kind="low-rank", rank=3, dtype="float16"), parent.store.place, silent)
    child = LabelSet.open(parent.store.place, manifest.fingerprint)
    assert manifest.statistics.full_kl_sums["2"] / sum(ROWS) < 1e-5  # centred logits of four classes have rank 3
    again = encode_set(child, TOP, parent.store.place, silent)
    assert again.parents == (manifest.digest,)


def test_a_killed_one_goes_on_and_a_finished_one_is_adopted(tmp_path: Path) -> None:
    parent, place = make(tmp_path, Dense()), Place(str(tmp_path / "new"))
    seen: list[int] = []

    def dies(done: int, total: int) -> None:
        seen.append(done)
        if done == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        encode_set(parent, TOP, place, dies)
    assert Store.open(place).manifest(place.names("sets")[0]) is None
    seen.clear()
    first = encode_set(parent, TOP, place, lambda done, _: seen.append(done))
    assert seen == [2]
    assert encode_set(parent, TOP, place, silent) == first
    assert len(place.names("units")) == 3


def test_what_lost_its_classes_is_refused_and_nothing_is_written(tmp_path: Path) -> None:
    parent, place = make(tmp_path, TOP), Place(str(tmp_path / "new"))
    with pytest.raises(StoreError, match="is top-k, which does not hold every class"):
        encode_set(parent, Hard(kind="hard"), place, silent)
    with pytest.raises(StoreError, match="rank 9"):
        encode_set(make(tmp_path, Dense()), LowRank(kind="low-rank", rank=9), place, silent)
    assert not (tmp_path / "new").exists()


def test_as_a_person_types_it(tmp_path: Path) -> None:
    parent = make(tmp_path, Dense())
    store, new = parent.store.place.uri, str(tmp_path / "new")
    words = ("encode", store, parent.fingerprint[:8], "--encoding")
    shown: Any = json.loads(said(*words, "top-k k=2 temperatures=[1,2]", "--to", new, "--json"))
    assert shown["encoding"].startswith("top-k k 2")
    assert shown["parents"] == parent.digest
    assert shown["root digest"] in said("verify", new, shown["fingerprint"], "--deep")
    assert "KL at T = 2 " in said(*words, "low-rank rank=2")
    for wrong, message in (
        ("top-q", "top-q"),
        ("top-k k", "'k' is no setting"),
        ("top-k kk=3", "unknown field"),
        ("top-k k=0", "greater than 0"),
        ("", "encoding"),
    ):
        assert message in refused(*words, wrong)
