"""A student that becomes a teacher, and one that starts from a teacher: through the ordinary graph."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from pipeline.api import plan, run
from pipeline.checks import check_spec
from pipeline.checks.draws import learned_draws
from pipeline.graph import build_graph
from pipeline.graph.project import Project
from pipeline.parts import normal_parts
from pipeline.specs import load_spec
from schemas.canonical import digest
from schemas.errors import CrossdistillError
from schemas.spec import LabelBudget
from stages.domains.reader import TRAIN, Samples, read_budget, read_split
from stages.domains.seen import seen_keys
from stages.labels.reader import LabelSet
from stages.places import Place
from stages.training.models import read_card, read_state
from tests.pipeline.world import write_spec, write_world


def chain(path: Path, **changes: Any) -> Path:
    """The world's spec, whose first student teaches a second one of its own kind, and tunes the first teacher."""
    value = yaml.safe_load(write_spec(path).read_text())
    first = value["students"]["small"] | {"seeds": [1]}
    value["teachers"]["was-small"] = {"student": "small", "seed": 1}
    value["labels"]["again"] = {"teacher": "was-small", "domain": "target"}
    value["students"] = {
        "small": first,
        "second": first | {"labels": "again"},
        "tuned": first
        | {"model": "resnet-tiny", "start": "big", "baselines": [], "training": {**first["training"], "steps": 1}},
    }
    value["evaluation"] = {"cost": False, "bootstrap": 50, "baselines": ["no-teacher"]}
    for part, change in changes.items():
        kind, _, name = part.partition("_")
        value[kind][name] = value[kind][name] | change
    path.write_text(yaml.safe_dump(value, sort_keys=False))
    return path


COPIES = {"students_tuned": {"seeds": [1, 2]}}


def rate_of(path: Path, student: str) -> float:
    return float(load_spec(path).spec.students[student].training.learning_rate)


def moved(model: Any, before: Any) -> float:
    """How far the weight of a convolution moved that moved most."""
    now, then = (read_state(Place(ref.uri), ref) for ref in (model, before))
    return max(float((now[name] - value).abs().max()) for name, value in then.items() if value.dim() == 4)


def test_the_whole_way(tmp_path: Path) -> None:
    path = write_world(tmp_path / "world")
    result = run(chain(path))
    assert not result.failures
    done = result.outputs
    student = next(one for one in done["students.small"].students if one.arm == "distilled")
    taught = done["teachers.was-small"].model
    states = [read_state(Place(ref.uri), ref) for ref in (student.model, taught)]
    assert all(np.array_equal(states[0][name], states[1][name]) for name in states[0])
    assert read_card(Place(taught.uri), taught).model.name == "mobile-tiny"

    # what it learned from goes with its labels: inputs of the train rows, its budget, and what its teacher saw
    labels = [
        LabelSet.open_ref(Place(ref.uri), ref) for ref in (done["labels.said"].labels, done["labels.again"].labels)
    ]
    before, after = (found.seen() for found in labels)
    assert before is not None
    assert after is not None
    samples = Samples.open(Place(done["domains.target"].samples.uri), done["domains.target"].samples)
    split = done["splits.target"].split
    budget = read_budget(Place(done["budgets.target.seed1"].budget.uri), done["budgets.target.seed1"].budget)
    train = np.flatnonzero(read_split(Place(split.uri), split) == TRAIN)
    own = seen_keys(samples.content_ids_at(np.r_[train, budget.train_positions, budget.validation_positions]))
    assert set(after.keys.tolist()) == set(before.keys.tolist()) | set(own.tolist())
    assert after.whole

    # one step of Adam moves no weight by more than its rate, so it began at the teacher's
    tuned = next(one for one in done["students.tuned"].students if one.arm == "distilled").model
    big = done["teachers.big"].model
    assert 0 < moved(tuned, big) < 1.1 * rate_of(path, "tuned")
    assert {arm.arm for arm in done["evaluation.tuned"].table.arms} == {"teacher", "distilled"}
    assert {arm.arm for arm in done["evaluation.second"].table.arms} == {"teacher", "distilled", "no-teacher"}
    assert plan(path).to_do == []


