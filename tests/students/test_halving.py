"""Successive halving: who goes on, by what alone, and that those who do end as if there had been no rungs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from schemas.errors import SpecError
from schemas.runs import Event
from schemas.spec import Halving, Resources
from schemas.students import HalvingInputs, PointOutcome
from stages.context import Context
from stages.places import Place
from stages.students.halving import HALVING, losers, steps_at
from stages.students.stage import STUDENTS
from stages.training import checkpoints
from tests.students.world import Killed, World, cohort_of, student

RATES = (1e-6, 0.02, 0.05, 1e-5)
"""Two points that learn, and two that hardly do."""


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch) -> World:
    return World().use(monkeypatch)


def context(folder: Path, told: list[Event] | None = None) -> Context:
    sink = (lambda event: None) if told is None else told.append
    return Context(workspace=Place(str(folder)), resources=Resources(mode="local"), step="halving.g", sink=sink)


def asked(rungs: int = 3, keep: float = 0.5, models: dict[int, str] | None = None, **more: Any) -> HalvingInputs:
    """A grid of four points with two seeds each, one draw of the budget a seed."""
    points = []
    for number, rate in enumerate(RATES):
        seeds = [
            student(
                f"p{number}",
                seed=seed,
                budget=seed,
                steps=24,
                training={"learning_rate": rate, "schedule": "constant"},
                model=(models or {}).get(number, "small"),
            )
            for seed in range(2)
        ]
        points.append(cohort_of(*seeds))
    return HalvingInputs(
        halving=Halving(rungs=rungs, keep=keep), **{"metric": "accuracy", "points": tuple(points), **more}
    )


# --- what is decided -----------------------------------------------------------------------------------------


def outcomes(*figures: float | None, failed: tuple[int, ...] = ()) -> dict[int, PointOutcome]:
    return {
        number: PointOutcome(quality=(figure,), failed=(0,) if number in failed else ())
        for number, figure in enumerate(figures)
    }


@pytest.mark.parametrize(
    ("keep", "figures", "failed", "stopped"),
    [
        (0.5, (0.1, 0.4, 0.3, 0.2), (), {0, 3}),
        (0.5, (0.1, 0.4, 0.3), (), {0}),  # ceil(1.5) go on
        (0.5, (0.2, 0.2, 0.2, 0.2), (), {2, 3}),  # equal ones in their order
        (0.1, (0.1, 0.4, 0.3), (), {0, 2}),  # one at least goes on
        (0.3, tuple(range(10)), (), {0, 1, 2, 3, 4, 5, 6}),  # 3 of 10, not 4 by a rounding error
        (0.5, (0.9, 0.4, 0.3, 0.2), (0,), {0, 3}),  # a seed failed: it stands behind those without
        (0.5, (0.9, 0.4, 0.3, 0.2), (0, 2, 3), {2, 3}),
        (0.5, (None, 0.4, 0.3, None), (0, 3), {2}),  # all seeds failed: no place is taken
        (0.5, (None, None), (0, 1), set()),
        (0.5, (0.3,), (), set()),
    ],
)
def test_the_best_by_their_last_figure_go_on(
    keep: float, figures: tuple[float | None, ...], failed: tuple[int, ...], stopped: set[int]
) -> None:
    assert losers(keep, outcomes(*figures, failed=failed), 1.0).keys() == stopped


def test_less_may_be_better() -> None:
    assert losers(0.5, outcomes(0.1, 0.4, 0.3, 0.2), -1.0) == {1: 0.4, 2: 0.3}


def test_each_rung_is_a_share_of_the_next() -> None:
    assert [steps_at(Halving(rungs=3, keep=0.5), rung, 1000) for rung in (1, 2)] == [250, 500]
    assert [steps_at(Halving(rungs=4, keep=0.25), rung, 1000) for rung in (1, 2, 3)] == [16, 62, 250]
    assert steps_at(Halving(rungs=5, keep=0.1), 1, 3) == 1


# --- what is trained -----------------------------------------------------------------------------------------


def test_those_that_learn_go_on_and_end_as_if_alone(world: World, tmp_path: Path) -> None:
    told: list[Event] = []
    here = context(tmp_path / "halved", told)
    found = HALVING.run(here, asked())
    ends = [(point.stopped.rung if point.stopped else None) for point in found.points]
    assert sorted(ends, key=str) == [1, 1, 2, None]
    assert {number for number, end in enumerate(ends) if end == 1} == {0, 3}, "those that hardly learn"
    assert [len(point.quality) for point in found.points] == [end or 2 for end in ends]
    assert [event.message for event in told if event.kind == "note"] == [
        "halving.g, rung 1 of 3: 2 of 4 go on",
        "halving.g, rung 2 of 3: 1 of 4 go on",
    ]
    winner = ends.index(None)
    before = len(world.feeds)
    after = STUDENTS.run(here, asked().points[winner])
    assert sum(feed.counters["labels"] for feed in world.feeds[before:]) == 12 * 8, "it went on from the second rung"
    plain = STUDENTS.run(context(tmp_path / "plain"), asked().points[winner])
    assert [one.model.digest for one in after.students if one.model] == [
        one.model.digest for one in plain.students if one.model
    ]
    assert [one.history for one in after.students] == [one.history for one in plain.students]


def test_figures_are_means_of_the_seeds_own_selection_quality(world: World, tmp_path: Path) -> None:
    """At a rung that ends an epoch they are those of an ordinary training's history."""
    found = HALVING.run(context(tmp_path / "halved"), asked())
    for point, outcome in zip(asked().points, found.points, strict=True):
        whole = STUDENTS.run(context(tmp_path / "plain"), point)
        at_rung = [one.history[0].validation["accuracy"] for one in whole.students]  # 6 steps: one epoch
        assert outcome.quality[0] == pytest.approx(sum(at_rung) / 2)


