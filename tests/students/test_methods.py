"""Methods: values by hand, gradients in float64, shares of the loss, settings that are refused."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from torch.autograd import gradcheck

from schemas.base import Part
from schemas.encodings import Dense, Encoding, TopK
from schemas.errors import SpecError, StoreError
from schemas.spec import Student
from stages.students.methods import METHODS, get_method, method_code
from stages.students.methods.base import LabelledRows, Needs, SharedRows
from stages.students.teacher import DenseTeacher
from tests.students.toy import EXAMPLES, GAMES, Toy, held, learners_of, method

STUDENT = [[0.0, 0.0], [2.0, 0.0], [5.0, 1.0]]
TEACHER = [[math.log(3.0), 0.0], [0.0, 0.0], [9.0, -9.0]]
WEIGHTS = [1.0, 1.0, 0.0]
"""The third row only fills up the batch."""


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
    term = method("soft", temperature=tau).teacher_term(rows)
    assert float(term) == pytest.approx(tau**2 * sum(kl) / 2, rel=1e-6)


def test_soft_at_temperature_1_is_the_textbook_value() -> None:
    """KL((3/4, 1/4) || (1/2, 1/2)) = log 2 - H(3/4, 1/4)."""
    teacher = DenseTeacher(torch.tensor([[math.log(3.0), 0.0]]))
    term = method("soft", temperature=1.0).teacher_term(SharedRows(torch.zeros(1, 2), teacher, torch.ones(1)))
    assert float(term) == pytest.approx(0.75 * math.log(1.5) + 0.25 * math.log(0.5), rel=1e-6)


def test_sequence_by_hand() -> None:
    """What was said is the target, also where another class is likelier."""
    rows = replace(shared(), teacher=DenseTeacher(torch.tensor(TEACHER), {"said": torch.tensor([1.0, 0.0, 1.0])}))
    term = method("sequence").teacher_term(rows)
    assert float(term) == pytest.approx((math.log(2.0) - math.log(softmax(STUDENT[1], 1.0)[0])) / 2, rel=1e-6)


def test_hard_by_hand() -> None:
    """The teacher's argmax is class 0 in both rows; of equal logits the first counts."""
    rows = shared()
    term = method("hard").teacher_term(rows)
    expected = [-math.log(softmax(row, 1.0)[0]) for row in STUDENT[:2]]
    assert float(term) == pytest.approx(sum(expected) / 2, rel=1e-6)


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_truth_by_hand(smoothing: float) -> None:
    rows = labelled()
    term = method("none").truth_term(rows, smoothing)
    expected = 0.0
    for row, truth in zip(rows.student_LC.tolist(), rows.truth_L.tolist(), strict=True):
        for number, q in enumerate(softmax(row, 1.0)):
            expected -= ((1 - smoothing) * (number == truth) + smoothing / 2) * math.log(q)
    assert float(term) == pytest.approx(expected / 2, rel=1e-6)


@pytest.mark.parametrize("name", ["soft", "hard"])
def test_shares_of_the_loss(name: str) -> None:
    teaching, rows, truth = method(name, alpha=0.3), shared(), labelled()
    teacher_term = float(teaching.teacher_term(rows))
    truth_term = float(teaching.truth_term(truth, 0.1))
    both = float(teaching.loss(rows, truth, 0.1))
    assert both == pytest.approx(0.3 * teacher_term + 0.7 * truth_term, rel=1e-6)
    assert float(teaching.loss(rows, None, 0.1)) == pytest.approx(teacher_term), "budget 0: the teacher counts 1"
    assert float(teaching.loss(None, truth, 0.1)) == pytest.approx(truth_term), "no teacher: the truth counts 1"
    with pytest.raises(ValueError, match="no loss"):
        teaching.loss(None, None, 0.0)


@pytest.mark.parametrize("name", METHODS.names())
def test_gradients_in_float64(name: str) -> None:
    teaching, toy = method(name), Toy(torch.float64)
    learners_of(teaching, torch.float64, train=False)
    leaves, constants = toy.leaves, list[torch.Tensor]()

    def whole(*values: torch.Tensor) -> torch.Tensor:
        with held(constants):
            return toy.loss(teaching, 0.1, **dict(zip(leaves, values, strict=True)))

    assert gradcheck(whole, tuple(leaves.values()))
    toy.loss(teaching, 0.1).backward()
    for leaf in (leaves["student_BC"], leaves["features_BF"]) if teaching.needs.labels else ():
        assert leaf.grad is None or bool((leaf.grad[-1] == 0).all()), "a row of weight 0 teaches nothing"
    taught = [leaf for leaf in leaves.values() if leaf.grad is not None and bool((leaf.grad != 0).any())]
    assert len(taught) >= 1 + teaching.needs.labels