def test_who_learns_from_another_trains_after_it(tmp_path: Path) -> None:
    loaded = load_spec(chain(write_world(tmp_path)))
    graph = build_graph(loaded.spec, dict.fromkeys(loaded.spec.domains, "0" * 32), {})
    names = list(graph.steps)
    assert names.index("students.small") < names.index("teachers.was-small") < names.index("labels.again")
    for step in graph.steps.values():
        assert all(names.index(need) < names.index(step.name) for need in step.needs)
    groups = {name: graph.steps[f"students.{name}"].group for name in ("small", "second", "tuned")}
    assert groups["small"] == groups["tuned"] != groups["second"]


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"teachers_was-small": {"student": "smal"}}, "no student is called 'smal'; did you mean 'small'"),
        ({"teachers_was-small": {"seed": 3}}, "student 'small' is trained with seed 1, not with 3"),
        ({"teachers_was-small": {"model": "resnet-tiny"}}, "takes only its `seed`, not model"),
        ({"students_small": {"labels": "again"}}, "was-small.*small.*are made from each other in a circle"),
        ({"students_tuned": {"start": "bug"}}, "no teacher is called 'bug'; did you mean 'big'"),
        ({"students_tuned": {"model": "mobile-tiny"}}, "'big' is a resnet-tiny and the student a mobile-tiny"),
        ({"students_tuned": {"weights": "some.pt"}}, "`weights` or from a teacher's .*leave out one"),
        (
            {"students_tuned": {"domain": "target", "labels": None, "method": "none", "pretrain": True}},
            "none with its classes",
        ),
        (
            {"domains_target": {"label_budget": {"train": 5, "validation": 5, "seed": 1}}, **COPIES},
            "copies of each other",
        ),
        (
            {"students_second": {"seeds": [0, 1]}},
            "students.second: teacher 'was-small' learned from draw 1 of .*label_budget.seed: 1",
        ),
    ],
)
def test_what_is_refused(tmp_path: Path, changes: dict[str, Any], problem: str) -> None:
    path = chain(write_world(tmp_path), **changes)
    with pytest.raises(CrossdistillError, match=problem):
        check_spec(load_spec(path), Place(str(tmp_path / "workspace")))


def test_all_seeds_may_have_one_draw(tmp_path: Path) -> None:
    """A teacher that learned from the budget may then teach every seed; the draw is the same as ever."""
    path = chain(write_world(tmp_path), students_second={"seeds": [0, 1]})
    value = yaml.safe_load(path.read_text())
    own = LabelBudget.model_validate(value["domains"]["target"]["label_budget"])
    one = own.model_copy(update={"seed": 1})
    value["domains"]["target"]["label_budget"] = one.dump()
    path.write_text(yaml.safe_dump(value))
    loaded = load_spec(path)
    check_spec(loaded, Place(str(tmp_path / "workspace")))
    graph = build_graph(loaded.spec, dict.fromkeys(loaded.spec.domains, "0" * 32), {})
    assert [name for name in graph.steps if name.startswith("budgets.target")] == ["budgets.target.seed1"]
    assert "budgets.target.seed1" in graph.steps["students.second"].needs
    assert digest(one) == digest(own)


def test_a_draw_is_learned_from_over_all_that_a_teacher_is_made_from(tmp_path: Path) -> None:
    loaded = load_spec(chain(write_world(tmp_path)))
    project = Project(loaded.spec, normal_parts(loaded.spec), {}, {})
    assert learned_draws(project, "big", "target") == set()
    assert learned_draws(project, "was-small", "target") == {1}
    assert learned_draws(project, "was-small", "source") == {0}


def test_a_student_may_start_from_itself_on_the_source(tmp_path: Path) -> None:
    """Seed by seed, and its baseline does too; what has no teacher begins anew."""
    path = write_spec(write_world(tmp_path))
    value = yaml.safe_load(path.read_text())
    student = value["students"]["small"]
    value["students"] = {
        "small": student
        | {"pretrain": True, "seeds": 2, "training": {**student["training"], "steps": 1}, "baselines": ["no-teacher"]}
    }
    value["evaluation"] = {"cost": False, "bootstrap": 50}
    path.write_text(yaml.safe_dump(value))
    result = run(path)
    assert not result.failures
    rate = rate_of(path, "small")
    before = {one.seed: one.model for one in result.outputs["students.small.source"].students}
    for one in result.outputs["students.small"].students:
        far = moved(one.model, before[one.seed])
        assert (0 < far < 1.1 * rate) == (one.arm == "distilled"), (one.arm, one.seed, far)
