"""Grids in a spec: one student for each combination, named by its values, steered together, refused in clear words."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from pipeline.api import plan
from pipeline.checks import check_spec
from pipeline.graph import Graph, build_graph
from pipeline.grids import parse_spec, point_name
from pipeline.runner import Selection
from pipeline.show import print_plan
from pipeline.specs import load_spec
from schemas.errors import NAME_PATTERN, ContractError, SpecError
from schemas.spec import Spec
from stages.places import Place
from tests.pipeline.world import write_world

GRID = {"method.temperature": [1, 2.5], "training.learning_rate": [0.001, 0.004]}


@pytest.fixture
def value(tmp_path: Path) -> dict[str, Any]:
    """The tiny world's spec as plain values, with a grid in its first student."""
    loaded: dict[str, Any] = yaml.safe_load(write_world(tmp_path).read_text())
    loaded["students"]["small"]["grid"] = dict(GRID)
    return loaded


def write(value: dict[str, Any], tmp_path: Path) -> Path:
    path = tmp_path / "changed.yaml"
    path.write_text(yaml.safe_dump(value, sort_keys=False))
    return path


def parsed(value: dict[str, Any]) -> Spec:
    return parse_spec(value, "spec.yaml")


def graph_of(value: dict[str, Any], tmp_path: Path) -> Graph:
    spec = load_spec(write(value, tmp_path)).spec
    return build_graph(spec, dict.fromkeys(spec.domains, "0" * 32), {})


def test_a_grid_is_one_student_for_each_combination(value: dict[str, Any]) -> None:
    students = parsed(value).students
    assert list(students) == [
        "small-temperature-1-learning_rate-0.001",
        "small-temperature-1-learning_rate-0.004",
        "small-temperature-2.5-learning_rate-0.001",
        "small-temperature-2.5-learning_rate-0.004",
        "sharp",
    ]
    point = students["small-temperature-2.5-learning_rate-0.004"]
    assert (point.method.name, point.method.settings) == ("soft", {"temperature": 2.5})
    assert (point.training.learning_rate, point.training.steps, point.seeds) == (0.004, 12, (0, 1))
    assert point.point is not None
    assert point.point.dump() == {
        "grid": "small",
        "at": {"method.temperature": 2.5, "training.learning_rate": 0.004},
    }
    assert point.grid == {}


def test_a_point_equals_the_student_written_by_hand(value: dict[str, Any]) -> None:
    by_hand = dict(value["students"]["small"])
    del by_hand["grid"]
    by_hand |= {"method": {"name": "soft", "temperature": 1}}
    by_hand["training"] = {**by_hand["training"], "learning_rate": 0.004}
    value["students"]["hand"] = by_hand
    students = parsed(value).students
    point = students["small-temperature-1-learning_rate-0.004"]
    assert point.model_copy(update={"point": None}) == students["hand"]


def test_a_name_stays_when_the_grid_grows(value: dict[str, Any]) -> None:
    before = set(parsed(value).students)
    value["students"]["small"]["grid"] = {key: [0.5, *values, 7] for key, values in GRID.items()}
    assert before < set(parsed(value).students)


@pytest.mark.parametrize(
    ("at", "name"),
    [
        ({"model": "timm/mobilenetv3_small_100"}, "s-model-timm-mobilenetv3_small_100"),
        ({"model.name": "a.b:make", "labels": "theirs"}, "s-model-a.b-make-labels-theirs"),
        ({"training.learning_rate": 1e-3, "training.optimizer": "sgd"}, "s-learning_rate-0.001-optimizer-sgd"),
        ({"training.learning_rate": 0.123456789}, "s-learning_rate-0.123456789"),
        ({"method.alpha": 1, "preprocessing.alpha": True}, "s-method.alpha-1-preprocessing.alpha-true"),
        ({"method": {"name": "margin", "margin": 1}}, "s-method-margin-cf824d"),
        ({"weights": None, "steps": 1e16}, "s-weights-none-steps-1e16"),
        ({}, "s"),
    ],
)
def test_names_say_the_values(at: dict[str, Any], name: str) -> None:
    assert point_name("s", at) == name


