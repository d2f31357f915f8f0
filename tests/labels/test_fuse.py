"""Several sets as one: values by torch, on sets that share only some samples, packed and ordered another way."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from schemas.artifacts import LabelSetRef
from schemas.encodings import Dense, Encoding, Hard, LowRank, Sampled, TopK
from schemas.errors import StoreError
from schemas.labels import Fusion, Replay, Space, Views
from stages.labels import importing
from stages.labels.fuse import fuse_sets
from stages.labels.importing import import_set
from stages.labels.mixture import label_weights, mixed
from stages.labels.reader import LabelSet
from stages.labels.store import Store
from stages.labels.verify import verify
from stages.places import Place
from tests.labels.fakes import FakeSamples, OracleTeacher, inputs_for, make_fake_set
from tests.labels.test_commands import refused, said
from tests.labels.test_views import Shaken

EXACT = Dense(dtype="float32")
NAMES = ["a", "b", "c"]
IDS = [f"s{row}" for row in range(9)]
LOGITS = np.random.default_rng(4).normal(size=(2, 9, 3)).astype("f4") * 2


def softmax(logits: np.ndarray) -> np.ndarray:
    return torch.softmax(torch.from_numpy(logits), -1).numpy()


@pytest.fixture(autouse=True)
def small_units(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importing, "UNIT_ROWS", 4)


def make(
    folder: Path, logits: np.ndarray, ids: list[str], classes: list[str] = NAMES, encoding: Encoding = EXACT
) -> LabelSet:
    path = folder / "logits.npy"
    np.save(path, logits)
    place = Place(str(folder / "store"))
    return LabelSet.open(place, import_set(path, place, encoding, classes, ids).fingerprint)


def fusion(*sets: LabelSet, weights: Any = None, **more: Any) -> Fusion:
    refs = [LabelSetRef(uri=item.store.place.uri, fingerprint=item.fingerprint, digest=item.digest) for item in sets]
    return Fusion.model_validate({"sets": refs, "weights": weights or [1.0] * len(sets), **more})


def fuse(
    folder: Path,
    *sets: LabelSet,
    encoding: Encoding = EXACT,
    told: Callable[[int, int], None] | None = None,
    **how: Any,
) -> tuple[LabelSet, list[str]]:
    place, notes = Place(str(folder / "fused")), list[str]()
    manifest = fuse_sets(sets, fusion(*sets, **how), encoding, place, notes.append, told or (lambda done, total: None))
    return LabelSet.open(place, manifest.fingerprint), notes


def ids_of(labels: LabelSet) -> list[str]:
    return [item for unit in range(len(labels.offsets) - 1) for item in labels.sample_ids(unit)]


def probabilities(labels: LabelSet) -> np.ndarray:
    rows = labels.gather(np.arange(labels.rows))
    return np.exp(labels.decode(rows).log_probabilities(1.0))


@pytest.mark.parametrize("space", ["probability", "logit"])
def test_weighted_in_either_space(tmp_path: Path, space: str) -> None:
    first, second = (make(tmp_path, logits, IDS) for logits in LOGITS)
    fused, notes = fuse(tmp_path, first, second, weights=[3.0, 1.0], space=space)
    if space == "probability":
        wanted = 0.75 * softmax(LOGITS[0]) + 0.25 * softmax(LOGITS[1])
    else:
        wanted = softmax(0.75 * LOGITS[0] + 0.25 * LOGITS[1])
    assert np.allclose(probabilities(fused), wanted, atol=1e-6)
    assert (notes, ids_of(fused), fused.classes) == ([], IDS, tuple(NAMES))
    assert fused.manifest.parents == (first.digest, second.digest)
    assert [unit.shard_digest for unit in fused.units] == [unit.shard_digest for unit in first.units]
    assert fused.manifest.samples == first.manifest.samples
    assert fused.manifest.statistics.fidelity_rows == 9
    assert verify(fused, deep=True) == []


def test_the_surer_teacher_counts_more(tmp_path: Path) -> None:
    fused, _ = fuse(tmp_path, *(make(tmp_path, logits, IDS) for logits in LOGITS), weights="confidence")
    p, q = (softmax(logits.astype("f8")) for logits in LOGITS)
    share = p.max(1) / (p.max(1) + q.max(1))
    assert np.allclose(probabilities(fused), share[:, None] * p + (1 - share)[:, None] * q, atol=1e-6)


def test_rows_and_classes_go_by_their_names(tmp_path: Path) -> None:
    """The second set has other samples in another order, and its classes too."""
    first = make(tmp_path, LOGITS[0][:6], IDS[:6])
    second = make(tmp_path, LOGITS[1][::-1][:7][:, [2, 0, 1]], IDS[::-1][:7], ["c", "a", "b"])
    p, q = (softmax(logits) for logits in LOGITS)
    both, notes = fuse(tmp_path, first, second)
    assert ids_of(both) == IDS[2:6]
    assert np.allclose(probabilities(both), (p[2:6] + q[2:6]) / 2, atol=1e-6)
    assert "have the same classes in another order" in notes[0]
    assert both.units[0].shard_digest != first.units[0].shard_digest  # half a shard is another
    assert both.units[1].shard_digest == first.units[1].shard_digest
    either, _ = fuse(tmp_path, first, second, ids="union", weights=[0.2, 0.8])
    wanted = {name: 0.2 * p[row] + 0.8 * q[row] for row, name in enumerate(IDS)}
    wanted |= {IDS[row]: p[row] for row in range(2)} | {IDS[row]: q[row] for row in range(6, 9)}
    assert sorted(ids_of(either)) == sorted(IDS)
    assert np.allclose(probabilities(either), np.stack([wanted[name] for name in ids_of(either)]), atol=1e-6)
    assert verify(either, deep=True) == []


@pytest.mark.parametrize(
    "encoding",
    [TopK(kind="top-k", k=2), LowRank(kind="low-rank", rank=2, dtype="float16"), Hard(kind="hard")],
    ids=lambda item: item.kind,
)
def test_parents_and_children_in_any_encoding(tmp_path: Path, encoding: Encoding) -> None:
    """Sparse parents count as the distributions that they decode to; so is what the child lost measured."""
    first = make(tmp_path, LOGITS[0], IDS)
    second = make(tmp_path, LOGITS[1], IDS, encoding=encoding)
    fused, _ = fuse(tmp_path, first, second)
    wanted = (probabilities(first) + probabilities(second)) / 2
    assert np.allclose(probabilities(fused), wanted, atol=1e-6)
    small, _ = fuse(tmp_path, first, second, encoding=encoding)
    assert small.schema.encoding == encoding
    rows = np.arange(9)
    assert np.array_equal(small.decode(small.gather(rows)).top1(), wanted.argmax(axis=1))
    exact = np.concatenate([small.exact(unit)[1] for unit in range(len(small.units))])
    assert np.allclose(softmax(exact), wanted, atol=1e-6)


def shaken(folder: Path, factor: float, views: Views, *replays: Replay) -> LabelSet:
    """Labels of augmented vectors, times a factor."""
    teacher = Shaken()
    teacher._change = partial(torch.mul, torch.tensor(factor))
    asked = inputs_for(EXACT, views=views)
    make_fake_set(Place(str(folder)), FakeSamples((5, 3)), teacher, asked, replays)
    return LabelSet.open(str(folder))


def test_packed_shards_keep_their_names_and_views_their_numbers(tmp_path: Path) -> None:
    views = Views(count=2, seed=7, settings={"flip": True})
    sketches = tuple(Replay(position=row, view=1, sketch=(0.5, row)) for row in (2, 6))
    first, second = (shaken(tmp_path / str(factor), factor, views, *sketches) for factor in (1.0, 2.0))
    fused, _ = fuse(tmp_path, first, second, space="logit")
    assert fused.align(FakeSamples((5, 3))) is fused
    assert (fused.manifest.views, len(fused.units)) == (views, 4)
    assert fused.manifest.replays == sketches
    for view in range(2):
        found, x = (item.logits(np.arange(8), view) for item in (fused, first))
        assert np.allclose(softmax(found), softmax(1.5 * x), atol=1e-6)
    with pytest.raises(StoreError, match="has other views of its samples"):
        fuse(tmp_path, first, shaken(tmp_path / "plain", 3.0, Views()))
    other = shaken(tmp_path / "other", 3.0, views, Replay(position=6, view=1, sketch=(0.5, 6.1)))
    with pytest.raises(StoreError, match="did not see the same view 1 of one sample"):
        fuse(tmp_path, first, other)


def test_a_killed_one_goes_on_and_a_finished_one_is_adopted(tmp_path: Path) -> None:
    sets = [make(tmp_path, logits, IDS) for logits in LOGITS]
    seen: list[int] = []

    def dies(done: int, total: int) -> None:
        if done == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fuse(tmp_path, *sets, told=dies)
    place = Place(str(tmp_path / "fused"))
    assert Store.open(place).manifest(place.names("sets")[0]) is None
    first, _ = fuse(tmp_path, *sets, told=lambda done, total: seen.append(done))
    assert seen == [2]
    again, _ = fuse(tmp_path, *sets, told=lambda done, total: seen.append(done))
    assert (again.manifest, seen) == (first.manifest, [2])
    assert len(place.names("units")) == 3
    fuse(tmp_path, *sets, weights=[2.0, 1.0])
    assert len(place.names("units")) == 6


def test_what_does_not_fit_is_refused_and_nothing_is_written(tmp_path: Path) -> None:
    first = make(tmp_path, LOGITS[0], IDS)
    drawn = Sampled(kind="sampled", draws=3, temperature=2.0)
    for other, message in (
        (make(tmp_path, LOGITS[1], IDS, ["a", "b", "d"]), r"do not speak of the same classes: 2 .*\(first: 'c'\)"),
        (make(tmp_path, LOGITS[1], [f"t{row}" for row in range(9)]), r"no sample in common \(9 and 9 samples\)"),
        (make(tmp_path, LOGITS[1], IDS, encoding=drawn), r"cannot be fused: temperature 1 cannot be read"),
    ):
        with pytest.raises(StoreError, match=message):
            fuse(tmp_path, first, other)
    with pytest.raises(ValidationError, match="2 sets have 2 weights, not 3"):
        fusion(first, other, weights=[1, 1, 1])
    with pytest.raises(ValidationError, match="stands in it twice"):
        fusion(first, first)
    assert not (tmp_path / "fused").exists()


def test_other_content_under_one_id_is_refused(tmp_path: Path) -> None:
    sets = []
    for name, rows in (("one", (5, 3)), ("two", (8,))):
        place = Place(str(tmp_path / name))
        samples = FakeSamples(rows)
        if name == "two":
            samples._ids[0] = [f"sample-{row // 5}-{row % 5}-é" for row in range(8)]
        make_fake_set(place, samples, OracleTeacher())
        sets.append(LabelSet.open(place))
    with pytest.raises(StoreError, match=r"3 of 8 samples have other content than set .* \(first: sample-1-0-\\xe9"):
        fuse(tmp_path, *sets)


@given(st.integers(1, 4), st.integers(1, 5), st.integers(1, 6), st.integers(0, 99), st.sampled_from(["fixed", "conf"]))
@settings(max_examples=40, suppress_health_check=[HealthCheck.too_slow])
def test_a_mean_is_a_distribution_between_its_parts(p: int, n: int, c: int, seed: int, kind: str) -> None:
    rng = np.random.default_rng(seed)
    logits = rng.normal(size=(p, n, c)) * rng.choice([1, 30, 200])
    logp = torch.log_softmax(torch.from_numpy(logits), 2).numpy()
    present = rng.random((p, n)) < 0.6
    present[rng.integers(p, size=n), np.arange(n)] = True
    weights = label_weights("confidence" if kind == "conf" else tuple(rng.random(p) + 0.1), logp, present)
    assert np.allclose(weights.sum(axis=0), 1)
    assert (weights[~present] == 0).all()
    for space in get_args(Space):
        found = mixed(logp, weights, space).astype("f8")
        assert np.isfinite(found).all()
        assert np.allclose(np.exp(found).sum(axis=1), 1, atol=1e-5)
        if space == "probability":
            shares = np.where(present[:, :, None], np.exp(logp), np.nan)
            assert (np.exp(found) >= np.nanmin(shares, axis=0) - 1e-6).all()
            assert (np.exp(found) <= np.nanmax(shares, axis=0) + 1e-6).all()


def test_as_a_person_types_it(tmp_path: Path) -> None:
    """Parents in two stores, the second by its whole address."""
    first = make(tmp_path, LOGITS[0], IDS)
    (tmp_path / "other").mkdir()
    second = make(tmp_path / "other", LOGITS[1], IDS[::-1])
    store, other = str(tmp_path / "store"), f"{tmp_path}/other/store#{second.fingerprint[:8]}"
    new = str(tmp_path / "new")
    words = ("fuse", store, first.fingerprint[:8], other)
    shown = json.loads(said(*words, "--weights", "0.7,0.3", "--encoding", "top-k k=2", "--to", new, "--json"))
    assert shown["parents"] == f"{first.digest}, {second.digest}"
    assert "give one number a set" in refused(*words, "--weights", "a,b")
    with pytest.raises(ValidationError, match="weights are numbers above 0"):
        fusion(first, second, weights=[1, -1])
