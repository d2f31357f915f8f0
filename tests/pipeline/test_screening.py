"""Teachers are judged before their labels are paid for, and a weak one is named by run, plan and report."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from pipeline.graph.project import Project
from pipeline.graph.screening import screening_notes
from pipeline.parts import normal_parts
from pipeline.planner import Plan, make_plan
from pipeline.runner import Selection, execute
from pipeline.show import report_of
from pipeline.specs import load_spec
from schemas.evaluation import QualityTable
from schemas.screening import Screened, ScreeningOutputs
from stages.context import Context
from tests.pipeline.world import write_spec, write_world


def planned(path: Path, context: Context) -> Plan:
    return make_plan(load_spec(path), context)


def test_a_weak_teacher_is_named_before_it_labels_and_again_later(local_context: Context, tmp_path: Path) -> None:
    path = write_world(tmp_path / "world")
    spec = yaml.safe_load(path.read_text())
    spec["teachers"] = {"big": {"domains": ["source"], "model": "resnet-tiny", "training": {"steps": 1}}}
    spec["labels"]["said"]["teacher"] = "big"
    spec["students"] = {"small": spec["students"]["small"] | {"seeds": 1}}
    path = write_spec(path, **spec)
    heard: list[Any] = []
    result = execute(planned(path, local_context), local_context, Selection(), heard.append, "test")
    assert not result.failures
    warned = next(index for index, event in enumerate(heard) if "teacher 'big' is weak" in event.message)
    labelled = next(index for index, event in enumerate(heard) if event.step == "labels.said")
    assert (heard[warned].kind, heard[warned].step) == ("warning", "screening.big.target")
    assert warned < labelled
    again = planned(path, local_context)
    assert not again.to_do
    (note,) = [note for note in again.notes if "teacher 'big' is weak" in note]
    assert "adapt: {domain: target}" in note
    assert note in report_of(again).notes


def test_who_is_better_is_named(tmp_path: Path) -> None:
    spec = load_spec(write_world(tmp_path)).spec
    project = Project(spec, normal_parts(spec), {}, {})

    def notes(teacher: float, alone: float | None = None, always: tuple[float | None, ...] = (0.5, 0.3)) -> list[str]:
        draws = tuple(Screened(rows=6, teacher=teacher, constant=one) for one in always)
        done: dict[str, Any] = {"screening.fit.target": ScreeningOutputs(draws=draws)}
        if alone is not None:
            seeds = [{"seed": seed, "selection": {"accuracy": alone}} for seed in (0, 1)]
            table = {"subject": "small", "domain": "target", "metrics": ["accuracy"]}
            arms = [{"arm": "no-teacher", "seeds": seeds}]
            done["evaluation.small"] = _Judged(QualityTable.model_validate({**table, "arms": arms}))
        return list(screening_notes(project, done))

    assert notes(0.41) == []
    assert notes(0.41, alone=0.40) == []
    assert notes(0.01, always=(None, None)) == [], "of masks or numbers there is no most frequent class"
    (constant,) = notes(0.4)
    assert "accuracy 40.0 on 6 validation rows (of 2 draws), where always the most frequent class has 40.0" in constant
    (student,) = notes(0.6, alone=0.7)
    assert "60.0" in student
    assert "student 'small' without a teacher has 70.0" in student


class _Judged:
    def __init__(self, table: QualityTable) -> None:
        self.table = table


def test_no_step_where_there_is_nothing_to_judge_by(local_context: Context, tmp_path: Path) -> None:
    path = write_world(tmp_path / "world")
    assert "screening.fit.target" in planned(path, local_context).steps
    spec = yaml.safe_load(path.read_text())
    spec["domains"]["target"]["label_budget"] = {"train": 6, "validation": 0}
    assert not [name for name in planned(write_spec(path, **spec), local_context).steps if name.startswith("screening")]
