"""Each method's value against sums written out in numpy, and what must hold of it whatever the numbers.

Shapes: B real rows, C classes, F features.
"""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from schemas.errors import SpecError
from stages.students.learners import Learners
from stages.students.methods.base import LabelledRows, Method, SharedRows
from stages.students.teacher import DenseTeacher
from tests.students.toy import CLASSES, ROWS, Toy, learners_of, method

SEEDS = st.integers(0, 999)
REAL = ROWS - 1
"""The last row only fills up the batch: no reference looks at it."""


def softmax(values: np.ndarray) -> np.ndarray:
    powers = np.exp(values - values.max(axis=-1, keepdims=True))
    return np.asarray(powers / powers.sum(axis=-1, keepdims=True))


def kl(p: np.ndarray, q: np.ndarray) -> np.ndarray:
    """KL(p || q) of each row."""
    return np.asarray((p * (np.log(p) - np.log(q))).sum(axis=-1))


def sides(toy: Toy) -> tuple[np.ndarray, np.ndarray]:
    """Logits of student and teacher, the real rows."""
    assert isinstance(toy.said, DenseTeacher)
    return toy.leaves["student_BC"].detach().numpy()[:REAL], toy.said.logits_BC.numpy()[:REAL]


def vectors(toy: Toy) -> tuple[np.ndarray, np.ndarray]:
    """Features of student and teacher, the real rows."""
    return toy.leaves["features_BF"].detach().numpy()[:REAL], toy.said.fields["features"].numpy()[:REAL]


def term(teaching: Method, toy: Toy, progress: float = 0.5) -> float:
    return teaching.teacher_term(toy.shared(teaching, progress)).item()


def new(seed: int) -> Toy:
    return Toy(torch.float64, seed)


# --- distributions -------------------------------------------------------------------------------------------


@given(SEEDS, st.sampled_from([1.0, 3.0]))
@settings(max_examples=20)
def test_margin_log(seed: int, tau: float) -> None:
    """-sum p log(max(q - m, floor)), as the field writes it."""
    toy = new(seed)
    z, t = sides(toy)
    q, p = softmax(z / tau), softmax(t / tau)
    expected = -(p * np.log(np.maximum(q - 0.15, 0.02))).sum(axis=1).mean()
    found = term(method("margin", margin=0.15, floor=0.02, temperature=tau), toy)
    assert found == pytest.approx(expected, rel=1e-12)


def test_a_class_below_the_margin_still_teaches() -> None:
    student = torch.tensor([[-4.0, 4.0]], dtype=torch.float64, requires_grad=True)
    teacher = DenseTeacher(torch.tensor([[9.0, -9.0]], dtype=torch.float64))
    teaching = method("margin", floor=0.5)
    loss = teaching.teacher_term(SharedRows(student, teacher, torch.ones(1)))
    assert loss.item() == pytest.approx(-math.log(0.5), rel=1e-6), "the value is that of the floor"
    loss.backward()
    q = softmax(student.detach().numpy())[0, 0]
    assert student.grad is not None
    assert student.grad[0].tolist() == pytest.approx([-q * (1 - q) / 0.5, q * (1 - q) / 0.5], rel=1e-4)


@given(SEEDS)
@settings(max_examples=20)
def test_margin_hinge(seed: int) -> None:
    toy = new(seed)
    z, t = sides(toy)
    q, best = softmax(z), t.argmax(axis=1)
    lead = [q[row, y] - max(np.delete(q[row], y)) for row, y in enumerate(best)]
    expected = np.maximum(0, 0.4 - np.array(lead)).mean()
    assert term(method("margin", form="hinge", margin=0.4), toy) == pytest.approx(expected)


@given(SEEDS, st.sampled_from([1.0, 4.0]))
@settings(max_examples=20)
def test_dkd(seed: int, tau: float) -> None:
    toy = new(seed)
    z, t = sides(toy)
    q, p, best = softmax(z / tau), softmax(t / tau), t.argmax(axis=1)
    losses = []
    for row, y in enumerate(best):
        b_T, b_S = (np.array([one[row, y], 1 - one[row, y]]) for one in (p, q))
        o_T, o_S = (np.delete(one[row], y) / (1 - one[row, y]) for one in (p, q))
        losses.append(tau**2 * (2.0 * kl(b_T, b_S) + 3.0 * kl(o_T, o_S)))
    found = term(method("dkd", temperature=tau, target=2.0, others=3.0), toy)
    assert found == pytest.approx(np.mean(losses), rel=1e-9)


