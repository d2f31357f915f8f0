"""Students over a real domain, real budgets and a real label set; the same in this process and on two ranks of Ray."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from schemas.artifacts import BudgetRef, LabelSetRef
from schemas.base import Part
from schemas.domains import BudgetInputs, DomainInputs, SplitInputs
from schemas.labels import LabelsInputs
from schemas.spec import LabelBudget, Resources, Source, Split, Training
from schemas.students import CohortInputs, Stream, StudentInputs
from schemas.teachers import GivenTeacher, TeacherInputs
from stages.base import get_stage
from stages.context import Context
from stages.places import Place
from stages.students import stage
from stages.students.stage import STUDENTS

TASK = Part.model_validate({"name": "image-classification", "image_size": 8, "channels": 1})
MODEL = Part(name="mobile-tiny")


def run(context: Context, stage: str, inputs: Any) -> Any:
    return get_stage(stage).run(context, inputs)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> CohortInputs:
    """A domain of 90 pictures in 3 shards, two draws of a budget of 4 + 4, and what an untrained teacher says."""
    folder = tmp_path_factory.mktemp("made")
    context = Context(workspace=Place(str(folder / "workspace")), resources=Resources(mode="local"))
    draw = np.random.default_rng(0)
    truth = draw.integers(3, size=90)
    pictures = draw.integers(0, 60, size=(90, 8, 8, 1))
    pictures[np.arange(90), truth * 2] += 150
    np.savez(folder / "bars.npz", image=pictures.astype(np.uint8), label=np.array(["a", "b", "c"])[truth])
    domain = run(
        context,
        "domains",
        DomainInputs(source=Source(arrays=str(folder / "bars.npz")), task=TASK, shard_rows=32),
    )
    split = run(
        context,
        "splits",
        SplitInputs(samples=domain.samples, split=Split(train=0.6, validation=0.2, test=0.2)),
    ).split
    budgets: list[BudgetRef] = [
        run(
            context,
            "budgets",
            BudgetInputs(
                samples=domain.samples,
                split=split,
                truth=domain.truth,
                label_budget=LabelBudget(train=4, validation=4),
                seed=seed,
            ),
        ).budget
        for seed in range(2)
    ]
    teacher = run(
        context,
        "teachers",
        TeacherInputs(task=TASK, model=MODEL, classes=domain.classes, way=GivenTeacher()),
    ).model
    labels: LabelSetRef = run(
        context, "labels", LabelsInputs(task=TASK, teacher=teacher, samples=domain.samples, features="float16")
    ).labels
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


def local(folder: Path) -> Context:
    return Context(workspace=Place(str(folder)), resources=Resources(mode="local"))


def test_students_of_a_real_store(made: CohortInputs, tmp_path: Path) -> None:
    outputs = STUDENTS.run(local(tmp_path / "a"), made)
    assert [one.failure for one in outputs.students] == [None] * 5
    assert len({one.model.digest for one in outputs.students if one.model}) == 5
    assert all(len(one.history) == 3 for one in outputs.students), "54 rows are 4 steps an epoch"
    assert STUDENTS.find(local(tmp_path / "a"), made) == outputs


@pytest.mark.ray
def test_two_ranks_equal_this_process(
    made: CohortInputs, tmp_path: Path, ray_context: Context, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stage, "room", lambda context: 2)
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
