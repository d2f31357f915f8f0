"""Losses over sparse labels: against sums written out in float64, against the dense loss, and by finite differences."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from schemas.base import Part
from schemas.encodings import Encoding, Hard, Sampled, TopK
from schemas.errors import DataError, StoreError
from stages.labels.decoded import SparseLabels
from stages.labels.encodings import codec_of
from stages.random import counters
from stages.students.feed import _columns
from stages.students.methods import get_method
from stages.students.methods.base import SharedRows
from stages.students.sparse import sparse_divergence
from stages.students.teacher import DenseTeacher, SparseTeacher, teacher_rows

CPU = torch.device("cpu")
ROWS, CLASSES = 4, 7


def logits(seed: int, rows: int = ROWS, classes: int = CLASSES) -> np.ndarray:
    return (np.random.default_rng(seed).normal(size=(rows, classes)) * 3).astype("f4")


def teacher(encoding: Encoding, exact_BC: np.ndarray, columns: np.ndarray | None = None) -> SparseTeacher:
    codec = codec_of(encoding, exact_BC.shape[1])
    drawn = counters(np.random.default_rng(0).integers(0, 255, (len(exact_BC), 16)).astype("u1"))
    found = teacher_rows(codec.decode(codec.encode(exact_BC, drawn)), columns, CPU)
    assert isinstance(found, SparseTeacher)
    return found


ENCODINGS: dict[str, Encoding] = {
    "top-3": TopK(kind="top-k", k=3),
    "one step": TopK(kind="top-k", k=3, values="uint8"),
    "all": TopK(kind="top-k", k=CLASSES),
    "mass": TopK(kind="top-k", k=None, mass=0.8),
    "hard": Hard(kind="hard"),
}
TAUS = st.sampled_from([1.0, 1.5, 2.0, 4.0, 9.0])


def by_hand(student_BC: np.ndarray, labels: SparseLabels, tau: float, spread: bool) -> list[float]:
    """tau^2 KL of each row, with nothing but sums of exponentials in float64."""
    kept_BK, tail_B = (np.exp(part) for part in labels.target_log_probabilities(tau))
    losses = []
    for row, student in enumerate(student_BC.astype(np.float64)):
        powers = [math.exp(value / tau) for value in student]
        q = [power / sum(powers) for power in powers]
        ids = [int(item) for item in labels.ids[row] if item >= 0]
        rest = [item for item in range(len(q)) if item not in ids]
        pairs = [(float(p), q[item]) for p, item in zip(kept_BK[row], ids, strict=False)]
        if spread:
            pairs += [(float(tail_B[row]) / len(rest), q[item]) for item in rest]
        elif rest:
            pairs.append((float(tail_B[row]), sum(q[item] for item in rest)))
        losses.append(tau**2 * sum(p * (math.log(p) - math.log(q)) for p, q in pairs if p > 0))
    return losses


@pytest.mark.parametrize("spread", [False, True], ids=["bucket", "spread"])
@pytest.mark.parametrize("name", ENCODINGS)
@given(seed=st.integers(0, 999), tau=TAUS)
@settings(max_examples=25)
def test_the_loss_is_the_sum_written_out(name: str, spread: bool, seed: int, tau: float) -> None:
    exact, student = logits(seed), logits(seed + 1)
    rows = teacher(ENCODINGS[name], exact)
    found = sparse_divergence(torch.from_numpy(student).double(), rows, tau, spread)
    assert found.tolist() == pytest.approx(by_hand(student, rows.labels, tau, spread), rel=1e-9, abs=1e-9)


def numeric_gradient(loss: Callable[[torch.Tensor], torch.Tensor], at: torch.Tensor) -> torch.Tensor:
    """Central differences in float64."""
    gradient, step = torch.zeros_like(at), 1e-5
    for place in np.ndindex(*at.shape):
        ends = []
        for sign in (1, -1):
            moved = at.clone()
            moved[place] += sign * step
            ends.append(float(loss(moved)))
        gradient[place] = (ends[0] - ends[1]) / (2 * step)
    return gradient


@pytest.mark.parametrize("spread", [False, True], ids=["bucket", "spread"])
@pytest.mark.parametrize("name", ENCODINGS)
@pytest.mark.parametrize("tau", [1.0, 2.0, 3.0])
def test_the_gradient_in_float64(name: str, spread: bool, tau: float) -> None:
    rows, weights = teacher(ENCODINGS[name], logits(5)), torch.tensor([1.0, 0.5, 0.0, 2.0], dtype=torch.float64)
    at = torch.from_numpy(logits(6)).double().requires_grad_()

    def loss(student: torch.Tensor) -> torch.Tensor:
        return (sparse_divergence(student, rows, tau, spread) * weights).sum()

    (found,) = torch.autograd.grad(loss(at), at)
    assert torch.allclose(found, numeric_gradient(loss, at.detach()), atol=1e-7)
    assert torch.allclose(found.sum(dim=1), torch.zeros(ROWS, dtype=torch.float64), atol=1e-12)


@pytest.mark.parametrize("tail", ["bucket", "spread"])
@given(seed=st.integers(0, 999), tau=TAUS)
@settings(max_examples=20)
def test_every_class_kept_is_the_dense_loss(tail: str, seed: int, tau: float) -> None:
    exact = logits(seed).astype("f2").astype("f4")
    student, weights = torch.from_numpy(logits(seed + 1)), torch.ones(ROWS)
    soft = get_method(Part.model_validate({"name": "soft", "temperature": tau, "tail": tail}))
    sparse = soft.teacher_term(SharedRows(student, teacher(ENCODINGS["all"], exact), weights))
    dense = soft.teacher_term(SharedRows(student, DenseTeacher(torch.from_numpy(exact)), weights))
    assert float(sparse) == pytest.approx(float(dense), rel=1e-4, abs=1e-5)


def test_a_student_that_is_the_teacher_has_no_loss_and_no_gradient() -> None:
    exact = logits(1).astype("f2").astype("f4")
    at = torch.from_numpy(exact).requires_grad_()
    loss = sparse_divergence(at, teacher(ENCODINGS["top-3"], exact), 2.0, spread=False)
    assert loss.tolist() == pytest.approx([0.0] * ROWS, abs=1e-5)
    assert float(torch.autograd.grad(loss.sum(), at)[0].abs().max()) < 1e-5


@pytest.mark.parametrize("spread", [False, True])
def test_far_from_the_teacher_it_stays_finite_and_right(spread: bool) -> None:
    """A tail or kept classes whose mass float32 cannot hold."""
    exact = np.array([[0.0, 1.0, 2.0, 3.0], [3.0, 2.0, 1.0, 0.0]], "f4")
    rows = teacher(TopK(kind="top-k", k=2), exact)
    student = torch.tensor([[-90.0, -90.0, 90.0, 90.0], [-150.0, -150.0, 0.0, 0.0]])
    found = sparse_divergence(student, rows, 1.0, spread)
    assert found.tolist() == pytest.approx(sparse_divergence(student.double(), rows, 1.0, spread).tolist(), rel=1e-5)
    assert torch.isfinite(found).all()
    assert float(found[0]) > 5


def test_nothing_of_the_size_of_a_dense_target_is_made() -> None:
    """Tensors of rows x classes that the loss makes: the softmax alone, whose buffer becomes the gradient."""
    from torch.utils._python_dispatch import TorchDispatchMode

    made: list[str] = []

    class Watch(TorchDispatchMode):
        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            out = func(*args, **(kwargs or {}))
            if isinstance(out, torch.Tensor) and out.shape == (64, 999):
                made.append(str(func))
            return out

    rows = teacher(TopK(kind="top-k", k=8), logits(0, 64, 999))
    student = torch.from_numpy(logits(1, 64, 999)).requires_grad_()
    with Watch():  # type: ignore[no-untyped-call]
        torch.autograd.grad(sparse_divergence(student, rows, 1.0, spread=False).sum(), student)
    assert [name for name in made if not name.split(".")[1].endswith("_") and "detach" not in name] == [
        "aten._softmax.default"
    ]


def test_the_gradient_is_given_once() -> None:
    at = torch.from_numpy(logits(0)).requires_grad_()
    loss = sparse_divergence(at, teacher(ENCODINGS["top-3"], logits(1)), 1.0, spread=False).sum()
    loss.backward(retain_graph=True)
    with pytest.raises(RuntimeError, match="gives its gradient once"):
        loss.backward()


def test_half_precision_students_are_widened() -> None:
    at = torch.from_numpy(logits(0)).bfloat16().requires_grad_()
    soft = get_method(Part(name="soft"))
    term = soft.teacher_term(SharedRows(at, teacher(ENCODINGS["top-3"], logits(1)), torch.ones(ROWS)))
    assert term.dtype == torch.float32
    assert torch.autograd.grad(term, at)[0].dtype == torch.bfloat16


def test_sampled_labels_are_unbiased() -> None:
    """The mean gradient over 3,000 samples' draws is the dense one, within six standard errors."""
    exact = np.repeat(logits(3, 1), 3000, axis=0)
    at = torch.from_numpy(np.repeat(logits(4, 1), 3000, axis=0)).double().requires_grad_()
    rows = teacher(Sampled(kind="sampled", draws=50), exact)
    (found,) = torch.autograd.grad(sparse_divergence(at, rows, 1.0, spread=True).sum(), at)
    p = torch.softmax(torch.from_numpy(exact[0]).double(), 0)
    dense = torch.softmax(at[0].detach(), 0) - p
    error = 6 * (p * (1 - p) / (50 * 3000)).sqrt()
    assert bool(((found.mean(dim=0) - dense).abs() <= error).all())


