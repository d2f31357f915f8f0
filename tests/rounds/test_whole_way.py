"""Rounds through the ordinary pipeline: every policy, killed and resumed, gone on with, and shown."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from pipeline.api import chains_so_far, plan, run
from pipeline.show import report_of
from schemas.errors import CrossdistillError, SpecError
from schemas.runs import Event
from stages.domains.reader import read_budget
from stages.places import Place
from tests.pipeline.world import write_domain, write_spec, write_world


def spec_with(path: Path, policy: Any, **rounds: Any) -> Path:
    """The world's spec with rounds of two chains; short trainings, and a raw teacher to be carried over."""
    value = yaml.safe_load(write_spec(path).read_text())
    short = {"steps": 4, "batch_size": 16}
    value["teachers"] = {"big": {"domains": ["source"], "model": "resnet-tiny", "training": {"steps": 8}}}
    value["labels"]["said"]["teacher"] = "big"
    student = {"model": "mobile-tiny", "labels": "said", "training": short, "seeds": 2}
    value["students"] = {"small": student, "wide": student | {"model": {"name": "mobile-tiny", "width": 0.5}}}
    value["evaluation"] = {"metrics": ["accuracy"], "bootstrap": 50, "cost": False, "baselines": ["no-teacher"]}
    value["rounds"] = {"policy": policy, "max_rounds": 2, "patience": 9, **rounds}
    path.write_text(yaml.safe_dump(value, sort_keys=False))
    return path


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_world(tmp_path_factory.mktemp("rounds") / "world").parent


POLICIES = {
    "adaptive": {"name": "adaptive", "tolerance": 0.0},
    "migration": "migration",
    "co-training": "co-training",
    "bootstrap": "bootstrap",
    "born-again": "born-again",
}


@pytest.mark.parametrize("name", POLICIES)
def test_every_policy_goes_two_rounds(folder: Path, name: str) -> None:
    path = spec_with(folder / f"{name}.yaml", POLICIES[name])
    workspace = str(folder / "shared.workspace")
    result = run(path, workspace)
    assert not result.failures, result.failures
    chains = chains_so_far(path, workspace)
    assert [chain.seed for chain in chains] == [0, 1]
    for chain in chains:
        assert chain.ended, name
        assert len(chain.past) == 2 or name == "adaptive"
        assert all(set(past.students) == {"small", "wide"} for past in chain.past)
        assert chain.records[-1].parent is None or chain.records[-1].number > 1
    assert plan(path, workspace).to_do == []
    report = report_of(plan(path, workspace))
    assert {table.subject for table in report.qualities} == {"small", "wide"}
    assert report.rounds is not None
    assert report.rounds.policy.name == name
    assert {len(line.chains) for line in report.rounds.lines} <= {1, 2}
    for table in report.qualities:
        arms = {arm.arm: len(arm.seeds) for arm in table.arms}
        assert arms == {"teacher": 1, "distilled": 2, "no-teacher": 2}


class Killed(BaseException):
    """Stands for a kill: nothing of ours catches it."""


@pytest.mark.parametrize(
    "at",
    [
        pytest.param("students.small.r1.s0", marks=pytest.mark.long),
        "rounds.s1.1",
        "students.big.tuning.r2.s0",
        pytest.param("labels.said.r2.s1", marks=pytest.mark.long),
    ],
)
def test_killed_in_any_round_it_goes_on_there(folder: Path, tmp_path: Path, at: str) -> None:
    path = spec_with(folder / "killed.yaml", {"name": "migration", "statistics": False})
    whole = run(path, str(folder / "whole.workspace"))
    workspace = str(tmp_path / "workspace")
    made: list[str] = []

    def until(event: Event) -> None:
        if event.kind == "done":
            made.append(event.step)
        if event.kind == "done" and event.step.startswith(at):
            raise Killed

    with pytest.raises(Killed):
        run(path, workspace, listener=until)
    result = run(path, workspace)
    assert not result.failures
    assert made
    assert not set(made) & set(result.made)
    ends = [chains_so_far(path, place) for place in (str(folder / "whole.workspace"), workspace)]
    assert [[record.students for record in chain.records] for chain in ends[0]] == [
        [record.students for record in chain.records] for chain in ends[1]
    ]
    assert result.outputs["evaluation.small"].table == whole.outputs["evaluation.small"].table


