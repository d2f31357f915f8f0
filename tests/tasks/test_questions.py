"""Several questions about a sample: answers as truth, losses of those that are given, heads, figures of each."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import f1_score

from schemas.base import Part
from schemas.domains import DomainInputs
from schemas.encodings import Dense
from schemas.errors import DataError, ModelError, SpecError
from schemas.spec import Resources, Source
from schemas.training import Training
from stages.context import Context
from stages.domains.reader import read_truth
from stages.domains.stage import DOMAINS
from stages.labels.encodings import label_schema
from stages.labels.mixture import mixed
from stages.places import Place
from stages.tasks import get_task
from stages.tasks._answers import Answers
from stages.tasks.base import BadRow
from stages.tasks.image_questions import ImageQuestions
from stages.training.penultimate import Penultimate
from stages.training.weights import load_given
from stages.training.widening import widen
from stages.truth import UNKNOWN, as_truth
from tests.domains.helpers import pictures, png

QUESTIONS = {"digit": ["0", "1", "2"], "parity": {"odd": ["1"], "even": ["0", "2"]}}
PART = Part.model_validate({"name": "image-questions", "image_size": 8, "channels": 1, "questions": QUESTIONS})
DIGIT, PARITY = slice(0, 3), slice(3, 5)
WEIGHED = Training(steps=1, question_weights={"parity": 3.0})
"""Shares of 1/4 and 3/4."""


def task_of(**changes: Any) -> ImageQuestions:
    task = get_task(Part.model_validate({**PART.dump(), **changes}))
    assert isinstance(task, ImageQuestions)
    return task


def truth_of(*answers: dict[str, Any] | None) -> Any:
    return as_truth([UNKNOWN if answer is None else task_of().code_truth(answer) for answer in answers], coded=True)


ANSWERS = truth_of({"digit": "2", "parity": "2"}, {"digit": 1}, {"parity": "1"}, None)
NUMBERS = [[2, 0], [1, -1], [-1, 1], [-1, -1]]
"""The same, even being the first class of parity."""


# --- answers -----------------------------------------------------------------------------------------------------


def test_answers_are_numbers_of_each_questions_classes() -> None:
    assert task_of().vocabulary() == ("digit/0", "digit/1", "digit/2", "parity/even", "parity/odd")
    assert [(question.name, question.columns) for question in task_of().questions] == [
        ("digit", DIGIT),
        ("parity", PARITY),
    ]
    assert task_of().asked(ANSWERS).tolist() == NUMBERS
    assert {len(coded) for coded in ANSWERS[:3]} == {2 * 4}


def test_the_order_of_settings_says_nothing() -> None:
    """Fingerprints sort keys, so what they name may not rest on their order."""
    other = task_of(questions={"parity": {"even": ["2", "0"], "odd": ["1"]}, "digit": QUESTIONS["digit"]})
    assert other.vocabulary() == task_of().vocabulary()
    assert other.code_truth({"parity": "2", "digit": "1"}) == task_of().code_truth({"digit": "1", "parity": "0"})


@pytest.mark.parametrize(
    ("answers", "said"),
    [
        ({"digit": "3"}, r"'3' is no answer to 'digit', whose labels are 0, 1, 2$"),
        ({"digit": "1", "parity": "even"}, "'even' is no answer to 'parity', whose labels are 0, 2, 1"),
        ({"parity": 0.5}, "neither text nor a whole number"),
        ({}, "the label is {}, not answers by question"),
    ],
)
def test_what_is_no_answer_is_refused(answers: dict[str, Any], said: str) -> None:
    with pytest.raises(BadRow, match=said):
        task_of().code_truth(answers)


@pytest.mark.parametrize(
    ("questions", "said"),
    [
        ({}, "questions"),
        ({"digit": ["0"]}, "a question has two classes or more"),
        ({"digit": ["0", "0"]}, "0 stand in it twice"),
        ({"parity": {"even": ["0", "1"], "odd": ["1"]}}, "question 'parity': the label 1 is of two classes"),
        ({"image": ["cat", "dog"]}, "a question cannot be called 'image'"),
        ({"sample_id": ["cat", "dog"]}, "a question cannot be called 'sample_id'"),
        ({"which digit": ["0", "1"]}, "questions"),
    ],
)
def test_questions_that_make_no_sense_are_refused(questions: Any, said: str) -> None:
    with pytest.raises(SpecError, match=said):
        task_of(questions=questions)


def write(kind: str, folder: Path, columns: dict[str, list[Any]]) -> Source:
    """Pictures and columns of cells, None where empty, as a source of that kind."""
    images, names = pictures(len(columns["figure"]))[0], []
    for number, picture in enumerate(images):
        names.append(f"{number}.png")
        (folder / names[-1]).write_bytes(png(picture))
    path = folder / f"rows.{kind}"
    columns = {"image": names, **columns}
    rows = [dict(zip(columns, cells, strict=True)) for cells in zip(*columns.values(), strict=True)]
    if kind == "csv":
        with path.open("w", newline="") as file:
            writer = csv.DictWriter(file, list(columns))
            writer.writeheader()
            writer.writerows(rows)
    elif kind == "jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    elif kind == "parquet":
        pq.write_table(pa.table(columns), path)
    else:
        path = folder / "rows.npz"
        cells = {name: np.array(["" if cell is None else str(cell) for cell in columns[name]]) for name in columns}
        np.savez(path, image=images, figure=cells["figure"], parity=cells["parity"])
    return Source.model_validate({kind: str(path)})


def local(folder: Path) -> Context:
    return Context(workspace=Place(str(folder / "workspace")), resources=Resources(mode="local"))


@pytest.mark.parametrize("kind", ["csv", "jsonl", "parquet", "arrays"])
def test_each_question_has_a_column_and_empty_cells_are_no_answers(kind: str, tmp_path: Path) -> None:
    source = write(kind, tmp_path, {"figure": [2, 1, None, None], "parity": ["2", None, "1", None]})
    asked = DomainInputs(source=source, task=PART, columns={"digit": "figure"})
    done = DOMAINS.run(local(tmp_path), asked)
    assert done.truth is not None
    truth, classes = read_truth(Place(done.truth.uri), done.truth)
    assert classes == task_of().vocabulary()
    assert task_of().asked(truth).tolist() == NUMBERS
    assert (truth == UNKNOWN).tolist() == [False, False, False, True]


def test_a_column_may_be_missing_and_one_may_answer_several_questions(tmp_path: Path) -> None:
    source = write("csv", tmp_path, {"figure": [2, 1]})
    context = local(tmp_path)

    def answers(columns: dict[str, str]) -> Any:
        done = DOMAINS.run(context, DomainInputs(source=source, task=PART, columns=columns))
        return (
            None if done.truth is None else task_of().asked(read_truth(Place(done.truth.uri), done.truth)[0]).tolist()
        )

    assert answers({"digit": "figure"}) == [[2, -1], [1, -1]]
    assert answers({"digit": "figure", "parity": "figure"}) == [[2, 0], [1, 1]]
    assert answers({}) is None, "nobody answers anything"
    with pytest.raises(DataError, match="no column 'figur'; did you mean 'figure'"):
        answers({"digit": "figur"})
    with pytest.raises(DataError, match="the role 'label', which this task does not have"):
        answers({"label": "figure"})


# --- losses ------------------------------------------------------------------------------------------------------


def test_the_loss_is_the_mean_over_answers_by_the_weight_of_their_question() -> None:
    """By hand: 1/4 of a digit's cross-entropy and 3/4 of a parity's, over the sum of these shares."""
    task, asked = task_of(), task_of().asked(ANSWERS)
    logits = torch.randn(4, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    found = task.losses(logits, asked, WEIGHED)
    digit, parity = logits[:, DIGIT].log_softmax(1), logits[:, PARITY].log_softmax(1)
    wanted = [-digit[0, 2] / 4 - 3 * parity[0, 0] / 4, -digit[1, 1] / 4, -3 * parity[2, 1] / 4]
    assert found.tolist() == pytest.approx([*(value.item() for value in wanted), 0.0])
    assert task.counted(asked, WEIGHED).tolist() == [1.0, 0.25, 0.75, 0.0]
    smooth = task.losses(logits, asked, WEIGHED.model_copy(update={"label_smoothing": 0.3}))
    assert float(smooth[1]) == pytest.approx(float(-(0.7 * digit[1, 1] + 0.1 * digit[1].sum()) / 4))
    assert smooth[3] == 0


def test_what_nobody_answered_has_no_gradient() -> None:
    task, asked = task_of(), task_of().asked(ANSWERS)
    logits = torch.randn(4, 5, generator=torch.Generator().manual_seed(0)).requires_grad_()
    (gradient,) = torch.autograd.grad(task.losses(logits, asked, WEIGHED).sum(), logits)
    told = torch.stack([gradient[:, part].abs().sum(dim=1) > 0 for part in (DIGIT, PARITY)], dim=1)
    assert told.tolist() == (asked != UNKNOWN).tolist()


# --- heads -------------------------------------------------------------------------------------------------------


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**32 - 1), st.sampled_from([0.5, 1.0, 4.0]))
def test_each_question_keeps_its_distribution_at_every_temperature(seed: int, tau: float) -> None:
    logits = 5 * torch.randn(3, 5, generator=torch.Generator().manual_seed(seed))
    moved = Answers(task_of().questions)(logits)
    for part in (DIGIT, PARITY):
        assert torch.allclose((moved[:, part] / tau).softmax(1), (logits[:, part] / tau).softmax(1), atol=1e-5)
        assert torch.allclose(moved[:, part].exp().sum(1), torch.full((3,), 0.5))


def test_labels_of_several_teachers_fuse_question_by_question() -> None:
    random = torch.Generator().manual_seed(0)
    one, other = (Answers(task_of().questions)(3 * torch.randn(4, 5, generator=random)) for _ in range(2))
    said = torch.from_numpy(mixed(torch.stack([one, other]).double().numpy(), np.full((2, 4), 0.5), "probability"))
    for part in (DIGIT, PARITY):
        wanted = (one[:, part].softmax(1) + other[:, part].softmax(1)) / 2
        assert torch.allclose(said[:, part].softmax(1), wanted, atol=1e-5)


def test_a_label_has_as_many_numbers_as_the_questions_have_classes() -> None:
    task = task_of()
    schema = label_schema(task.vocabulary(), Dense(dtype="float16"), task.label_shape)
    assert [field.bytes_per_row for field in schema.fields] == [2 * 5]


def test_networks_end_in_a_head_a_question_and_serve_as_others_do(tmp_path: Path) -> None:
    """Weights keep their names, features are found, and a wider one may take over."""
    task = task_of(image_size=16)
    batch = torch.rand(4, 1, 16, 16, generator=torch.Generator().manual_seed(0))
    narrow, wide = (task.build(width(size), 5, task.Preprocessing()).eval() for size in (0.5, 1.0))
    widen(narrow, wide, batch, np.random.default_rng(0))
    with torch.no_grad():
        assert torch.allclose(narrow(batch), wide(batch), atol=1e-4)
    assert Penultimate(narrow, task.fake_batch(2, task.Preprocessing()), 5, "narrow").width == 32
    torch.save({name.removeprefix("network."): value for name, value in narrow.state_dict().items()}, tmp_path / "w.pt")
    again = task.build(width(0.5), 5, task.Preprocessing()).eval()
    assert load_given(str(tmp_path / "w.pt"), again).fresh == ()
    with torch.no_grad():
        assert torch.equal(again(batch), narrow(batch))
    with pytest.raises(ModelError, match="is to give 4 outputs, and the classes of the task's 2 questions are 5"):
        task.build(width(0.5), 4, task.Preprocessing())


def width(factor: float) -> Part:
    return Part.model_validate({"name": "mobile-tiny", "width": factor})


def test_networks_of_users_give_all_classes_side_by_side() -> None:
    task = task_of()
    own = task.build(Part(name="tests.user_code.image_factories:plain"), 5, task.Preprocessing())
    with torch.no_grad():
        assert torch.allclose(own(task.fake_batch(2, task.Preprocessing()))[:, PARITY].exp().sum(1), torch.tensor(0.5))


# --- figures -----------------------------------------------------------------------------------------------------

TRUE = truth_of(*[{"digit": digit, "parity": digit} for digit in (0, 1, 2)], {"digit": 1}, {"parity": 1}, {"parity": 0})
SAID = [(0, 0), (1, 0), (0, 0), (1, 1), (2, 1), (2, 1)]
"""What is said of digit (right of 3 in 4) and of parity (3 in 5)."""


def said() -> np.ndarray:
    digit, parity = np.array(SAID).T
    return np.concatenate([4 * np.eye(3)[digit], 4 * np.eye(2)[parity]], axis=1).astype(np.float32)


def test_figures_are_means_over_the_questions_of_their_answers() -> None:
    task = task_of()
    found = task.score(said(), TRUE, ("accuracy", "accuracy_digit", "accuracy_parity", "macro_f1"))
    assert [found[f"accuracy_{name}"] for name in ("digit", "parity")] == [pytest.approx(3 / 4), pytest.approx(3 / 5)]
    assert found["accuracy"] == pytest.approx((3 / 4 + 3 / 5) / 2)
    digit = f1_score([0, 1, 2, 1], [0, 1, 0, 1], average="macro")
    parity = f1_score([0, 1, 0, 1, 0], [0, 0, 0, 1, 1], average="macro")
    assert found["macro_f1"] == pytest.approx((digit + parity) / 2)
    assert task.of_classes == ("accuracy_digit", "accuracy_parity")
    with pytest.raises(SpecError, match="no metric is called 'accuracy_digits'; did you mean 'accuracy_digit'"):
        task.score(said(), TRUE, ("accuracy_digits",))


def test_a_question_without_answers_is_left_out_and_never_not_a_number() -> None:
    task, weights = task_of(), np.array([[1, 1, 1, 1, 0, 0], [0, 0, 0, 0, 2, 1], [0, 0, 0, 1, 0, 0]])
    digit, parity = ([task.score_rows(said(), TRUE, f"accuracy_{name}", weights)] for name in ("digit", "parity"))
    assert digit[0].tolist() == pytest.approx([3 / 4, 3 / 4, 1.0]), "a draw without answers takes each of them once"
    assert parity[0].tolist() == pytest.approx([2 / 3, 2 / 3, 3 / 5])
    only = truth_of({"digit": 0}, {"digit": 1})
    found = task.score(said()[:2], only, ("accuracy", "accuracy_digit", "accuracy_parity", "nll"))
    assert [found[name] for name in ("accuracy", "accuracy_digit", "accuracy_parity")] == [1.0, 1.0, 0.0]
    assert np.isfinite(found["nll"])


def test_two_models_are_alike_by_the_questions_that_they_answer_alike() -> None:
    task, other = task_of(), said()
    other[1, PARITY] = [0, 1]
    other[2] = [0, 9, 0, 0, 9]
    assert task.alike(task.compared(said()), task.compared(other)).tolist() == [1, 0.5, 0, 1, 1, 1]