def test_dkd_is_soft_labels_taken_apart() -> None:
    """KL = KL(b) + (1 - p_y) KL(o): the paper's equation 5, for a row of which p_y is known."""
    student, teacher = (
        torch.randn(1, 4, dtype=torch.float64),
        torch.tensor([[2.0, 0.0, 1.0, -1.0]], dtype=torch.float64),
    )
    rows = SharedRows(student, DenseTeacher(teacher), torch.ones(1))
    rest = 1.0 - torch.softmax(teacher, dim=1)[0, 0].item()
    apart = method("dkd", temperature=1.0, others=rest).teacher_term(rows).item()
    assert apart == pytest.approx(method("soft", temperature=1.0).teacher_term(rows).item(), rel=1e-9)


@given(SEEDS, st.sampled_from([1.0, 4.0]))
@settings(max_examples=20)
def test_dist(seed: int, tau: float) -> None:
    toy = new(seed)
    z, t = sides(toy)
    q, p = softmax(z / tau), softmax(t / tau)
    rows = [1 - np.corrcoef(q[row], p[row])[0, 1] for row in range(REAL)]
    columns = [1 - np.corrcoef(q[:, column], p[:, column])[0, 1] for column in range(CLASSES)]
    found = term(method("dist", temperature=tau, inter=2.0, intra=0.5), toy)
    assert found == pytest.approx(tau**2 * (2.0 * np.mean(rows) + 0.5 * np.mean(columns)), rel=1e-6, abs=1e-8)


@given(SEEDS)
@settings(max_examples=20)
def test_logit_standardisation(seed: int) -> None:
    toy = new(seed)
    q, p = (
        softmax((one - one.mean(axis=1, keepdims=True)) / np.sqrt(one.var(axis=1, keepdims=True) + 1e-5) / 3.0)
        for one in sides(toy)
    )
    assert term(method("logit-standardisation", temperature=3.0), toy) == pytest.approx(9.0 * kl(p, q).mean(), rel=1e-9)


def test_the_size_of_standardised_logits_does_not_count() -> None:
    teacher = 5 * torch.randn(3, 4)
    rows = SharedRows(0.7 * teacher + 2.0, DenseTeacher(teacher), torch.ones(3))
    assert method("logit-standardisation").teacher_term(rows).item() == pytest.approx(0.0, abs=1e-5)
    assert method("soft").teacher_term(rows).item() > 1e-3


# --- attention -----------------------------------------------------------------------------------------------


@given(SEEDS)
@settings(max_examples=20)
def test_adaptive_attention(seed: int) -> None:
    toy, tau = new(seed), 2.0
    z, t = (one - one.mean(axis=1, keepdims=True) for one in sides(toy))
    q, p = softmax(z / tau), softmax(t / tau)
    attention = CLASSES * softmax(7.0 * np.abs(p - q))
    assert attention.mean(axis=1) == pytest.approx(np.ones(REAL))
    expected = tau**2 * kl(p, softmax((t + attention * (z - t)) / tau)).mean()
    assert term(method("adaptive-attention", sharpness=7.0, temperature=tau), toy) == pytest.approx(expected, rel=1e-9)
    soft = term(method("soft", temperature=tau), toy)
    assert term(method("adaptive-attention", sharpness=0.0, temperature=tau), toy) == pytest.approx(soft, rel=1e-9)


@given(SEEDS)
@settings(max_examples=20)
def test_attention_transfer(seed: int) -> None:
    toy = new(seed)
    ours, theirs = ((np.abs(one) ** 3).mean(axis=1) for one in vectors(toy))
    expected = ((ours / np.linalg.norm(ours) - theirs / np.linalg.norm(theirs)) ** 2).sum() / 2
    assert term(method("attention-transfer", power=3.0), toy) == pytest.approx(expected, rel=1e-9)