def test_more_rounds_go_on_after_the_last_and_redo_nothing(folder: Path) -> None:
    path, workspace = spec_with(folder / "more.yaml", "born-again"), str(folder / "more.workspace")
    first = run(path, workspace)
    again = run(path, workspace, ["rounds.max_rounds=3"])
    trained = {name for name in again.made if name.startswith("students")}
    assert trained == {f"students.{name}.r3.s{seed}" for name in ("small", "wide") for seed in (0, 1)}
    assert not {name for name in again.made if name in first.made} - {"report", "evaluation.small", "evaluation.wide"}
    assert run(path, workspace, ["rounds.max_rounds=3"]).made == []
    assert [len(chain.past) for chain in chains_so_far(path, workspace)] == [2, 2]  # the spec's own word holds again


def test_hidden_truth_changes_no_decision(tmp_path: Path) -> None:
    """Every truth beyond the budgets is another, that of test rows too: all rounds are the same."""
    policy = {"name": "adaptive", "tolerance": 0.0}
    said = []
    shown: set[int] = set()
    for turn in range(2):
        folder = tmp_path / str(turn)
        path = spec_with(write_world(folder).parent / "spec.yaml", policy)
        if turn:
            own = write_domain(folder / "target.npz", 150, 2, 90)
            hidden = np.array([label if row in shown else (label + 1) % 3 for row, label in enumerate(own)])
            write_domain(folder / "target.npz", 150, 2, 90, hidden)
        result = run(path)
        assert not result.failures
        for seed in (0, 1):
            ref = result.outputs[f"budgets.target.seed{seed}"].budget
            budget = read_budget(Place(ref.uri), ref)
            shown |= {*budget.train_positions.tolist(), *budget.validation_positions.tolist()}
        said.append([[record.dump() for record in chain.records] for chain in chains_so_far(path)])
    for one, other in zip(*said, strict=True):
        for first, second in zip(one, other, strict=True):
            assert {key: first[key] for key in ("decision", "state", "students", "sets", "disagreement")} == {
                key: second[key] for key in ("decision", "state", "students", "sets", "disagreement")
            }


def test_without_any_label_agreement_and_confidence_guide_and_are_named(folder: Path) -> None:
    path = spec_with(folder / "blind.yaml", "born-again")
    value = yaml.safe_load(path.read_text())
    value["domains"]["target"]["label_budget"] = 0
    path.write_text(yaml.safe_dump(value))
    workspace = str(folder / "blind.workspace")
    assert not run(path, workspace).failures
    report = report_of(plan(path, workspace))
    assert report.rounds is not None
    assert report.rounds.guide == "agreement and confidence"
    measures = [one for line in report.rounds.lines for record in line.chains for one in record.students]
    assert all(not one.quality and one.agreement is not None and one.confidence is not None for one in measures)


@pytest.mark.parametrize(
    ("rounds", "problem"),
    [
        ({"policy": "born-agin"}, "rounds.policy: no policy is called 'born-agin'; did you mean 'born-again'"),
        ({"policy": {"name": "adaptive", "stp": 1}}, "rounds.policy: .*stp"),
        ({"policy": "born-again", "until": {"acuracy": 0.9}}, "no metric is called 'acuracy'; did you mean 'accuracy'"),
    ],
)
def test_what_is_refused(folder: Path, tmp_path: Path, rounds: dict[str, Any], problem: str) -> None:
    path = spec_with(folder / "refused.yaml", **rounds)
    with pytest.raises(CrossdistillError, match=problem):
        plan(path, str(tmp_path / "workspace"))


def test_students_without_labels_go_through_no_rounds(folder: Path, tmp_path: Path) -> None:
    path = spec_with(folder / "untaught.yaml", "born-again")
    value = yaml.safe_load(path.read_text())
    value["students"]["small"] |= {"labels": None, "domain": "target", "method": "none"}
    path.write_text(yaml.safe_dump(value))
    with pytest.raises(SpecError, match="students.small: rounds are of students with `labels`"):
        plan(path, str(tmp_path / "workspace"))