@pytest.mark.parametrize("name", METHODS.names())
def test_a_method_lowers_its_own_loss(name: str) -> None:
    teaching, toy = method(name), Toy()
    learners, losses = learners_of(teaching), []
    optimizer = torch.optim.SGD(toy.leaves.values(), lr=0.3)
    for _ in range(30):
        loss = toy.loss(teaching)
        optimizer.zero_grad()
        learners.zero_grad()
        loss.backward()
        optimizer.step()
        if name not in GAMES:
            learners.step(0.05)
        losses.append(loss.item())
    assert losses[-1] < losses[0]


def test_losses_are_computed_in_float32() -> None:
    rows = shared(torch.bfloat16)
    term = method("soft").teacher_term(rows)
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
    parts = [Part.model_validate({"name": name, **EXAMPLES.get(name, {})}) for name in METHODS.names()]
    digests = {value for part in parts for value in method_code(part).values()}
    assert len(digests) == len(METHODS.names())


# --- several at once -----------------------------------------------------------------------------------------


def test_a_list_in_the_spec_is_their_weighted_sum() -> None:
    parts = [{"name": "soft", "weight": 0.7, "temperature": 3.0}, "hard"]
    student = Student.model_validate({"model": "m", "labels": "l", "method": parts})
    assert student.method == Part.model_validate({"name": "combined", "parts": parts})
    normal = METHODS.normal(student.method, "students.s.method")
    assert normal.settings["parts"][0] == {
        "name": "soft",
        "weight": 0.7,
        "alpha": 0.7,
        "temperature": 3.0,
        "tail": "bucket",
    }
    teaching, toy = get_method(normal), Toy()
    soft, hard = (toy.loss(one, 0.1).item() for one in (method("soft", temperature=3.0), method("hard")))
    assert toy.loss(teaching, 0.1).item() == pytest.approx(0.7 * soft + hard, rel=1e-6)
    assert teaching.alpha == pytest.approx(0.7)
    assert teaching.needs.temperatures == (3.0,)
    assert method_code(normal) == {
        **method_code(Part(name="soft")),
        **method_code(Part(name="hard")),
        "method combined": method_code(normal)["method combined"],
    }


def test_cross_entropy_and_a_teacher_are_a_plain_case() -> None:
    """a * cross-entropy + (1 - a) * teacher."""
    toy = Toy()
    both = method("combined", parts=[{"name": "none", "weight": 0.3}, {"name": "soft", "alpha": 1.0, "weight": 0.7}])
    truth, soft = toy.loss(method("none")), method("soft").teacher_term(toy.shared(method("soft")))
    assert toy.loss(both).item() == pytest.approx(0.3 * truth.item() + 0.7 * soft.item(), rel=1e-6)
    assert both.loss(toy.shared(both), None, 0.0).item() == pytest.approx(0.7 * soft.item(), rel=1e-6), "no truth"


def test_parts_are_checked_each() -> None:
    parts = [{"name": "soft", "temprature": 2}, {"name": "hrad"}, {"name": "hard", "weight": 0}]
    with pytest.raises(SpecError, match="(?s)weight.*greater than 0"):
        method("combined", parts=parts)
    with pytest.raises(SpecError, match="did you mean 'temperature'.*did you mean 'hard'"):
        method("combined", parts=parts[:2])
    with pytest.raises(SpecError, match="at least 1"):
        method("combined", parts=[])


# --- what a method needs -------------------------------------------------------------------------------------


def test_needs_add_up() -> None:
    needs = method("combined", parts=["hard", "features"]).needs
    assert needs.fields == {"features"}
    assert needs.features
    assert needs.labels
    narrow = Needs(encodings=frozenset({"dense"})) | Needs(encodings=frozenset({"dense", "top-k"}), source=True)
    assert narrow == Needs(encodings=frozenset({"dense"}), source=True)


@pytest.mark.parametrize(
    ("needs", "encoding", "problem"),
    [
        (
            Needs(fields=frozenset({"features"})),
            Dense(),
            "reads `features` of the labels.*label with `features: float16`",
        ),
        (Needs(fields=frozenset({"margin"})), Dense(), r"difficulty: \[margin\]"),
        (
            Needs(encodings=frozenset({"dense", "low-rank"})),
            TopK(kind="top-k"),
            "cannot learn from top-k.*dense, low-rank",
        ),
        (Needs(temperatures=(0.5,)), TopK(kind="top-k"), "temperature 0.5 lies below"),
    ],
)
def test_labels_that_do_not_do_are_refused(needs: Needs, encoding: Encoding, problem: str) -> None:
    with pytest.raises(StoreError, match=problem):
        needs.check_labels(encoding, ())
    Needs().check_labels(encoding, ())
    Needs(fields=needs.fields).check_labels(encoding, ("features", "margin", "logits"))