@given(SEEDS)
@settings(max_examples=20)
def test_graph_attention(seed: int) -> None:
    toy, tau, neighbours = new(seed), 2.0, 2
    q, p = (softmax(one / tau) for one in sides(toy))
    h = np.concatenate([p, q], axis=1)
    h /= np.linalg.norm(h, axis=1, keepdims=True)
    attention = np.zeros((REAL, REAL))
    for row in range(REAL):
        near = [other for other in np.argsort(-h @ h[row]) if other != row][:neighbours]
        attention[row, near] = softmax(np.array([6.0 * h[row] @ h[other] for other in near]))
    got, losses = attention.sum(axis=0), kl(p, q)

    def cosine(values: np.ndarray, one: int, other: int) -> float:
        return float(values[one] @ values[other] / np.linalg.norm(values[one]) / np.linalg.norm(values[other]))

    edges = [
        sum(attention[row, other] * (cosine(q, row, other) - cosine(p, row, other)) ** 2 for other in range(REAL))
        for row in range(REAL)
    ]
    expected = tau**2 * (got * losses).sum() / got.sum() + 0.5 * np.mean(edges)
    found = term(method("graph-attention", neighbours=neighbours, sharpness=6.0, edges=0.5), toy)
    assert found == pytest.approx(expected, rel=1e-9)


def test_a_graph_of_one_row_is_soft_labels() -> None:
    rows = SharedRows(torch.randn(2, 3), DenseTeacher(torch.randn(2, 3)), torch.tensor([0.0, 1.0]))
    found, soft = (method(name).teacher_term(rows).item() for name in ("graph-attention", "soft"))
    assert found == pytest.approx(soft, rel=1e-6)


# --- relations and features ----------------------------------------------------------------------------------


def huber(one: np.ndarray, other: np.ndarray) -> float:
    apart = np.abs(one - other)
    return float(np.where(apart < 1, apart**2 / 2, apart - 0.5).mean())


@given(SEEDS, st.sampled_from(["outputs", "features"]))
@settings(max_examples=20)
def test_relational(seed: int, of: str) -> None:
    toy = new(seed)
    points = vectors(toy) if of == "features" else tuple(one - one.mean(axis=1, keepdims=True) for one in sides(toy))
    distances, angles = [], []
    for one in points:
        pairs = [np.linalg.norm(one[i] - one[j]) for i, j in itertools.permutations(range(REAL), 2)]
        distances.append(np.array(pairs) / np.mean(pairs))
        corners = []
        for i, j, k in itertools.permutations(range(REAL), 3):
            left, right = one[i] - one[j], one[k] - one[j]
            corners.append(left @ right / np.linalg.norm(left) / np.linalg.norm(right))
        angles.append(np.array(corners))
    expected = 2.0 * huber(*distances) + 3.0 * huber(*angles)
    assert term(method("relational", of=of, distance=2.0, angle=3.0), toy) == pytest.approx(expected, rel=1e-6)


def test_relations_do_not_see_where_points_lie() -> None:
    """Moved, turned, grown, and up to a constant a row: the same distances and angles."""
    teacher = torch.randn(5, 4, dtype=torch.float64)
    turn = torch.linalg.qr(torch.randn(4, 4, dtype=torch.float64)).Q
    centred = teacher - teacher.mean(dim=1, keepdim=True)
    turn_within = torch.eye(4, dtype=torch.float64) - 0.5  # mirrors, and keeps rows whose mean is 0 so
    rows = SharedRows(3 * centred @ turn_within + 7.0, DenseTeacher(teacher), torch.ones(5))
    assert torch.allclose(turn @ turn.T, torch.eye(4, dtype=torch.float64))
    assert method("relational").teacher_term(rows).item() == pytest.approx(0.0, abs=1e-9)


