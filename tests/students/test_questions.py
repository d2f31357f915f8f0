"""Methods where several questions are asked of a sample: each learns its own part, and answers that are given."""

from __future__ import annotations

import math
from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from schemas.base import Part
from schemas.encodings import Dense, LowRank, TopK
from schemas.errors import StoreError
from schemas.labels import FEATURES, VIEWS
from schemas.training import Training
from stages.labels.decoded import SparseLabels
from stages.students.methods import METHODS, get_method, method_for
from stages.students.methods.base import LabelledRows, Method, SharedRows, Sizes, SourceRows
from stages.students.teacher import DenseTeacher, teacher_rows
from stages.tasks import get_task
from stages.tasks.base import Task
from tests.students.toy import EXAMPLES, STUDENT_FEATURES, TEACHER_FEATURES, Toy, learners_of

PARTS = {"digit": slice(0, 3), "parity": slice(3, 5)}
SHARES = {"digit": 0.25, "parity": 0.75}
TRAINING = Training(steps=1, question_weights={"parity": 3.0})
TRUTH = torch.tensor([[2, 1], [0, -1], [-1, 0]])


@cache
def task() -> Task:
    questions = {"digit": ["0", "1", "2"], "parity": ["even", "odd"]}
    settings = {"name": "image-questions", "image_size": 8, "channels": 1, "questions": questions}
    return get_task(Part.model_validate(settings))


def part_of(name: str, **settings: Any) -> Part:
    return Part.model_validate({"name": name, **EXAMPLES.get(name, {}), **settings})


def each(name: str, **settings: Any) -> Method:
    return method_for(task(), part_of(name, **settings), TRAINING)


class Asked(Toy):
    """The toy's rows where two questions are asked, one of which most labelled rows do not answer."""

    def labelled(self, teaching: Method | None = None, **leaves: Tensor) -> LabelledRows:
        return replace(super().labelled(teaching, **leaves), truth_L=TRUTH)


def learnable() -> list[str]:
    """Methods that a task with questions does not refuse, of labels that hold features and views."""
    needs = {name: each(name).needs for name in METHODS.names()}
    return [
        name for name, asks in needs.items() if asks.fault_with(task()) is None and asks.fields <= {FEATURES, VIEWS}
    ]


def test_methods_with_models_of_their_own_are_refused_and_all_others_serve() -> None:
    assert set(METHODS.names()) - set(learnable()) == {"mutual", "sequence"}
    assert "models of its own" in str(each("mutual").needs.fault_with(task()))
    assert "leave out `stored`" in str(each("hard-examples", stored=True).needs.fault_with(task()))
    assert each("soft").needs.fault_with(get_task(Part.model_validate({"name": "text-classification"}))) is None


def test_labels_hold_a_number_for_each_class() -> None:
    each("soft").needs.check_labels(Dense(dtype="float16"), ())
    each("soft").needs.check_labels(LowRank(kind="low-rank", rank=2), ())
    with pytest.raises(StoreError, match=r"cannot learn from top-k labels: .*\(dense, low-rank\)"):
        each("soft").needs.check_labels(TopK(kind="top-k", k=2), ())


def test_one_question_is_no_other_way() -> None:
    plain = get_task(Part.model_validate({"name": "image-classification", "image_size": 8}))
    assert type(method_for(plain, Part(name="soft"), TRAINING)) is type(get_method(Part(name="soft")))


def test_the_whole_loss_by_hand() -> None:
    """alpha 0.9, T 2: a quarter of what digits ask and three of what parity does, of truth by answers."""
    toy, teaching = Asked(torch.float64), each("soft", alpha=0.9, temperature=2.0)
    student, said = toy.leaves["student_BC"], toy.said.dense()
    truth = toy.leaves["student_LC"]
    teacher_term = truth_term = 0.0
    for name, part in PARTS.items():
        for row in range(len(student) - 1):  # the last one only fills up the batch
            p, q = ((logits[row, part] / 2.0).softmax(0).tolist() for logits in (said, student))
            kl = sum(a * math.log(a / b) for a, b in zip(p, q, strict=True))
            teacher_term += SHARES[name] * 4.0 * kl / (len(student) - 1)
        for row, number in enumerate(TRUTH[:, list(PARTS).index(name)].tolist()):
            if number >= 0:
                truth_term -= SHARES[name] * math.log(truth[row, part].softmax(0)[number].item())
    truth_term /= 0.25 + 0.75 + 0.25 + 0.75  # both of the first row, one of each other
    assert teaching.teacher_term(toy.shared(teaching)).item() == pytest.approx(teacher_term, rel=1e-9)
    assert teaching.truth_term(toy.labelled(), 0.0).item() == pytest.approx(truth_term, rel=1e-9)
    assert toy.loss(teaching).item() == pytest.approx(0.9 * teacher_term + 0.1 * truth_term, rel=1e-9)


