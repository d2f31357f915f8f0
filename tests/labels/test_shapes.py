"""The four shapes of label through the whole format: said, encoded, written, mapped, gathered, decoded, measured."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st

from schemas.artifacts import Provenance
from schemas.encodings import Dense, Encoding, Hard, LowRank, Sampled, TopK
from schemas.errors import ModelError, StoreError
from schemas.labels import Extra, LabelSchema, LabelShape, SetPlan, UnitPlan
from stages.labels import builder
from stages.labels.bases import write_basis
from stages.labels.builder import How, Said, UnitBuilder
from stages.labels.encodings import label_schema
from stages.labels.encodings.low_rank import fit_basis
from stages.labels.reader import LabelSet
from stages.labels.statistics import fidelity, merge
from stages.labels.store import FIDELITY_SCALE, About, Store
from stages.places import Place
from tests.labels.fakes import NOBODY

CLASSES = ("a", "b", "c", "d", "e")
GRID = (2, 3)
ENCODINGS: dict[str, Encoding] = {
    "dense": Dense(dtype="float32"),
    "top-k": TopK(kind="top-k", k=2, values="uint8"),
    "mass": TopK(kind="top-k", k=None, mass=0.7),
    "low-rank": LowRank(kind="low-rank", rank=3),
    "sampled": Sampled(kind="sampled", draws=9),
    "hard": Hard(kind="hard"),
}
SHAPES = {
    "sample": LabelShape(),
    "token": LabelShape(kind="token"),
    "pixel": LabelShape(kind="pixel", grid=GRID),
    "box": LabelShape(kind="box"),
}
EXTRAS = (Extra(name="entropy"), Extra(name="features", width=2, dtype="float16", per="sample"))


def said(rng: np.random.Generator, shape: LabelShape, samples: int) -> Said:
    """What a teacher says about some samples; those of tokens and boxes may have none."""
    items = rng.integers(0, 4, samples) if shape.ragged else None
    lead = (samples, *shape.grid) if items is None else (int(items.sum()),)
    extras: dict[str, np.ndarray] = {"features": rng.normal(size=(samples, 2)).astype("f2")}
    if shape.kind == "box":
        extras |= {"box": rng.random((*lead, 4)).astype("f4"), "score": rng.random(lead).astype("f4")}
    return Said((rng.normal(size=(*lead, len(CLASSES))) * 3).astype("f4"), items, None, extras)


def cut(whole: Said, rows: slice) -> Said:
    """What is said about some rows."""
    if whole.items is None:
        labels = rows
    else:
        ends = np.concatenate([[0], np.cumsum(whole.items)])
        labels = slice(int(ends[rows.start]), int(ends[rows.stop]))
    extras = {name: values[rows if name == "features" else labels] for name, values in whole.extras.items()}
    return Said(whole.logits[labels], None if whole.items is None else whole.items[rows], None, extras)


def write(
    place: Place, encoding: Encoding, shape: LabelShape, rows: tuple[int, ...], seed: int, batch: int
) -> tuple[LabelSet, list[Said]]:
    """A set of so many samples per unit, and what was said."""
    rng = np.random.default_rng(seed)
    everything = [said(rng, shape, count) for count in rows]
    basis = None
    if isinstance(encoding, LowRank):
        some = [item.logits.reshape(-1, len(CLASSES)) for item in everything]
        basis = fit_basis(np.concatenate([*some, rng.normal(size=(20, len(CLASSES))).astype("f4")]), encoding.rank)
        write_basis(place, basis)
    schema: LabelSchema = label_schema(CLASSES, encoding, shape, EXTRAS, basis)
    store = Store.create(place)
    plan = SetPlan(
        fingerprint=NOBODY,
        label_schema=schema,
        units=tuple(
            UnitPlan(key=f"{number:032x}", shard=f"{number}", shard_digest=NOBODY, rows=count)
            for number, count in enumerate(rows)
        ),
        fidelity_threshold=FIDELITY_SCALE,
        fidelity_labels=2,
        provenance=Provenance(package="1", inputs={}),
    )
    how = How(schema, "float32", batch, FIDELITY_SCALE, plan.fidelity_labels, basis)
    receipts = {}
    for unit, item in zip(plan.units, everything, strict=True):
        content = rng.integers(0, 256, (unit.rows, 16)).astype("u1")
        made = UnitBuilder(how, unit, [f"{unit.shard}-{row}" for row in range(unit.rows)], content)
        for lot in made.batches():
            made.add(lot, cut(item, lot))
        receipts[unit.key] = store.commit_unit(made.write(store))
    store.commit_plan(plan)
    store.commit_set(plan, receipts, About(NOBODY, NOBODY))
    return LabelSet.open(place), everything


def exact_of(everything: list[Said], positions: np.ndarray) -> tuple[np.ndarray, np.ndarray, dict[str, np.ndarray]]:
    """(logits of every label (N, C), labels per sample, extras) of some samples, from what was said."""
    rows = [cut(item, slice(row, row + 1)) for item in everything for row in range(len(item.extras["features"]))]
    chosen = [rows[position] for position in positions]
    logits = [item.logits.reshape(-1, len(CLASSES)) for item in chosen]
    names = everything[0].extras
    extras = {name: np.concatenate([item.extras[name] for item in chosen]) for name in names} if chosen else {}
    return (
        np.concatenate([np.empty((0, len(CLASSES)), "f4"), *logits]),
        np.array([len(item) for item in logits], np.int64),
        extras,
    )


@pytest.mark.parametrize("kind", SHAPES)
@pytest.mark.parametrize("name", ENCODINGS)
@given(data=st.data())
@settings(max_examples=5)
def test_what_is_said_is_what_is_read(name: str, kind: str, data: st.DataObject) -> None:
    rows = tuple(data.draw(st.lists(st.integers(1, 5), min_size=1, max_size=3)))
    positions = np.array(data.draw(st.lists(st.integers(0, sum(rows) - 1), max_size=8)), np.int64)
    with tempfile.TemporaryDirectory() as folder:
        labels, everything = write(
            Place(folder),
            ENCODINGS[name],
            SHAPES[kind],
            rows,
            data.draw(st.integers(0, 99)),
            data.draw(st.integers(1, 6)),
        )
        stored = labels.gather(positions)
        exact_NC, counts, extras = exact_of(everything, positions)
        if SHAPES[kind].ragged:
            assert stored["items"].tolist() == counts.tolist()
        for field, values in extras.items():
            assert np.array_equal(stored[field], values), field
        decoded = labels.decode(stored)
        assert decoded.dense().shape == exact_NC.shape
        assert np.allclose(np.exp(decoded.log_probabilities(labels_temperature(name))).sum(axis=1), 1.0)
        if name == "dense":
            assert np.array_equal(decoded.dense(), exact_NC)
        elif name != "sampled" and name != "low-rank":
            assert np.array_equal(decoded.top1(), exact_NC.argmax(axis=1))
        check_fidelity(labels)


def labels_temperature(name: str) -> float:
    return 1.0 if name == "sampled" else 2.0


def check_fidelity(labels: LabelSet) -> None:
    """What set.json says of its exactness, worked out again from the set alone."""
    again = []
    for unit in range(len(labels.units)):
        places, exact_MC = labels.exact(unit)
        decoded = labels.decode(labels.read(unit))
        assert len(np.unique(places)) == len(places)
        again.append(fidelity(exact_MC, decoded.rows(places.astype(np.int64))))
    found, told = merge(again), labels.manifest.statistics
    assert found.fidelity_rows == told.fidelity_rows
    assert found.top1_agreements == told.top1_agreements
    assert found.full_kl_sums == pytest.approx(told.full_kl_sums, rel=1e-6, abs=1e-9)
    assert found.bucket_kl_sums == pytest.approx(told.bucket_kl_sums, rel=1e-6, abs=1e-9)
    assert found.largest_error == pytest.approx(told.largest_error, abs=1e-9)


@pytest.mark.parametrize("kind", SHAPES)
@pytest.mark.parametrize("name", ENCODINGS)
def test_batches_and_chunks_change_no_byte(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, kind: str
) -> None:
    digests = set()
    for number, (batch, at_once) in enumerate([(3, builder.AT_ONCE), (7, builder.AT_ONCE), (4, 2 * len(CLASSES))]):
        monkeypatch.setattr(builder, "AT_ONCE", at_once)
        labels, _ = write(Place(str(tmp_path / f"{number}")), ENCODINGS[name], SHAPES[kind], (7, 2), 5, batch)
        digests.add(labels.digest)
    assert len(digests) == 1


@pytest.mark.parametrize("kind", SHAPES)
def test_zarr_opens_what_we_wrote(tmp_path: Path, kind: str) -> None:
    labels, _ = write(Place(str(tmp_path)), ENCODINGS["mass"], SHAPES[kind], (4,), 1, 4)
    receipt = labels.units[0].receipt
    group: Any = zarr.open_group(tmp_path / "units" / receipt.key / receipt.attempt, mode="r")
    for name, values in labels.read(0).items():
        assert np.array_equal(group[name][:], values), name


def test_samples_without_labels(tmp_path: Path) -> None:
    """Pictures without a box, texts without a token, and nothing else."""
    schema = label_schema(CLASSES, ENCODINGS["mass"], SHAPES["token"])
    unit = UnitPlan(key=NOBODY, shard="0", shard_digest=NOBODY, rows=3)
    made = UnitBuilder(How(schema), unit, ["a", "b", "c"], np.arange(48, dtype="u1").reshape(3, 16))
    made.add(slice(0, 3), Said(np.empty((0, 5), "f4"), np.zeros(3, np.int64)))
    arrays, statistics = made.finish()
    assert (arrays["items"].tolist(), len(arrays["ids"]), len(arrays["tail"])) == ([0, 0, 0], 0, 0)
    assert (statistics.rows, statistics.labels, statistics.fidelity_rows) == (3, 0, 0)


def test_few_labels_of_each_sample_are_measured(tmp_path: Path) -> None:
    labels, everything = write(Place(str(tmp_path)), ENCODINGS["dense"], SHAPES["pixel"], (6, 3), 0, 4)
    assert labels.manifest.statistics.fidelity_rows == 9 * 2
    assert labels.manifest.statistics.labels == 9 * 6
    places, exact_MC = labels.exact(1)
    assert np.array_equal(exact_MC, everything[1].logits.reshape(-1, 5)[places])


@pytest.mark.parametrize(
    ("kind", "answer", "message"),
    [
        ("pixel", Said(np.zeros((2, 5), "f4")), "one logit per class and pixel"),
        ("token", Said(np.zeros((3, 5), "f4"), np.array([1, 1])), "3, 5.* logits for 2 tokens of 2 samples"),
        ("token", Said(np.zeros((2, 5), "f4")), "for 0 tokens of 2 samples"),
        ("sample", Said(np.zeros((2, 5), "f4"), extras={"boxes": np.zeros(2)}), "says boxes, which the label schema"),
        ("sample", Said(np.full((2, 5), np.nan, "f4")), "sample 'a' .* is not finite"),
    ],
)
def test_an_answer_that_does_not_fit_is_refused(kind: str, answer: Said, message: str) -> None:
    schema = label_schema(CLASSES, Dense(), SHAPES[kind])
    unit = UnitPlan(key=NOBODY, shard="0", shard_digest=NOBODY, rows=2)
    made = UnitBuilder(How(schema), unit, ["a", "b"], np.zeros((2, 16), "u1"))
    with pytest.raises(ModelError, match=message):
        made.add(slice(0, 2), answer)


def test_a_field_that_nobody_said_is_missed() -> None:
    schema = label_schema(CLASSES, Dense(), SHAPES["box"])
    unit = UnitPlan(key=NOBODY, shard="0", shard_digest=NOBODY, rows=1)
    made = UnitBuilder(How(schema), unit, ["a"], np.zeros((1, 16), "u1"))
    made.add(slice(0, 1), Said(np.zeros((2, 5), "f4"), np.array([2])))
    with pytest.raises(StoreError, match="box has 0 rows, 2 are needed"):
        made.finish()


def test_difficulty_by_hand() -> None:
    found = builder.difficulty(np.log(np.array([[0.75, 0.25], [0.5, 0.5]], "f4")), ("entropy", "margin"))
    entropy = -(0.75 * np.log(0.75) + 0.25 * np.log(0.25))
    assert found["entropy"].tolist() == pytest.approx([entropy, np.log(2)], rel=1e-6)
    assert found["margin"].tolist() == pytest.approx([0.5, 0.0], abs=1e-7)
    assert builder.difficulty(np.zeros((1, 1), "f4"), ("margin",))["margin"].tolist() == [1.0]