def test_a_sample_that_comes_twice_has_no_angle_to_itself() -> None:
    """Rounding would make any number of it."""
    student, teacher = torch.randn(6, 50) * 30, torch.randn(6, 50) * 30
    student[1] = student[0]
    teacher[1] = teacher[0]
    rows = SharedRows(student.requires_grad_(), DenseTeacher(teacher), torch.ones(6))
    loss = method("relational").teacher_term(rows)
    wide = SharedRows(student.detach().double(), DenseTeacher(teacher.double()), torch.ones(6))
    assert loss.item() == pytest.approx(method("relational").teacher_term(wide).item(), rel=1e-3)
    (gradient,) = torch.autograd.grad(loss, student)
    assert gradient.abs().max().item() < 10


@pytest.mark.parametrize("name", ["relational", "dist", "crd", "graph-attention", "attention-transfer"])
@pytest.mark.parametrize("real", [1, 2])
def test_a_batch_too_small_for_relations_has_a_loss_all_the_same(name: str, real: int) -> None:
    toy, teaching = Toy(), method(name)
    learners_of(teaching)
    toy.weights_B = torch.tensor([1.0] * real + [0.0] * (ROWS - real))
    loss = toy.loss(teaching)
    loss.backward()
    assert math.isfinite(loss.item())
    assert all(leaf.grad is None or bool(torch.isfinite(leaf.grad).all()) for leaf in toy.leaves.values())


def trained(teaching: Method) -> dict[str, Any]:
    """What a method trains itself, in float64."""
    tensors, _ = learners_of(teaching, torch.float64).pack()
    return {name: value.numpy() for name, value in tensors.items()}


@pytest.mark.parametrize("distance", ["squared", "cosine"])
def test_features(distance: str) -> None:
    toy, teaching = new(1), method("features", distance=distance)
    own = trained(teaching)
    s, t = vectors(toy)
    mapped = s @ own["projection.module.weight"].T + own["projection.module.bias"]
    squared = ((mapped - t) ** 2).sum(axis=1) / (2 * t.shape[1])
    cosine = 1 - (mapped * t).sum(axis=1) / np.linalg.norm(mapped, axis=1) / np.linalg.norm(t, axis=1)
    assert term(teaching, toy) == pytest.approx((squared if distance == "squared" else cosine).mean(), rel=1e-9)


def test_crd() -> None:
    toy, teaching = new(2), method("crd", width=6, temperature=0.3)
    own = trained(teaching)
    s, t = (
        one @ own[f"embeddings.module.{side}.weight"].T + own[f"embeddings.module.{side}.bias"]
        for one, side in zip(vectors(toy), ("student", "teacher"), strict=True)
    )
    s, t = (one / np.linalg.norm(one, axis=1, keepdims=True) for one in (s, t))
    losses = []
    for row in range(REAL):
        forth, back = softmax(t @ s[row] / 0.3), softmax(s @ t[row] / 0.3)
        losses.append(-(math.log(forth[row]) + math.log(back[row])) / 2)
    assert term(teaching, toy) == pytest.approx(np.mean(losses), rel=1e-9)


# --- which rows count ----------------------------------------------------------------------------------------


def difficulty(t: np.ndarray, measure: str) -> np.ndarray:
    p = softmax(t)
    if measure == "entropy":
        return np.asarray(-(p * np.log(p)).sum(axis=1) / math.log(CLASSES))
    two = np.sort(p, axis=1)[:, -2:]
    return np.asarray(1 - (two[:, 1] - two[:, 0]))


@pytest.mark.parametrize("measure", ["entropy", "margin"])
@pytest.mark.parametrize("select", ["share", "threshold", "weight", "curriculum"])
@given(seed=SEEDS)
@settings(max_examples=10)
def test_hard_examples(measure: str, select: str, seed: int) -> None:
    toy = new(seed)
    z, t = sides(toy)
    losses, hard = 4.0 * kl(softmax(t / 2), softmax(z / 2)), difficulty(t, measure)
    order = np.argsort(hard)
    every: dict[str, np.ndarray] = {
        "share": np.isin(np.arange(REAL), order[-2:]),  # 0.4 of 5 rows
        "threshold": hard >= 0.5,
        "weight": (hard + 1e-6) ** 2,
        "curriculum": np.isin(np.arange(REAL), order[:4]),  # 0.4 + 0.6 / 2 of 5 rows, rounded up
    }
    weights = every[select].astype(np.float64)
    found = term(method("hard-examples", measure=measure, select=select, share=0.4, threshold=0.5, power=2.0), toy)
    assert found == pytest.approx((losses * weights).sum() / max(weights.sum(), 1e-12), rel=1e-6, abs=1e-12)


