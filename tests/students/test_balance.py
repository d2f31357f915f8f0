"""Rows of the source with their truth, and classes that count alike, in a student's training."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional

from schemas.artifacts import BudgetRef
from schemas.base import Part
from schemas.errors import StoreError
from schemas.spec import Resources, Storage
from schemas.students import CohortInputs, CohortOutputs, SourceInputs
from stages.context import Context
from stages.places import Place
from stages.students import cohort, fit
from stages.students.feed import Feed
from stages.students.methods import get_method
from stages.students.order import Order
from stages.students.stage import STUDENTS
from stages.students.teacher import DenseTeacher
from stages.tasks import get_task
from stages.training import checkpoints
from tests.students.test_cohort import EVERYTHING, SOURCE, digests
from tests.students.toy import Toy
from tests.students.world import Killed, World, cohort_of, ref, student
from tests.teachers.world import Domain

SEEN = SOURCE.model_copy(update={"budget": BudgetRef(**ref(8))})
"""The source domain with its truth."""
MIXED = {"source_share": 0.3, "balance": {"by": "weights"}, "mixing": {"mixup": 0.5}, "accumulate": 2}
START = {"name": "tests.students.world:sized", "width": 2}
STUDENTS_OF_BOTH = (
    student("sourced", EVERYTHING, source=SEEN, training=MIXED),
    student("blind", EVERYTHING, source=SOURCE),
    student("untaught", "none", source=SEEN, budget=2, training={"source_share": 0.3, "mixing": {"mixup": 0.5}}),
    student("grown", source=SEEN, training={"source_share": 0.3, "scaling": {"start": START}}),
    student("plain"),
)
"""With and without the source's truth, and one that has nothing else."""


def ready(world: World, inputs: CohortInputs) -> tuple[fit.Fit, Feed]:
    """The first student of a cohort before its first step, and what it steps on."""
    asked = inputs.model_copy(update={"students": inputs.students[:1]})
    order = Order(asked, "0" * 32, Place("nowhere"), {}, "students", 1)
    one = fit.Fit(order, get_task(inputs.task), Storage(), torch.device("cpu"))
    feed = world.feed([one], Storage(), torch.device("cpu"))
    one.meet(feed)
    one.build()
    return one, feed


def mean(logits: torch.Tensor, truth: torch.Tensor, weights: torch.Tensor) -> float:
    return float((functional.cross_entropy(logits, truth, reduction="none") * weights).mean())


def test_rows_of_the_source_count_their_share_by_hand(world: World) -> None:
    """From the untrained model in training mode; dropout is drawn as the step draws it."""
    training = {"source_share": 0.25, "optimizer": "sgd", "balance": {"by": "weights"}}
    one, feed = ready(world, cohort_of(student("s", "none", source=SEEN, training=training)))
    assert one.source is not None
    labelled, source = feed.labelled(0, f"{0:032x}"), feed.source(0, one.source)
    assert labelled is not None
    assert source.truth_S is not None
    assert source.weights_S is not None
    assert len(source.inputs) == 8, "as many as shared rows"
    assert world.source_truth[world.source.read[-1]].tolist() == source.truth_S.tolist()
    counts = np.bincount(world.source_truth)
    assert torch.allclose(source.weights_S, torch.from_numpy(20 / (3 * counts)).float()[source.truth_S])
    one._steps._seed(0, 0)
    with torch.no_grad():
        outputs = one._steps.trainee.module.train()(torch.cat([labelled.inputs, source.inputs]))
    one.step(None, labelled, source)
    wanted = 0.75 * mean(outputs[:4], labelled.truth_L, labelled.weights_L)
    wanted += 0.25 * mean(outputs[4:], source.truth_S, source.weights_S)
    assert one._loss_sum == pytest.approx(wanted, rel=1e-5)


def test_a_source_alone_counts_whole(world: World) -> None:
    one, feed = ready(world, cohort_of(student("s", "none", source=SEEN, budget=2, training={"source_share": 0.25})))
    source = feed.source(0, str(one.source))
    assert source.truth_S is not None
    one._steps._seed(0, 0)
    with torch.no_grad():
        outputs = one._steps.trainee.module.train()(source.inputs)
    one.step(None, None, source)
    assert one._loss_sum == pytest.approx(float(functional.cross_entropy(outputs, source.truth_S)), rel=1e-5)


