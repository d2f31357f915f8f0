"""Encodings: round trips to the last bit they keep, and refusal of what does not fit."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from pydantic import TypeAdapter, ValidationError

from schemas.encodings import Dense, Encoding, Hard, LowRank, Sampled, TopK
from schemas.errors import StoreError
from stages.labels.decoded import Decoded, SparseLabels, readable, smallest_temperature
from stages.labels.encodings import check_temperatures, codec_of, label_schema
from stages.labels.encodings.low_rank import fit_basis
from stages.random import counters

LOGITS = arrays("f4", st.tuples(st.integers(1, 5), st.integers(1, 7)), elements=st.floats(-60000, 60000, width=32))
NOBODY = np.zeros((5, 4), np.uint32)
"""Counters for encodings that draw nothing."""
UNIT = {"float32": 0.0, "float16": 2.0**-11, "bfloat16": 2.0**-8}
"""Half a unit in the last place of each type, relative."""


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
@given(logits_BC=LOGITS)
def test_dense_keeps_what_its_type_holds(dtype: str, logits_BC: np.ndarray) -> None:
    codec = codec_of(Dense.model_validate({"dtype": dtype}), logits_BC.shape[1])
    encoded = codec.encode(logits_BC, NOBODY)
    decoded_BC = codec.decode(encoded).dense()
    assert decoded_BC.dtype == np.float32
    error = np.abs(decoded_BC.astype("f8") - logits_BC)
    assert (error <= UNIT[dtype] * np.abs(logits_BC.astype("f8")) + 2.0**-25).all()
    again = codec.encode(decoded_BC, NOBODY)
    assert all(np.array_equal(again[name], encoded[name]) for name in encoded)


@given(logits_BC=LOGITS)
def test_bfloat16_rounds_as_torch_does(logits_BC: np.ndarray) -> None:
    bits = codec_of(Dense(dtype="bfloat16"), logits_BC.shape[1]).encode(logits_BC, NOBODY)["logits"]
    expected = torch.from_numpy(logits_BC.copy()).bfloat16().view(torch.uint16).numpy()
    assert np.array_equal(bits, expected)


@pytest.mark.parametrize(("dtype", "fits", "too_large"), [("float16", 65504.0, 65505.0), ("bfloat16", 3.3e38, 3.4e38)])
def test_a_logit_that_does_not_fit_is_refused_with_the_mend(dtype: str, fits: float, too_large: float) -> None:
    codec = codec_of(Dense.model_validate({"dtype": dtype}), 2)
    assert np.isfinite(codec.decode(codec.encode(np.array([[-fits, 0.0]], "f4"), NOBODY)).dense()).all()
    with pytest.raises(StoreError, match="`dtype` to float32"):
        codec.encode(np.array([[0.0, -too_large]], "f4"), NOBODY)


EVERY: list[Encoding] = [
    Dense(dtype="float32"),
    Dense(dtype="bfloat16"),
    TopK(kind="top-k", k=2),
    TopK(kind="top-k", k=2, values="uint8", temperatures=(0.5, 3.0)),
    TopK(kind="top-k", k=None, mass=0.6),
    LowRank(kind="low-rank", rank=2),
    LowRank(kind="low-rank", rank=2, dtype="float16"),
    Sampled(kind="sampled", draws=300),
    Hard(kind="hard"),
]


def some(seed: int, rows: int = 6, classes: int = 5) -> np.ndarray:
    return (np.random.default_rng(seed).normal(size=(rows, classes)) * 3).astype("f4")


def coded(encoding: Encoding, logits_NC: np.ndarray, seed: int = 0) -> tuple[dict[str, np.ndarray], Decoded]:
    basis = fit_basis(logits_NC, encoding.rank) if isinstance(encoding, LowRank) else None
    codec = codec_of(encoding, logits_NC.shape[1], basis)
    drawn = counters(np.random.default_rng(seed).integers(0, 256, (len(logits_NC), 16)).astype("u1"))
    encoded = codec.encode(logits_NC, drawn)
    return encoded, codec.decode(encoded)


def sparse(encoding: Encoding, logits_NC: np.ndarray) -> SparseLabels:
    found = coded(encoding, logits_NC)[1]
    assert isinstance(found, SparseLabels)
    return found


@pytest.mark.parametrize("encoding", EVERY, ids=str)
def test_schema_states_the_bytes_of_a_row(encoding: Encoding) -> None:
    schema = label_schema(("a", "b", "c"), encoding)
    encoded, _ = coded(encoding, some(0, 5, 3))
    assert {field.name for field in schema.fields} == set(encoded)
    for field in schema.fields:
        stored = encoded[field.name]
        rows = 5 if field.per == "label" else int(encoded["kept"].sum())
        assert (stored.dtype.name, stored.shape, stored.nbytes) == (
            field.dtype,
            (rows, *field.shape),
            rows * field.bytes_per_row,
        )


@pytest.mark.parametrize("encoding", EVERY, ids=str)
@given(seed=st.integers(0, 999))
@settings(max_examples=15)
def test_every_decoded_row_is_a_distribution(encoding: Encoding, seed: int) -> None:
    exact = some(seed)
    _, decoded = coded(encoding, exact)
    for tau in (1.0, 2.0, 2.5, 7.0):
        if readable(decoded, tau):
            assert np.exp(decoded.log_probabilities(tau)).sum(axis=1) == pytest.approx(np.ones(6))
    tau = smallest_temperature(decoded)
    p = np.exp(decoded.log_probabilities(tau))
    entropy, largest = decoded.moments(tau)
    assert largest == pytest.approx(p.max(axis=1))
    assert entropy == pytest.approx(-(p * np.log(np.maximum(p, 1e-300))).sum(axis=1), abs=1e-6)
    assert decoded.dense().shape == exact.shape
    assert decoded.rows(np.array([4, 0])).dense().tolist() == decoded.dense()[[4, 0]].tolist()


# --- top-k -------------------------------------------------------------------------------------------------------


@given(seed=st.integers(0, 999), k=st.integers(1, 5))
@settings(max_examples=40)
def test_top_k_by_hand(seed: int, k: int) -> None:
    exact, temperatures = some(seed), (0.5, 1.0, 4.0)
    labels = sparse(TopK(kind="top-k", k=k, temperatures=temperatures), exact)
    for row, logits in enumerate(exact.astype(np.float64)):
        order = sorted(range(5), key=lambda item: (-logits[item], item))
        assert labels.ids[row].tolist() == order[:k]
        assert labels.logits[row] == pytest.approx(logits[order[:k]], rel=2.0**-11)
        for number, tau in enumerate(temperatures):
            rest = [math.exp(logits[item] / tau) for item in order[k:]]
            assert labels.tails[row, number] == pytest.approx(
                math.log(sum(rest)) if rest else -math.inf, rel=1e-5, abs=1e-6
            )


@given(seed=st.integers(0, 999), beta=st.floats(0.05, 1.0))
@settings(max_examples=40)
def test_between_temperatures_the_tail_lies_above_the_truth(seed: int, beta: float) -> None:
    exact = some(seed)
    labels = sparse(TopK(kind="top-k", k=2, temperatures=(1.0, 2.0)), exact)
    rest = np.sort(exact.astype(np.float64), axis=1)[:, :3]
    truth = np.log(np.exp(rest * beta).sum(axis=1))
    found = labels.tail(1 / beta)
    assert (found >= truth - 1e-5).all()
    for tau in (1.0, 2.0):
        assert labels.tail(tau) == pytest.approx(np.log(np.exp(rest / tau).sum(axis=1)), rel=1e-5, abs=1e-6)
    assert labels.tail(1e9) == pytest.approx(np.full(6, math.log(3)), abs=1e-5)


def test_a_temperature_below_the_smallest_is_refused_by_name() -> None:
    labels = sparse(TopK(kind="top-k", k=2, temperatures=(2.0, 4.0)), some(0))
    with pytest.raises(
        StoreError, match=r"temperature 1 lies below the smallest that the labels are made for \(2, 4\)"
    ):
        labels.log_probabilities(1.0)
    with pytest.raises(StoreError, match="drawn at 1: use that"):
        coded(Sampled(kind="sampled"), some(0))[1].log_probabilities(3.0)
    for encoding, tau, fits in (
        (EVERY[3], 0.4, False),
        (EVERY[3], 0.6, True),
        (EVERY[7], 2.0, False),
        (EVERY[0], 9.0, True),
    ):
        if fits:
            check_temperatures(encoding, [tau])
        else:
            with pytest.raises(StoreError):
                check_temperatures(encoding, [tau])


def test_of_equal_logits_the_first_classes_are_kept() -> None:
    exact = np.array([[1, 3, 3, 3, 0], [2, 2, 2, 2, 2], [0, 0, 0, 0, 1]], "f4")
    assert sparse(TopK(kind="top-k", k=2), exact).ids.tolist() == [[1, 2], [0, 1], [4, 0]]


@given(logits_BC=arrays("f4", (3, 9), elements=st.floats(-200, 200, width=32)), k=st.integers(1, 9))
def test_uint8_is_within_half_a_step(logits_BC: np.ndarray, k: int) -> None:
    encoded, decoded = coded(TopK(kind="top-k", k=k, values="uint8"), logits_BC)
    assert isinstance(decoded, SparseLabels)
    exact = np.take_along_axis(logits_BC, decoded.ids, axis=1)
    step = encoded["affine"][:, 1:].astype("f4")
    assert (np.abs(decoded.logits - exact) <= 0.51 * step + 1e-5 * np.abs(exact) + 1e-6).all()
    span = exact.max(axis=1) - exact.min(axis=1)
    assert (step[:, 0] <= span / 255 * 1.01 + np.abs(exact).max(axis=1) * 2.0**-10 / 255 + 1e-6).all()


@given(seed=st.integers(0, 999), mass=st.floats(0.05, 1.0))
@settings(max_examples=40)
def test_mass_keeps_the_fewest_that_hold_it(seed: int, mass: float) -> None:
    exact = some(seed)
    kept = sparse(TopK(kind="top-k", k=None, mass=mass), exact).kept
    p = np.sort(np.exp(exact.astype("f8")) / np.exp(exact.astype("f8")).sum(axis=1, keepdims=True), axis=1)[:, ::-1]
    held = p.cumsum(axis=1)
    for row, number in enumerate(kept):
        assert held[row, number - 1] >= mass - 1e-6
        assert number == 1 or held[row, number - 2] < mass + 1e-6
    assert sparse(TopK(kind="top-k", k=2, mass=1.0), exact).kept.max() == 2


@pytest.mark.parametrize(
    ("classes", "kind"), [(1, "uint8"), (2, "uint8"), (256, "uint8"), (257, "uint16"), (65537, "uint32")]
)
def test_ids_take_the_narrowest_integer(classes: int, kind: str) -> None:
    exact = some(1, 2, classes)
    for encoding in (TopK(kind="top-k", k=3), Sampled(kind="sampled", draws=4), Hard(kind="hard")):
        encoded, decoded = coded(encoding, exact)
        ids = encoded.get("ids", encoded.get("class"))
        assert ids is not None
        assert ids.dtype.name == kind
        assert np.allclose(np.exp(decoded.log_probabilities()).sum(axis=1), 1)
        if not isinstance(encoding, Sampled):
            assert decoded.top1().tolist() == exact.argmax(axis=1).tolist()


# --- low-rank, sampled, hard -------------------------------------------------------------------------------------


@given(seed=st.integers(0, 999))
@settings(max_examples=20)
def test_logits_of_rank_r_come_back(seed: int) -> None:
    rng = np.random.default_rng(seed)
    exact = (rng.normal(size=(40, 3)) @ rng.normal(size=(3, 11)) + rng.normal(size=11)).astype("f4")
    for dtype, error in (("float16", 5e-3), ("int8", 0.15)):
        encoding = LowRank.model_validate({"kind": "low-rank", "rank": 4, "dtype": dtype})
        _, decoded = coded(encoding, exact)
        centred = exact - exact.mean(axis=1, keepdims=True)
        assert np.abs(decoded.dense() - centred).max() < error * np.abs(centred).max()
    shifted = coded(LowRank(kind="low-rank", rank=4), exact + 100.0)[1].dense()
    assert np.abs(shifted - coded(LowRank(kind="low-rank", rank=4), exact)[1].dense()).max() < 0.2


def test_a_basis_is_the_same_from_either_side() -> None:
    """Fewer rows than classes go by the rows' products, more by those of the classes."""
    exact = some(0, 8, 20)
    few, many = fit_basis(exact, 3), fit_basis(np.concatenate([exact] * 4), 3)
    assert np.allclose(few.components, many.components, atol=1e-4)
    assert np.allclose(few.mean, many.mean, atol=1e-6)