def test_a_curriculum_ends_with_all_rows_and_is_soft_labels_then() -> None:
    toy, teaching = new(3), method("hard-examples", select="curriculum", share=0.2)
    z, t = sides(toy)
    easiest = difficulty(t, "entropy").argmin()
    first = term(teaching, toy, progress=0.0)
    assert first == pytest.approx(4.0 * kl(softmax(t[easiest] / 2), softmax(z[easiest] / 2)), rel=1e-9)
    assert term(teaching, toy, progress=1.0) == pytest.approx(term(method("soft"), toy), rel=1e-9)


@pytest.mark.parametrize("measure", ["entropy", "margin"])
def test_a_stored_measure_is_read_as_it_stands(measure: str) -> None:
    toy = new(4)
    teaching = method("hard-examples", measure=measure, stored=True, select="weight")
    assert teaching.needs.fields == {measure}
    z, t = sides(toy)
    stored = toy.said.fields[measure].numpy()[:REAL]
    hard = stored / math.log(CLASSES) if measure == "entropy" else 1 - stored
    losses = 4.0 * kl(softmax(t / 2), softmax(z / 2))
    assert term(teaching, toy) == pytest.approx(((hard + 1e-6) * losses).sum() / (hard + 1e-6).sum(), rel=1e-6)


def test_the_teachers_loss_counts_where_truth_may_be_seen() -> None:
    """The labelled row that the teacher has wrong is the only one left of three; shared rows all count alike."""
    toy, teaching = new(5), method("hard-examples", measure="loss", share=0.3)
    assert teaching.needs.labelled
    assert term(teaching, toy) == pytest.approx(term(method("soft"), toy), rel=1e-12)
    truth, student = torch.tensor([0, 1, 2]), torch.randn(3, CLASSES, dtype=torch.float64)
    said = 4.0 * torch.eye(CLASSES, dtype=torch.float64)[[0, 3, 2]]
    found = teaching.truth_term(LabelledRows(student, truth, DenseTeacher(said)), 0.0).item()
    assert found == pytest.approx(-math.log(softmax(student.numpy())[1, 1]), rel=1e-9)


@given(SEEDS, st.sampled_from([0.5, 1.0, 2.0]), st.sampled_from([0.0, 0.5, 1.0]), st.sampled_from([0.0, 1.0, 2.0]))
@settings(max_examples=20)
def test_consistency(seed: int, tau: float, threshold: float, power: float) -> None:
    """The mean over views, sharpened or softened, by the share of views that vote for its first class."""
    toy = new(seed)
    views, (z, _) = softmax(toy.said.fields["views"].numpy()[:REAL]), sides(toy)
    mean = views.mean(axis=1)
    target = mean ** (1 / tau) / (mean ** (1 / tau)).sum(axis=1, keepdims=True)
    agreement = np.array(
        [np.mean([view.argmax() == own.argmax() for view in of]) for of, own in zip(views, mean, strict=True)]
    )
    counted = (agreement >= threshold) * agreement**power
    expected = (tau**2 * kl(target, softmax(z / tau)) * counted).sum() / REAL
    teaching = method("consistency", temperature=tau, threshold=threshold, power=power)
    assert term(teaching, toy) == pytest.approx(expected, rel=1e-9, abs=1e-12)


def test_views_are_calibrated_with_their_labels() -> None:
    toy = new(3)
    softer = toy.said.calibrated(2.0).fields
    assert torch.equal(softer["views"], toy.said.fields["views"] / 2.0)
    assert torch.equal(softer["features"], toy.said.fields["features"])