@pytest.mark.parametrize("counts", [None, torch.tensor([0.5, 2.0, 0.5])])
@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_students_learn_truth_as_teachers_do(smoothing: float, counts: Tensor | None) -> None:
    rows = replace(Asked(torch.float64).labelled(), weights_L=counts)
    training = TRAINING.model_copy(update={"label_smoothing": smoothing})
    losses = task().losses(rows.student_LC, TRUTH, training) * (1.0 if counts is None else counts)
    wanted = losses.sum() / task().counted(TRUTH, training).sum()
    assert each("none").loss(None, rows, smoothing).item() == pytest.approx(wanted.item(), rel=1e-6)


@pytest.mark.parametrize("name", learnable())
def test_each_question_is_learned_as_if_it_were_all_that_is_asked(name: str) -> None:
    """By a method of its own, made for its classes; what it teaches of others' outputs is nothing."""
    toy, teaching = Asked(), each(name)
    learners_of(teaching)
    needs, leaf = teaching.needs, toy.leaves
    torch.manual_seed(0)
    wanted = torch.zeros(())
    for place, (question, part) in enumerate(PARTS.items()):
        alone = get_method(part_of(name))
        alone.learners(
            Sizes(part.stop - part.start, STUDENT_FEATURES, {FEATURES: TEACHER_FEATURES}),
            Training(learning_rate=0.05, weight_decay=0.0),
        )
        shared = toy.shared(alone)
        fields = {
            name: values[:, :, part] if name == VIEWS else values for name, values in shared.teacher.fields.items()
        }
        said = DenseTeacher(toy.said.dense()[:, part], fields)
        source = SourceRows(leaf["student_SC"][:, part], leaf["features_SF"]) if needs.source else None
        rows = replace(shared, student_BC=leaf["student_BC"][:, part], teacher=said, source=source)
        answered = TRUTH[:, place] >= 0
        true = LabelledRows(leaf["student_LC"][:, part], TRUTH[:, place].clamp(min=0), weights_L=answered * 3 / 2.0)
        wanted = wanted + SHARES[question] * alone.loss(rows if needs.labels else None, true, 0.1)
    found = toy.loss(teaching, 0.1)
    assert found.item() == pytest.approx(wanted.item(), rel=1e-5)
    found.backward()
    gradient = leaf["student_LC"].grad
    assert gradient is not None
    told = torch.stack([gradient[:, part].abs().sum(dim=1) > 0 for part in PARTS.values()], dim=1)
    assert torch.equal(told, TRUTH >= 0)


def test_what_a_method_trains_is_made_for_each_question() -> None:
    made = each("adversarial").learners(Sizes(5), TRAINING)
    assert sorted(made) == ["digit.discriminator", "parity.discriminator"]
    first = [
        next(part for part in made[f"{name}.discriminator"].module.modules() if isinstance(part, torch.nn.Linear))
        for name in PARTS
    ]
    assert [layer.in_features for layer in first] == [3, 2]


def test_labels_that_keep_some_classes_do_not_tell_questions_apart() -> None:
    kept = SparseLabels(5, np.array([[0, 3]]), np.zeros((1, 2), np.float32), np.zeros((1, 1), np.float32), (1.0,))
    rows = SharedRows(torch.zeros(1, 5), teacher_rows(kept, None, torch.device("cpu")), torch.ones(1))
    with pytest.raises(ValueError, match="do not tell questions apart"):
        each("soft").teacher_term(rows)