@given(st.dictionaries(st.sampled_from(["a.x", "b.x", "c.name"]), st.one_of(st.text(), st.floats(), st.integers())))
def test_every_name_is_one(at: dict[str, Any]) -> None:
    import re

    at = {path: item for path, item in at.items() if item == item and item not in (float("inf"), -float("inf"))}
    assert re.fullmatch(NAME_PATTERN, point_name("s" * 30, at))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"grid": {"method.temprature": [1]}}, "students.small.method: unknown field 'temprature'.*'temperature'"),
        ({"grid": {"training.lerning_rate": [1, 2]}}, "unknown field 'students.small.training.lerning_rate'; did you"),
        ({"grid": {"modle": ["a", "b"]}}, "unknown field 'students.small.modle'; did you mean 'model'"),
        ({"grid": {"model": ["mobile-tiny", "mobil-tiny"]}}, "students.small.model: .* no model 'mobil-tiny'; did you"),
        ({"grid": {"training.steps": [5, -5]}}, "students.small.grid, at small-steps--5: .*greater than 0"),
        ({"grid": {"seeds": [1, 2]}}, "students.small.grid: 'seeds' is the same for all points"),
        ({"grid": {"method": ["soft"], "method.alpha": [1]}}, "'method.alpha' is a part of 'method'"),
        ({"grid": {"training.steps": [5, 5]}}, "two points of it are small-steps-5: give each value once"),
        ({"grid": {"training.steps": 5}}, "students.small.grid.training.steps"),
        ({"grid": {"training.steps": []}}, "students.small.grid.training.steps"),
        ({"grid": {"name.x.y": [1]}}, "unknown field 'students.small.name'"),
        ({"grid": {"model.name.x": [1]}}, "students.small.model"),
        ({"point": {"grid": "small", "at": {}}}, "students.small: `point` is set where a grid becomes its points"),
        ({"grid": {}, "halving": {}}, "`halving` compares the points of a `grid`"),
        ({"halving": {"rungs": 1}}, "students.small.halving.rungs"),
    ],
)
def test_what_is_wrong_is_told_once_in_the_words_of_the_file(
    value: dict[str, Any], tmp_path: Path, change: dict[str, Any], words: str
) -> None:
    value["students"]["small"] |= change
    with pytest.raises((SpecError, ContractError), match=words) as error:
        check_spec(load_spec(write(value, tmp_path)), Place(str(tmp_path / "w")))
    assert sum("small" in problem and "sources" not in problem for problem in error.value.problems) == 1


def test_a_student_of_a_points_name_is_refused(value: dict[str, Any]) -> None:
    value["students"]["small-temperature-1-learning_rate-0.001"] = dict(value["students"]["sharp"])
    with pytest.raises(SpecError, match=r"small-temperature-1-learning_rate-0.001 stands twice"):
        parsed(value)


def test_places_in_a_grid_are_relative_to_the_file(value: dict[str, Any], tmp_path: Path) -> None:
    value["students"]["small"]["grid"] = {"weights": ["a.pt", "s3://b/b.pt"]}
    spec = load_spec(write(value, tmp_path)).spec
    assert [student.weights for student in spec.students.values()] == [str(tmp_path / "a.pt"), "s3://b/b.pt", None]


def test_set_reaches_all_points_and_the_grid(value: dict[str, Any], tmp_path: Path) -> None:
    changed = ["students.small.training.steps=5", "students.small.grid.method.temperature=[3]"]
    spec = load_spec(write(value, tmp_path), changed).spec
    points = {name: student for name, student in spec.students.items() if student.point}
    assert list(points) == ["small-temperature-3-learning_rate-0.001", "small-temperature-3-learning_rate-0.004"]
    assert {student.training.steps for student in points.values()} == {5}


def test_points_are_steered_alone_or_together(value: dict[str, Any], tmp_path: Path) -> None:
    graph = graph_of(value, tmp_path)
    one = "students.small-temperature-1-learning_rate-0.001"
    assert Selection(only=(one,)).wanted(graph) == {one}
    together = Selection(only=("students.small",)).wanted(graph)
    assert len(together) == 4
    assert one in together
    assert len(Selection(only=("evaluation.small",)).wanted(graph)) == 4
    assert len(Selection(only=("students.small.source",)).wanted(graph)) == 4
    with pytest.raises(SpecError, match=r"did you mean 'students\.small'"):
        Selection(only=("students.smal",)).wanted(graph)


# --- cohorts -------------------------------------------------------------------------------------------------


def cohorts(value: dict[str, Any], tmp_path: Path) -> list[tuple[str, ...]]:
    return [cohort.members for cohort in graph_of(value, tmp_path).cohorts]


def test_points_of_one_input_side_train_together(value: dict[str, Any], tmp_path: Path) -> None:
    graph = graph_of(value, tmp_path)
    assert [(cohort.name, len(cohort.members)) for cohort in graph.cohorts] == [("students.small+4", 5)]
    groups = {step.group for step in graph.steps.values() if step.stage == "students"}
    assert groups == {"students.small+4", "students.small+4.source"}
    value["students"]["small"]["grid"] = {"training.batch_size": [8, 16]}
    assert cohorts(value, tmp_path) == [("small-batch_size-8",), ("small-batch_size-16", "sharp")]
    names = [cohort.name for cohort in graph_of(value, tmp_path).cohorts]
    assert names == ["students.small-batch_size-8", "students.small-batch_size-16+1"]