def test_confident_labels() -> None:
    toy = new(6)
    z, t = sides(toy)
    p, best = softmax(t), t.argmax(axis=1)
    sure = p.max(axis=1) >= 0.9
    assert 0 < sure.sum() < REAL
    hard = -np.log(softmax(z)[np.arange(REAL), best])
    assert term(method("confident", threshold=0.9), toy) == pytest.approx((hard * sure).sum() / REAL, rel=1e-9)
    soft = 4.0 * kl(softmax(t / 2), softmax(z / 2))
    found = term(method("confident", threshold=0.9, target="soft"), toy)
    assert found == pytest.approx((soft * sure).sum() / REAL, rel=1e-9)


def test_rare_classes_count_more_once_they_were_seen_to_be_rare() -> None:
    teaching = method("confident", threshold=0.0, balance=1.0)
    learners = learners_of(teaching)
    logits = torch.zeros(4, CLASSES)
    teacher = DenseTeacher(9 * torch.eye(CLASSES)[[0, 0, 0, 1]])
    rows = SharedRows(logits, teacher, torch.ones(4))
    first = teaching.teacher_term(rows).item()
    assert first == pytest.approx(math.log(CLASSES)), "all classes are alike at first"
    for _ in range(600):
        teaching.teacher_term(rows)
    frequency = learners.pack()[0]["classes.module.frequency_C"]
    assert frequency.tolist() == pytest.approx([0.75, 0.25, 0.0, 0.0, 0.0], abs=2e-3)
    weights = (0.2 / frequency[[0, 0, 0, 1]].clamp(min=2e-4)).numpy()
    assert teaching.teacher_term(rows).item() == pytest.approx(math.log(CLASSES) * weights.mean(), rel=1e-3)
    assert weights[3] / weights[0] == pytest.approx(3.0, rel=0.02)


# --- games ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("settings", [{}, {"stability": "gradient-penalty"}, {"generator": 8}, {"of": "features"}])
def test_each_player_learns_from_its_own_loss(settings: dict[str, Any]) -> None:
    toy, teaching = new(7), method("adversarial", **settings)
    learners_of(teaching, torch.float64, train=False)
    judge = teaching._discriminator  # type: ignore[attr-defined]
    rows = toy.shared(teaching)
    if settings.get("of") == "features":
        s, t = teaching._generator(rows.features_BF), rows.teacher.fields["features"]  # type: ignore[attr-defined]
    else:
        s = torch.softmax(teaching._generator(rows.student_BC) / 2, dim=1)  # type: ignore[attr-defined]
        t = torch.softmax(rows.teacher.dense() / 2, dim=1)
    s, t = s[:REAL], t[:REAL]
    torch.manual_seed(1)
    loss = teaching.teacher_term(rows)
    assert loss.item() == pytest.approx(-judge(s).mean().item(), rel=1e-9)
    taught = toy.leaves["features_BF" if settings.get("of") == "features" else "student_BC"]
    (ours,) = torch.autograd.grad(-judge(s).mean(), taught, retain_graph=True)
    torch.manual_seed(1)
    if "stability" in settings:
        share = torch.rand(REAL, 1, dtype=torch.float64)
        between = (share * t + (1 - share) * s).detach().requires_grad_()
        (slope,) = torch.autograd.grad(judge(between).sum(), between, create_graph=True)
        own = judge(s.detach()).mean() - judge(t).mean() + 10 * (slope.norm(dim=1) - 1).square().mean()
    else:
        own = torch.relu(1 - judge(t)).mean() + torch.relu(1 + judge(s.detach())).mean()
    theirs = torch.autograd.grad(own, list(judge.parameters()))
    loss.backward()
    assert taught.grad is not None
    assert torch.allclose(taught.grad, ours)
    for weight, wanted in zip(judge.parameters(), theirs, strict=True):
        assert weight.grad is not None
        assert torch.allclose(weight.grad, wanted, atol=1e-9)


def test_spectral_norm_bounds_the_discriminator() -> None:
    teaching = method("adversarial")
    learners_of(teaching)
    judge = teaching._discriminator  # type: ignore[attr-defined]
    for _ in range(50):
        judge(torch.rand(4, CLASSES))
    largest = [torch.linalg.svdvals(part.weight)[0].item() for part in judge if isinstance(part, nn.Linear)]
    assert largest == pytest.approx([1.0] * 3, rel=1e-3)


