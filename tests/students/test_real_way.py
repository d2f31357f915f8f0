"""Students over a real domain, real budgets and a real label set; the same in this process and on two ranks of Ray."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from schemas.artifacts import BudgetRef, LabelSetRef, SplitRef
from schemas.base import Part
from schemas.domains import BudgetInputs, DomainInputs, SplitInputs
from schemas.errors import DataError
from schemas.labels import LabelsInputs
from schemas.runs import Event
from schemas.spec import LabelBudget, Resources, Source, Split, Storage
from schemas.students import CohortInputs, SourceInputs, Stream, StudentInputs
from schemas.teachers import GivenTeacher, TeacherInputs
from schemas.training import Training
from stages.base import get_stage
from stages.context import Context
from stages.domains.reader import read_budget
from stages.places import Place
from stages.students import bisection, group
from stages.students.cohort import open_feed
from stages.students.feed import Feed
from stages.students.fit import Fit
from stages.students.methods import METHODS
from stages.students.order import Order
from stages.students.stage import STUDENTS
from stages.tasks import get_task
from tests.students.toy import EXAMPLES

TASK = Part.model_validate({"name": "image-classification", "image_size": 8, "channels": 1})
MODEL = Part(name="mobile-tiny")


def run(context: Context, stage: str, inputs: Any) -> Any:
    return get_stage(stage).run(context, inputs)


def make(folder: Path, hidden: int = 0) -> CohortInputs:
    """A domain of 90 pictures in 3 shards, two draws of a budget of 4 + 4, and what an untrained teacher says.

    `hidden`: how far the classes of all rows are moved whose truth may not be seen.
    """
    context = Context(workspace=Place(str(folder / "workspace")), resources=Resources(mode="local"))
    draw = np.random.default_rng(0)
    truth = draw.integers(3, size=90)
    pictures = draw.integers(0, 60, size=(90, 8, 8, 1))
    pictures[np.arange(90), truth * 2] += 150
    names = np.array(["a", "b", "c"])

    def domain_of(classes: NDArray[np.int64]) -> Any:
        np.savez(folder / "bars.npz", image=pictures.astype(np.uint8), label=names[classes])
        source = Source(arrays=str(folder / "bars.npz"))
        return run(context, "domains", DomainInputs(source=source, task=TASK, shard_rows=32))

    def drawn(domain: Any) -> tuple[SplitRef, list[BudgetRef]]:
        shares = Split(train=0.6, validation=0.2, test=0.2)
        split = run(context, "splits", SplitInputs(samples=domain.samples, split=shares)).split
        asked = {"samples": domain.samples, "split": split, "truth": domain.truth}
        size = LabelBudget(train=4, validation=4)
        inputs = [BudgetInputs(**asked, label_budget=size, seed=seed) for seed in range(2)]
        return split, [run(context, "budgets", one).budget for one in inputs]

    domain = domain_of(truth)
    split, budgets = drawn(domain)
    if hidden:
        read = [read_budget(context.place(one), one) for one in budgets]
        seen = np.concatenate([rows for one in read for rows in (one.train_positions, one.validation_positions)])
        moved = np.where(np.isin(np.arange(90), seen), truth, (truth + hidden) % 3)
        assert (moved != truth).sum() >= 74
        domain = domain_of(moved)
        split, budgets = drawn(domain)
    teacher = run(
        context, "teachers", TeacherInputs(task=TASK, model=MODEL, classes=domain.classes, way=GivenTeacher())
    )
    asked = LabelsInputs(task=TASK, teacher=teacher.model, samples=domain.samples, features="float16")
    labels: LabelSetRef = run(context, "labels", asked).labels
    common: dict[str, Any] = {"model": MODEL, "training": Training(learning_rate=0.01), "steps": 9}
    students = [
        StudentInputs(name="s", method=Part(name="soft"), labels=labels, budget=budgets[seed], seed=seed, **common)
        for seed in range(2)
    ]
    students += [
        StudentInputs(name="s", arm="no-teacher", method=Part(name="none"), budget=budgets[seed], seed=seed, **common)
        for seed in range(2)
    ]
    both = Part.model_validate({"name": "combined", "parts": ["soft", "features"]})
    students.append(StudentInputs(name="f", method=both, labels=labels, budget=budgets[0], **common))
    return CohortInputs(
        task=TASK,
        classes=domain.classes,
        stream=Stream(samples=domain.samples, split=split, batch_size=16, labelled_batch_size=8),
        students=tuple(students),
    )


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> CohortInputs:
    return make(tmp_path_factory.mktemp("made"))


def local(folder: Path) -> Context:
    return Context(workspace=Place(str(folder)), resources=Resources(mode="local"))


def test_truth_and_labels_are_read_by_the_names_of_their_classes(made: CohortInputs, tmp_path: Path) -> None:
    """The domain's order is another than that of the students: so are its numbers, and the columns of its labels."""
    other = made.model_copy(update={"classes": ("c", "a", "b")})
    plain, moved = (open_first(inputs, tmp_path) for inputs in (made, other))
    for digest, budget in plain.budgets.items():
        for name in ("train_truth", "validation_truth"):
            theirs, ours = getattr(moved.budgets[digest], name), getattr(budget, name)
            assert [other.classes[n] for n in theirs] == [made.classes[n] for n in ours]
            assert theirs.dtype == np.int32
    (labels,) = plain.label_sets
    said = [feed.shared(0, {labels: ()}).teachers[labels].dense() for feed in (plain, moved)]
    assert torch.equal(said[1], said[0][:, [2, 0, 1]])
    with pytest.raises(DataError, match=r"3 classes and the students have 2, .*first: 'c'"):
        STUDENTS.run(local(tmp_path), made.model_copy(update={"classes": ("a", "b")}))


