"""Methods: values by hand, gradients in float64, shares of the loss, settings that are refused."""

from __future__ import annotations

import math

import pytest
import torch
from torch.autograd import gradcheck

from schemas.base import Part
from schemas.errors import SpecError
from stages.students.methods import METHODS, get_method, method_code
from stages.students.methods.base import LabelledRows, Method, SharedRows
from stages.students.teacher import DenseTeacher

STUDENT = [[0.0, 0.0], [2.0, 0.0], [5.0, 1.0]]
TEACHER = [[math.log(3.0), 0.0], [0.0, 0.0], [9.0, -9.0]]
WEIGHTS = [1.0, 1.0, 0.0]
"""The third row only fills up the batch."""


def method(name: str, **settings: object) -> Method:
    return get_method(Part.model_validate({"name": name, **settings}))


def shared(dtype: torch.dtype = torch.float32) -> SharedRows:
    return SharedRows(torch.tensor(STUDENT, dtype=dtype), DenseTeacher(torch.tensor(TEACHER)), torch.tensor(WEIGHTS))


def labelled() -> LabelledRows:
    return LabelledRows(torch.tensor([[0.0, 0.0], [2.0, 0.0]]), torch.tensor([1, 0]))


def softmax(row: list[float], tau: float) -> list[float]:
    powers = [math.exp(value / tau) for value in row]
    return [power / sum(powers) for power in powers]


@pytest.mark.parametrize("tau", [1.0, 2.0, 4.0])
def test_soft_by_hand(tau: float) -> None:
    kl = [
        sum(p * math.log(p / q) for p, q in zip(softmax(teacher, tau), softmax(student, tau), strict=True))
        for teacher, student in zip(TEACHER[:2], STUDENT[:2], strict=True)
    ]
    rows = shared()
    term = method("soft", temperature=tau).teacher_term(rows.student_BC, rows.teacher, rows.weights_B)
    assert float(term) == pytest.approx(tau**2 * sum(kl) / 2, rel=1e-6)


def test_soft_at_temperature_1_is_the_textbook_value() -> None:
    """KL((3/4, 1/4) || (1/2, 1/2)) = log 2 - H(3/4, 1/4)."""
    term = method("soft", temperature=1.0).teacher_term(
        torch.zeros(1, 2), DenseTeacher(torch.tensor([[math.log(3.0), 0.0]])), torch.ones(1)
    )
    assert float(term) == pytest.approx(0.75 * math.log(1.5) + 0.25 * math.log(0.5), rel=1e-6)


def test_hard_by_hand() -> None:
    """The teacher's argmax is class 0 in both rows; of equal logits the first counts."""
    rows = shared()
    term = method("hard").teacher_term(rows.student_BC, rows.teacher, rows.weights_B)
    expected = [-math.log(softmax(row, 1.0)[0]) for row in STUDENT[:2]]
    assert float(term) == pytest.approx(sum(expected) / 2, rel=1e-6)


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_truth_by_hand(smoothing: float) -> None:
    rows = labelled()
    term = method("none").truth_term(rows.student_LC, rows.truth_L, smoothing)
    expected = 0.0
    for row, truth in zip(rows.student_LC.tolist(), rows.truth_L.tolist(), strict=True):
        for number, q in enumerate(softmax(row, 1.0)):
            expected -= ((1 - smoothing) * (number == truth) + smoothing / 2) * math.log(q)
    assert float(term) == pytest.approx(expected / 2, rel=1e-6)


@pytest.mark.parametrize("name", ["soft", "hard"])
def test_shares_of_the_loss(name: str) -> None:
    teaching, rows, truth = method(name, alpha=0.3), shared(), labelled()
    teacher_term = float(teaching.teacher_term(rows.student_BC, rows.teacher, rows.weights_B))
    truth_term = float(teaching.truth_term(truth.student_LC, truth.truth_L, 0.1))
    both = float(teaching.loss(rows, truth, 0.1))
    assert both == pytest.approx(0.3 * teacher_term + 0.7 * truth_term, rel=1e-6)
    assert float(teaching.loss(rows, None, 0.1)) == pytest.approx(teacher_term), "budget 0: the teacher counts 1"
    assert float(teaching.loss(None, truth, 0.1)) == pytest.approx(truth_term), "no teacher: the truth counts 1"
    with pytest.raises(ValueError, match="no loss"):
        teaching.loss(None, None, 0.0)


@pytest.mark.parametrize("name", METHODS.names())
def test_gradients_in_float64(name: str) -> None:
    teaching = method(name)
    torch.manual_seed(0)
    student_BC = torch.randn(4, 5, dtype=torch.float64, requires_grad=True)
    student_LC = torch.randn(3, 5, dtype=torch.float64, requires_grad=True)
    teacher_BC, weights_B = torch.randn(4, 5, dtype=torch.float64), torch.tensor([1.0, 1.0, 1.0, 0.0])
    truth_L = torch.tensor([0, 4, 2])

    def whole(student_BC: torch.Tensor, student_LC: torch.Tensor) -> torch.Tensor:
        rows = SharedRows(student_BC, DenseTeacher(teacher_BC), weights_B) if teaching.needs_labels else None
        return teaching.loss(rows, LabelledRows(student_LC, truth_L), 0.1)

    assert gradcheck(whole, (student_BC, student_LC))
    whole(student_BC, student_LC).backward()
    if teaching.needs_labels:
        assert student_BC.grad is not None
        assert bool((student_BC.grad[3] == 0).all()), "a row of weight 0 teaches nothing"
        assert bool((student_BC.grad[:3] != 0).any())


@pytest.mark.parametrize("name", METHODS.names())
def test_a_method_lowers_its_own_loss(name: str) -> None:
    teaching = method(name)
    student = torch.nn.Parameter(torch.zeros(6, 4))
    torch.manual_seed(0)
    teacher_BC, truth_L = torch.randn(4, 4), torch.tensor([1, 2])
    optimizer = torch.optim.SGD([student], lr=0.5)
    losses = []
    for _ in range(20):
        rows = SharedRows(student[:4], DenseTeacher(teacher_BC), torch.ones(4)) if teaching.needs_labels else None
        loss = teaching.loss(rows, LabelledRows(student[4:], truth_L), 0.0)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < losses[0]


def test_losses_are_computed_in_float32() -> None:
    rows = shared(torch.bfloat16)
    term = method("soft").teacher_term(rows.student_BC, rows.teacher, rows.weights_B)
    assert term.dtype == torch.float32


@pytest.mark.parametrize(
    ("settings", "problem"),
    [
        ({"name": "soft", "temperature": 0.0}, "temperature"),
        ({"name": "soft", "alpha": 1.5}, "alpha"),
        ({"name": "hard", "temperature": 2.0}, "unknown field 'temperature'"),
        ({"name": "none", "alpha": 0.5}, "unknown field 'alpha'"),
        ({"name": "sotf"}, "did you mean 'soft'"),
    ],
)
def test_settings_that_are_refused(settings: dict[str, object], problem: str) -> None:
    with pytest.raises(SpecError, match=problem):
        get_method(Part.model_validate(settings))


def test_each_method_has_a_digest_of_its_own() -> None:
    digests = {value for name in METHODS.names() for value in method_code(Part(name=name)).values()}
    assert len(digests) == len(METHODS.names()) == 3