@pytest.mark.parametrize("stability", ["spectral-norm", "gradient-penalty"])
def test_the_student_comes_to_pass_for_the_teacher(stability: str) -> None:
    """The mean output of its batch comes near to the teacher's, against a discriminator that learns too."""
    teacher = DenseTeacher(3 * torch.eye(CLASSES)[[0, 0, 0, 1, 1, 2]])
    toy = Toy(teacher=teacher)
    toy.weights_B = torch.ones(ROWS)
    teaching = method("adversarial", stability=stability, temperature=1.0, learning_rate=0.01)
    learners = learners_of(teaching)
    student = toy.leaves["student_BC"]
    optimizer = torch.optim.Adam([student], lr=0.02)

    def apart() -> float:
        p, q = torch.softmax(teacher.logits_BC, dim=1).mean(dim=0), torch.softmax(student.detach(), dim=1).mean(dim=0)
        return (p - q).abs().sum().item()

    before = apart()
    for _ in range(300):
        optimizer.zero_grad()
        learners.zero_grad()
        teaching.teacher_term(toy.shared(teaching)).backward()
        optimizer.step()
        learners.step(0.02)
    assert apart() < before / 2


class Reversed(torch.autograd.Function):
    """The gradient reversal layer, as the paper has it."""

    @staticmethod
    def forward(ctx: Any, values: torch.Tensor, share: float) -> torch.Tensor:
        ctx.share = share
        return values.clone()

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> Any:
        return -ctx.share * grads[0], None


@pytest.mark.parametrize("progress", [0.0, 0.1, 1.0])
def test_domain_adversarial_has_the_gradients_of_a_reversal_layer(progress: float) -> None:
    toy, teaching = new(8), method("domain-adversarial", strength=1.5)
    learners_of(teaching, torch.float64)
    judge = teaching._discriminator  # type: ignore[attr-defined]
    teaching.teacher_term(toy.shared(teaching, progress)).backward()
    share = 1.5 * (2 / (1 + math.exp(-10 * progress)) - 1)
    source, target = (toy.leaves[name].detach().clone().requires_grad_() for name in ("features_SF", "features_BF"))
    scores = judge(torch.cat([Reversed.apply(source, share), Reversed.apply(target[:REAL], share)]))
    truth = torch.tensor([1.0] * ROWS + [0.0] * REAL, dtype=torch.float64)
    bce = nn.functional.binary_cross_entropy_with_logits(scores, truth, reduction="none")
    reference = (bce[:ROWS].mean() + bce[ROWS:].mean()) / 2
    wanted = torch.autograd.grad(reference, [source, target, *judge.parameters()])
    found = [leaf.grad for leaf in (toy.leaves["features_SF"], toy.leaves["features_BF"], *judge.parameters())]
    for ours, theirs in zip(found, wanted, strict=True):
        assert ours is not None
        assert torch.allclose(ours, theirs, atol=1e-12)


def test_domains_that_differ_become_alike() -> None:
    """Two clouds of features, 2 apart: the student brings them together, though the discriminator learns too."""
    toy, teaching = Toy(seed=1), method("domain-adversarial", learning_rate=0.01)
    source, target = toy.leaves["features_SF"], toy.leaves["features_BF"]
    toy.weights_B = torch.ones(ROWS)
    with torch.no_grad():
        target += 2.0
    learners = learners_of(teaching)
    optimizer = torch.optim.Adam([source, target], lr=0.02)
    before = (source.mean(dim=0) - target.mean(dim=0)).norm().item()
    for _ in range(300):
        optimizer.zero_grad()
        learners.zero_grad()
        teaching.teacher_term(toy.shared(teaching)).backward()
        optimizer.step()
        learners.step(0.02)
    assert (source.mean(dim=0) - target.mean(dim=0)).norm().item() < before / 3