def open_first(inputs: CohortInputs, folder: Path) -> Feed:
    """The inputs of a cohort's first two students."""
    task, here = get_task(inputs.task), torch.device("cpu")
    fits = []
    for student in inputs.students[:2]:
        alone = inputs.model_copy(update={"students": (student,)})
        order = Order(alone, "0" * 32, Place(str(folder)), {}, "students", 1)
        fits.append(Fit(order, task, Storage(), here))
    return open_feed(fits, Storage(), here)


def test_students_of_a_real_store(made: CohortInputs, tmp_path: Path) -> None:
    outputs = STUDENTS.run(local(tmp_path / "a"), made)
    assert [one.failure for one in outputs.students] == [None] * 5
    assert len({one.model.digest for one in outputs.students if one.model}) == 5
    assert all(len(one.history) == 3 for one in outputs.students), "54 rows are 4 steps an epoch"
    assert STUDENTS.find(local(tmp_path / "a"), made) == outputs


def test_hidden_labels_change_nothing_for_any_method(tmp_path: Path) -> None:
    """The truth of every row beyond the budgets is another: students of all methods are the same bytes."""

    def students(name: str, hidden: int) -> list[str]:
        folder = tmp_path / name
        folder.mkdir()
        inputs = make(folder, hidden)
        like, source = inputs.students[0], SourceInputs(samples=inputs.stream.samples, split=inputs.stream.split)
        everyone = [
            like.model_copy(update={"name": name, "method": part, "source": source})
            for name in METHODS.names()
            if name not in ("sequence", "consistency")  # tests/tasks/test_conformance.py has them
            for part in [Part.model_validate({"name": name, **EXAMPLES.get(name, {})})]
        ]
        by_loss = Part.model_validate({"name": "hard-examples", "measure": "loss"})
        everyone.append(like.model_copy(update={"name": "by-loss", "method": by_loss}))
        outputs = STUDENTS.run(local(folder / "students"), inputs.model_copy(update={"students": tuple(everyone)}))
        assert [one.failure for one in outputs.students] == [None] * len(everyone)
        return [one.model.digest for one in outputs.students if one.model]

    plain = students("plain", 0)
    assert len(set(plain)) == len(METHODS.names()) - 1, "all but two, and one twice"
    assert students("moved", 1) == plain


@pytest.mark.ray
def test_two_ranks_equal_this_process(
    made: CohortInputs, tmp_path: Path, ray_context: Context, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(group, "room", lambda context: 2)
    bad = made.students[0].model_copy(update={"name": "bad", "labels": None})
    mixed = made.model_copy(update={"students": (*made.students, bad)})
    here = STUDENTS.run(local(tmp_path / "here"), mixed)
    there = STUDENTS.run(replace(ray_context, step="students/s"), mixed)
    assert [one.model.digest if one.model else None for one in there.students] == [
        one.model.digest if one.model else None for one in here.students
    ]
    assert [one.history for one in there.students] == [one.history for one in here.students]
    assert there.students[5].failure == here.students[5].failure
    assert "needs `labels`" in str(there.students[5].failure)


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.long  # two minutes of worker groups; test_bisection.py has the search itself
def test_who_ends_the_process_is_found_and_the_others_end_well(
    made: CohortInputs, tmp_path: Path, ray_context: Context, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A worker group takes seconds to start: here nobody is started twice without being looked for."""
    monkeypatch.setattr(bisection, "RESTARTS", 0)
    monkeypatch.setattr(group, "room", lambda context: 1)
    told: list[Event] = []
    healthy = made.students[0]
    model = Part(name="image_factories:deadly")
    deadly = healthy.model_copy(update={"name": "deadly", "model": model})
    monkeypatch.syspath_prepend(str(Path(__file__).parents[1] / "user_code"))
    mixed = made.model_copy(update={"students": (deadly, healthy)})
    context = replace(ray_context, step="students/s", sink=told.append)
    found = STUDENTS.run(context, mixed).students
    alone = STUDENTS.run(local(tmp_path / "alone"), made.model_copy(update={"students": (healthy,)})).students[0]
    assert found[0].model is None
    assert str(found[0].failure).startswith("it ends the process that trains it (a worker of students/s died once: ")
    assert found[1].failure is None
    assert (found[1].model.digest, found[1].history) == (alone.model.digest, alone.history)  # type: ignore[union-attr]
    searches = [event.message for event in told if "by halves" in event.message]
    assert [message.rpartition("; ")[2] for message in searches] == [
        "looking for the student that ends it among 2, by halves"
    ]