def test_rows_that_are_all_alike_have_a_basis() -> None:
    exact = np.repeat(some(0, 1), 7, axis=0)
    _, decoded = coded(LowRank(kind="low-rank", rank=3), exact)
    assert np.allclose(decoded.dense(), exact - exact.mean(axis=1, keepdims=True), atol=1e-5)


def test_draws_belong_to_the_content_and_are_unbiased() -> None:
    exact = np.repeat(some(3, 1), 2000, axis=0)
    encoding = Sampled(kind="sampled", draws=20)
    one, other = coded(encoding, exact, seed=1)[0], coded(encoding, exact, seed=2)[0]
    assert not np.array_equal(one["kept"], other["kept"])
    backwards = coded(encoding, exact[::-1], seed=1)[0]
    assert np.array_equal(one["kept"], backwards["kept"])
    total = np.zeros(5)
    np.add.at(total, one["ids"], one["counts"] / 20 / 2000)
    p = np.exp(exact[0].astype("f8")) / np.exp(exact[0].astype("f8")).sum()
    assert (np.abs(total - p) <= 5 * np.sqrt(p * (1 - p) / 40_000)).all()
    assert coded(Sampled(kind="sampled", draws=20, seed=1), exact, seed=1)[0]["kept"].tolist() != one["kept"].tolist()


def test_hard_by_hand() -> None:
    encoded, decoded = coded(Hard(kind="hard"), np.log(np.array([[0.7, 0.2, 0.1], [0.25, 0.5, 0.25]], "f4")))
    assert encoded["class"].tolist() == [0, 1]
    assert encoded["confidence"].tolist() == pytest.approx([0.7, 0.5], rel=1e-3)
    assert np.exp(decoded.log_probabilities())[0].tolist() == pytest.approx([0.7, 0.15, 0.15], abs=1e-3)


@pytest.mark.parametrize(
    "value",
    [
        {"kind": "top-k", "k": 0},
        {"kind": "top-k", "mass": 0},
        {"kind": "top-k", "temperatures": []},
        {"kind": "top-k", "temperatures": [2, 1]},
        {"kind": "top-k", "temperatures": [1, 1]},
        {"kind": "sampled", "draws": 0},
        {"kind": "low-rank", "rank": 0},
        {"kind": "no-such"},
    ],
)
def test_settings_that_make_no_sense_are_refused(value: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        TypeAdapter(Encoding).validate_python(value)