def test_what_a_game_trains_is_packed_whole() -> None:
    """Weights, the running vectors of spectral norm, and both optimisers: from there the game goes on to the bit."""
    settings = {"generator": 4}

    def played(learners: Learners, teaching: Method, toy: Toy, steps: int) -> list[torch.Tensor]:
        for number in range(steps):
            torch.manual_seed(number)
            learners.zero_grad()
            teaching.teacher_term(toy.shared(teaching)).backward()
            learners.step(0.01)
        return list(learners.pack()[0].values())

    teaching, toy = method("adversarial", **settings), Toy()
    learners = learners_of(teaching)
    played(learners, teaching, toy, 3)
    tensors, meta = learners.pack()
    kept = {name: value.clone() for name, value in tensors.items()}
    assert any("_u" in name for name in kept)
    assert any("exp_avg" in name for name in kept)
    wanted = played(learners, teaching, toy, 4)
    again = method("adversarial", **settings)
    restored = learners_of(again, seed=9)
    restored.unpack(kept, meta)
    for ours, theirs in zip(played(restored, again, toy, 4), wanted, strict=True):
        assert torch.equal(ours, theirs)


# --- mutual learning, adaptive share --------------------------------------------------------------------------


def peers_of(teaching: Method) -> list[nn.Module]:
    found: list[nn.Module] = getattr(teaching, "_peers")  # noqa: B009 (only this method has them)
    return found


@given(SEEDS, st.sampled_from([1.0, 2.0]))
@settings(max_examples=10)
def test_mutual_is_everybodys_loss_against_teacher_and_others(seed: int, tau: float) -> None:
    toy, teaching = new(seed), method("mutual", temperature=tau, weight=0.5)
    learners_of(teaching, torch.float64)
    z, t = sides(toy)
    peers = [peer(toy.inputs_B).detach().numpy()[:REAL] for peer in peers_of(teaching)]
    answers = [softmax(values / tau) for values in (z, *peers)]
    said = softmax(t / tau)
    expected = 0.0
    for own, q in enumerate(answers):
        others = [p for number, p in enumerate(answers) if number != own]
        expected += tau**2 * (kl(said, q) + 0.5 * np.mean([kl(p, q) for p in others], axis=0)).mean()
    assert term(teaching, toy) == pytest.approx(expected, rel=1e-9)
    truth = toy.labelled(teaching)
    logits = [toy.leaves["student_LC"], *(peer(toy.inputs_L) for peer in peers_of(teaching))]
    wanted = sum(torch.nn.functional.cross_entropy(one.detach(), toy.truth_L).item() for one in logits)
    assert float(teaching.truth_term(truth, 0.0).detach()) == pytest.approx(wanted, rel=1e-9)


def test_others_answers_are_constants_in_mutual_learning() -> None:
    """The student's gradient is that of its own two terms; each peer has its own."""
    toy, teaching = new(3), method("mutual", temperature=1.0)
    learners_of(teaching, torch.float64)
    teaching.teacher_term(toy.shared(teaching)).backward()
    z, t = sides(toy)
    q = softmax(z)
    others = [softmax(peer(toy.inputs_B).detach().numpy()[:REAL]) for peer in peers_of(teaching)]
    grad = toy.leaves["student_BC"].grad
    assert grad is not None
    expected = ((q - softmax(t)) + np.mean([q - p for p in others], axis=0)) / REAL
    assert grad.numpy()[:REAL] == pytest.approx(expected, abs=1e-12)
    weights = [weight for peer in peers_of(teaching) for weight in peer.parameters()]
    assert all(weight.grad is not None and bool(weight.grad.abs().sum() > 0) for weight in weights)


def test_the_teachers_share_follows_the_gap() -> None:
    teaching = method("adaptive", alpha=0.5, rate=2.0, low=0.2, high=0.9)
    learners_of(teaching)
    told = [(0.7, 0.8), (0.8, 0.8), (0.9, 0.8), (0.2, 0.8), (0.99, 0.5)]
    shares = []
    for student, teacher in told:
        teaching.end_epoch(student, teacher)
        shares.append(teaching.alpha)
    assert shares == pytest.approx([0.7, 0.7, 0.5, 0.9, 0.2])
    assert method("adaptive", alpha=0.5).alpha == 0.5
    with pytest.raises(SpecError, match="`alpha` begins between"):
        method("adaptive", alpha=0.99)