def test_a_second_look_trains_nothing_and_stopped_ones_leave_no_checkpoints(world: World, tmp_path: Path) -> None:
    here = context(tmp_path)
    found = HALVING.run(here, asked())
    feeds = len(world.feeds)
    assert HALVING.find(here, asked()) == found
    assert HALVING.run(here, asked()) == found
    assert len(world.feeds) == feeds
    for point, outcome in zip(asked().points, found.points, strict=True):
        for order in STUDENTS.orders(here, point):
            assert bool(order.folder.names("checkpoints")) == (outcome.stopped is None)


def test_a_stopped_student_is_answered_as_such_and_not_trained(world: World, tmp_path: Path) -> None:
    here = context(tmp_path)
    outcome = next(point for point in HALVING.run(here, asked()).points if point.stopped)
    one = asked().points[0]
    stopped = one.model_copy(
        update={"students": tuple(item.model_copy(update={"stopped": outcome.stopped}) for item in one.students)}
    )
    feeds = len(world.feeds)
    assert STUDENTS.fingerprints(stopped) == STUDENTS.fingerprints(one)
    found = STUDENTS.find(here, stopped)
    assert found is not None
    assert [(item.model, item.failure, item.stopped) for item in found.students] == [(None, None, outcome.stopped)] * 2
    assert len(world.feeds) == feeds
    assert STUDENTS.find(here, one) is None


@pytest.mark.parametrize("die_at", [3, 20, 33])
def test_a_killed_halving_decides_the_same(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, die_at: int
) -> None:
    whole = HALVING.run(context(tmp_path / "whole"), asked())
    monkeypatch.setattr(checkpoints, "EVERY_SECONDS", 0.0)
    dying = World().use(monkeypatch)
    dying.samples.die_at = die_at
    here = context(tmp_path / "killed")
    with pytest.raises(Killed):
        HALVING.run(here, asked())
    assert HALVING.find(here, asked()) is None
    World().use(monkeypatch)
    assert HALVING.run(here, asked()) == whole


def test_a_student_that_exists_already_is_measured_once_more_elsewhere(world: World, tmp_path: Path) -> None:
    """Its artifact holds no checkpoint of a rung; nothing of it changes, and nothing is left behind."""
    fresh = HALVING.run(context(tmp_path / "fresh"), asked())
    here = context(tmp_path / "later")
    before = [STUDENTS.run(here, point) for point in asked().points]
    assert HALVING.run(here, asked()) == fresh
    assert [STUDENTS.find(here, point) for point in asked().points] == before
    folder = here.artifact_place("halving", HALVING.fingerprint(asked()))
    assert folder.names("apart") == []


def test_a_training_that_came_further_than_a_rung_starts_anew(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fresh = HALVING.run(context(tmp_path / "fresh"), asked())
    monkeypatch.setattr(checkpoints, "EVERY_SECONDS", 0.0)
    dying = World().use(monkeypatch)
    dying.samples.die_at = 40
    here = context(tmp_path / "later")
    with pytest.raises(Killed):
        STUDENTS.run(here, asked().points[1])
    World().use(monkeypatch)
    assert HALVING.run(here, asked()) == fresh


def test_a_point_that_fails_takes_nobodys_place(world: World, tmp_path: Path) -> None:
    found = HALVING.run(context(tmp_path), asked(models={1: "not_finite"}))
    assert found.points[1] == PointOutcome(quality=(None, None), failed=(0, 1))
    assert [point.stopped is None for point in found.points].count(True) == 2, "the failed one, and the best other"
    assert found.points[2].stopped is None


def test_without_validation_labels_nothing_can_be_compared(world: World, tmp_path: Path) -> None:
    points = tuple(cohort_of(student(f"p{number}", budget=2, steps=8, seed=number)) for number in range(2))
    with pytest.raises(SpecError, match="no student has validation labels to be compared by"):
        HALVING.run(context(tmp_path), asked(points=points))


def test_final_quality_is_out_of_reach() -> None:
    """What halving is asked holds samples, splits, budgets and labels: no truth of the test rows."""
    import json

    assert "truth" not in json.dumps(asked().dump())
    assert HalvingInputs.model_validate(HALVING.example().dump()) == HALVING.example()


def test_what_counts_in_its_fingerprint() -> None:
    base = HALVING.fingerprint(asked())
    assert HALVING.fingerprint(asked()) == base
    others = [
        HALVING.fingerprint(asked(rungs=2)),
        HALVING.fingerprint(asked(keep=0.4)),
        HALVING.fingerprint(asked(metric="nll")),
        HALVING.fingerprint(asked(models={0: "vandal"})),
        HALVING.fingerprint(asked(points=asked().points[:3])),
    ]
    assert len({base, *others}) == 6