def test_classes_in_another_order_are_remapped() -> None:
    exact, order = logits(2), np.array([3, 0, 6, 2, 5, 1, 4])
    theirs, ours = [f"c{item}" for item in range(CLASSES)], [f"c{item}" for item in order]
    columns = _columns(theirs, ours)
    for encoding in ENCODINGS.values():
        there, here = teacher(encoding, exact), teacher(encoding, exact, columns)
        assert torch.allclose(here.dense(2.0), there.dense(2.0)[:, order])
        assert [theirs[item] for item in there.top1()] == [ours[item] for item in here.top1()]
    assert _columns(theirs, theirs) is None
    with pytest.raises(DataError, match="1 stand on one side only|2 stand on one side only"):
        _columns(theirs, [*theirs[1:], "other"])


def test_temperatures_that_labels_do_not_hold() -> None:
    with pytest.raises(StoreError, match=r"temperature 0.5 lies below the smallest .* \(1, 2, 4\)"):
        sparse_divergence(torch.zeros(ROWS, CLASSES), teacher(ENCODINGS["top-3"], logits(0)), 0.5, spread=False)
    with pytest.raises(StoreError, match="drawn at 1: use that"):
        sparse_divergence(torch.zeros(ROWS, CLASSES), teacher(Sampled(kind="sampled"), logits(0)), 2.0, spread=False)