def test_the_label_set_is_no_part_of_the_input_side(value: dict[str, Any], tmp_path: Path) -> None:
    """Nor is the source that a teacher was trained on."""
    value["domains"]["third"] = dict(value["domains"]["source"])
    value["teachers"]["other"] = {**value["teachers"]["big"], "domains": ["third"]}
    value["labels"]["raw"] = {"teacher": "other", "domain": "target"}
    value["students"]["sharp"]["labels"] = "raw"
    assert len(cohorts(value, tmp_path)) == 1
    steps = graph_of(value, tmp_path).steps
    assert steps["students.sharp.source"].group == "students.sharp.source", "it reads another stream there"


@pytest.mark.parametrize("alone", ["alone", False])
def test_a_student_may_train_by_itself(value: dict[str, Any], tmp_path: Path, alone: Any) -> None:
    value["students"]["sharp"]["cohort"] = alone
    assert [len(members) for members in cohorts(value, tmp_path)] == [4, 1]
    value["students"]["small"]["cohort"] = alone
    assert [len(members) for members in cohorts(value, tmp_path)] == [1, 1, 1, 1, 1]


def test_students_may_be_pinned_to_a_cohort(value: dict[str, Any], tmp_path: Path) -> None:
    value["students"]["third"] = {**value["students"]["sharp"], "cohort": "mine"}
    value["students"]["sharp"]["cohort"] = "mine"
    assert [len(members) for members in cohorts(value, tmp_path)] == [4, 2]
    value["students"]["third"]["training"] = {**value["students"]["third"]["training"], "batch_size": 8}
    words = r"students.third.cohort: 'mine' cannot hold both sharp and third: .* `batch_size` differs \(16 and 8\)"
    with pytest.raises(SpecError, match=words):
        check_spec(load_spec(write(value, tmp_path)), Place(str(tmp_path / "w")))


def test_the_cohort_is_in_no_fingerprint(value: dict[str, Any], tmp_path: Path) -> None:
    from schemas.students import StudentInputs

    assert "cohort" not in StudentInputs.model_fields


# --- halving -------------------------------------------------------------------------------------------------


def test_halving_comes_before_its_points_and_their_baselines(value: dict[str, Any], tmp_path: Path) -> None:
    value["students"]["small"]["halving"] = {"rungs": 3, "keep": 0.5}
    steps = graph_of(value, tmp_path).steps
    assert {"labels.said", "budgets.target.seed0", "budgets.target.seed1"} <= set(steps["halving.small"].needs)
    point = "students.small-temperature-1-learning_rate-0.001"
    assert "halving.small" in steps[point].needs
    assert "halving.small" in steps[f"{point}.source"].needs
    assert "halving.small" not in steps["students.sharp"].needs


@pytest.mark.parametrize(
    "change",
    [
        {"label_budget": {"train": 6, "validation": 0}},
        {"split": {"train": 0.7, "validation": 0, "test": 0.3}},
    ],
)
def test_halving_without_validation_labels_is_refused(
    value: dict[str, Any], tmp_path: Path, change: dict[str, Any]
) -> None:
    value["students"]["small"]["halving"] = {}
    value["domains"]["target"] |= change
    with pytest.raises(SpecError, match=r"students.small.halving compares by selection quality, and domain 'target'"):
        check_spec(load_spec(write(value, tmp_path)), Place(str(tmp_path / "w")))


# --- plan ----------------------------------------------------------------------------------------------------


def test_thirty_students_are_planned_without_torch(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    spec = write_world(tmp_path / "world")
    value = yaml.safe_load(spec.read_text())
    value["students"]["small"]["grid"] = {
        "method.temperature": [1, 2, 3, 4, 5],
        "training.learning_rate": [0.001, 0.002, 0.003],
        "model": ["mobile-tiny", "resnet-tiny"],
    }
    spec.write_text(yaml.safe_dump(value, sort_keys=False))
    made = plan(spec)  # tries the two models, in a process of its own
    print_plan(made)
    assert "small (30 points), sharp" in capsys.readouterr().out
    code = (
        "import sys; from pipeline.api import plan; "
        f"made = plan({str(spec)!r}); heavy = {{'torch', 'ray', 'zarr'}} & set(sys.modules); "
        "print(len(made.loaded.spec.students), sorted(heavy))"
    )
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert answer.stdout.strip() == "31 []"