@pytest.mark.parametrize("settings", [{"name": "soft"}, {"name": "hard-examples", "measure": "loss"}])
def test_every_term_for_the_truth_counts_rows_as_they_weigh(settings: dict[str, Any]) -> None:
    """All at 1 is none at all; one that alone counts is the whole loss."""
    settings |= {"select": "weight"} if settings["name"] == "hard-examples" else {}
    teaching, toy = get_method(Part.model_validate(settings)), Toy()
    rows = replace(toy.labelled(), teacher=DenseTeacher(torch.randn(3, 5, generator=torch.Generator().manual_seed(0))))
    plain = teaching.truth_term(rows, 0.1)
    assert torch.allclose(teaching.truth_term(replace(rows, weights_L=torch.ones(3)), 0.1), plain)
    lone = teaching.truth_term(replace(rows, weights_L=torch.tensor([3.0, 0.0, 0.0])), 0.0)
    first = functional.cross_entropy(rows.student_LC[:1], rows.truth_L[:1])
    assert float(lone.detach()) == pytest.approx(float(first.detach()), rel=1e-5)


def test_a_balanced_stream_draws_classes_alike(world: World, contexts: Any) -> None:
    inputs = cohort_of(student("s", "none", source=SEEN, training={"source_share": 0.5}), balanced=True)
    one, feed = ready(world, inputs)
    drawn: list[int] = []
    for step in range(100):
        batch = feed.source(step, str(one.source))
        assert batch.truth_S is not None
        drawn += batch.truth_S.tolist()
    assert np.abs(np.bincount(drawn) / 800 - 1 / 3).max() < 0.08  # five standard deviations of a share of a third
    outputs = STUDENTS.run(contexts("sizes"), inputs).students[0]
    seen = world.budgets[f"{0:032x}"].train_truth
    assert outputs.target is not None
    assert outputs.source is not None
    assert (outputs.target.rows, outputs.target.labelled) == (42, tuple(np.bincount(seen, minlength=3)))
    assert (outputs.source.rows, outputs.source.labelled) == (20, (14, 4, 2))


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> CohortOutputs:
    """All of them in one cohort, uninterrupted."""
    context = Context(workspace=Place(str(tmp_path_factory.mktemp("whole"))), resources=Resources(mode="local"))
    with pytest.MonkeyPatch.context() as patch:
        World().use(patch)
        outputs: CohortOutputs = STUDENTS.run(context, cohort_of(*STUDENTS_OF_BOTH))
    return outputs


def test_alone_or_in_a_cohort(world: World, contexts: Any, whole: CohortOutputs) -> None:
    alone = [STUDENTS.run(contexts(one.name), cohort_of(one)).students[0] for one in STUDENTS_OF_BOTH]
    assert digests(whole) == digests(CohortOutputs(students=tuple(alone)))
    assert [one.source is None for one in alone] == [False, False, False, False, True]
    assert alone[1].source is not None
    assert alone[1].source.labelled == (0, 0, 0), "what a method reads of a source comes without its truth"


@pytest.mark.parametrize("die_at", [8, 23])
def test_killed_and_resumed_equals_uninterrupted(
    contexts: Any, monkeypatch: pytest.MonkeyPatch, whole: CohortOutputs, die_at: int
) -> None:
    monkeypatch.setattr(checkpoints, "EVERY_SECONDS", 0.0)
    dying = World().use(monkeypatch)
    dying.samples.die_at = die_at
    context = contexts("killed")
    with pytest.raises(Killed):
        STUDENTS.run(context, cohort_of(*STUDENTS_OF_BOTH))
    World().use(monkeypatch)
    again = STUDENTS.run(context, cohort_of(*STUDENTS_OF_BOTH))
    assert digests(again) == digests(whole)
    assert [one.history for one in again.students] == [one.history for one in whole.students]


def test_the_truth_of_a_source_is_that_of_its_budget_in_the_students_classes(tmp_path: Path) -> None:
    """From packed domains: only rows whose truth may be seen, numbered as the students number classes."""
    context = Context(workspace=Place(str(tmp_path / "workspace")), resources=Resources(mode="local"))
    domain = Domain(context, tmp_path, rows=60, seed=1, budget=9)
    lent = domain.labelled
    asked = SourceInputs(samples=lent.samples, split=lent.split, budget=lent.budget)
    turned = ("right", "left", "middle")
    found = cohort._source(asked, context.place, turned)
    assert found.truth is not None
    assert len(found.positions) == 9
    assert [turned[number] for number in found.truth] == domain.labels[found.positions].tolist()
    with pytest.raises(StoreError, match="the source of `source_share` .* do not speak of the same classes"):
        cohort._source(asked, context.place, ("left", "right", "up"))
    blind = cohort._source(asked.model_copy(update={"budget": None}), context.place, ("up", "down"))
    assert blind.truth is None
    assert len(blind.positions) > 9
