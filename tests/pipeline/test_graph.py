"""The graph of a spec: which steps there are, what they need, who shares a stream, and which classes fit."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml

from pipeline.graph import Graph, build_graph
from pipeline.graph.project import Project
from pipeline.graph.teachers import classes_of
from pipeline.parts import normal_parts
from pipeline.specs import load_spec
from schemas.artifacts import WeightsRef
from schemas.errors import SpecError
from schemas.spec import Spec
from tests.pipeline.world import write_spec


@pytest.fixture
def value(tmp_path: Path) -> dict[str, Any]:
    """The tiny world's spec as plain values, to be changed."""
    loaded: dict[str, Any] = yaml.safe_load(write_spec(tmp_path / "spec.yaml").read_text())
    return loaded


def graph_of(value: dict[str, Any], tmp_path: Path) -> Graph:
    path = tmp_path / "changed.yaml"
    path.write_text(yaml.safe_dump(value, sort_keys=False))
    spec = load_spec(path).spec
    given = {
        part.weights: WeightsRef(uri=part.weights, digest="1" * 32) for part in spec.teachers.values() if part.weights
    }
    return build_graph(spec, dict.fromkeys(spec.domains, "0" * 32), given)


def test_every_step_stands_after_what_it_needs(value: dict[str, Any], tmp_path: Path) -> None:
    seen: set[str] = set()
    for step in graph_of(value, tmp_path).steps.values():
        assert {*step.needs, *step.after} <= seen, step.name
        seen.add(step.name)
    assert {"budgets.source", "budgets.target.seed0", "students.small.source", "evaluation.big.target"} <= seen


def test_what_selection_cannot_see_is_told(value: dict[str, Any], tmp_path: Path) -> None:
    value["domains"]["target"]["label_budget"]["without"] = ["slope"]
    (note,) = graph_of(value, tmp_path).notes
    assert note.startswith("target: no true label shows slope: selection quality")
    assert "tune" not in note
    value["rounds"] = {"policy": "bootstrap"}
    assert "a teacher that rounds tune on true labels may forget them" in graph_of(value, tmp_path).notes[0]


def test_all_data_is_made_before_anything_is_trained(value: dict[str, Any], tmp_path: Path) -> None:
    steps = graph_of(value, tmp_path).steps
    data = {name for name in steps if name.split(".")[0] in ("domains", "splits", "budgets")}
    for name in ("teachers.big", "students.small.source", "students.small"):
        assert data <= {*steps[name].needs, *steps[name].after}


def test_students_with_one_input_side_are_one_cohort(value: dict[str, Any], tmp_path: Path) -> None:
    steps = graph_of(value, tmp_path).steps
    assert steps["students.small"].group == steps["students.sharp"].group == "students.small+1"
    assert steps["students.small.source"].group == "students.small+1.source"
    value["students"]["sharp"]["training"] = {
        **value["students"]["sharp"]["training"],
        "steps": 13,
        "learning_rate": 0.1,
    }
    assert graph_of(value, tmp_path).steps["students.sharp"].group == "students.small+1"
    value["students"]["sharp"]["training"]["batch_size"] = 8
    assert graph_of(value, tmp_path).steps["students.sharp"].group == "students.sharp"


def test_a_method_that_reads_the_source_waits_for_it(value: dict[str, Any], tmp_path: Path) -> None:
    value["evaluation"]["baselines"] = []
    assert "splits.source" not in graph_of(value, tmp_path).steps["students.small"].needs
    value["students"]["small"]["method"] = ["soft", "domain-adversarial"]
    steps = graph_of(value, tmp_path).steps
    assert {"domains.source", "splits.source"} <= set(steps["students.small"].needs)
    assert "splits.source" not in steps["students.sharp"].needs
    assert steps["students.small"].group == steps["students.sharp"].group, "they share the target's stream all the same"


def test_baselines_follow_what_is_possible(value: dict[str, Any], tmp_path: Path) -> None:
    value["domains"]["target"]["label_budget"] = 0
    project = _project(value, tmp_path)
    assert project.arms("small") == ["distilled", "source-only"]
    value["domains"]["target"]["label_budget"] = 5
    value["evaluation"]["baselines"] = ["source-finetuned"]
    project = _project(value, tmp_path)
    assert project.arms("small") == ["distilled", "source-finetuned"]
    assert project.trained_arms("small") == ["distilled", "source-finetuned", "source-only"]


def test_a_given_teacher_has_no_source_and_says_so(value: dict[str, Any], tmp_path: Path) -> None:
    value["teachers"]["big"] = {"model": "resnet-tiny", "weights": "big.safetensors"}
    graph = graph_of(value, tmp_path)
    assert "students.small.source" not in graph.steps
    assert "small: teacher 'big' is given" in graph.notes[0]


def test_several_sources_are_noted(value: dict[str, Any], tmp_path: Path) -> None:
    value["domains"]["other"] = value["domains"]["source"]
    value["teachers"]["big"]["domains"] = ["source", "other"]
    graph = graph_of(value, tmp_path)
    assert "baselines are trained on the first, 'source'" in graph.notes[0]
    assert {"domains.source", "domains.other"} <= set(graph.steps["teachers.big"].needs)


def test_teachers_made_from_each_other_in_a_circle(value: dict[str, Any], tmp_path: Path) -> None:
    value["teachers"]["big"] = {"from": "fit", "adapt": {"domain": "target"}}
    with pytest.raises(SpecError, match="in a circle"):
        _project(value, tmp_path).in_order()


OWN = ("cat", "dog", "oak")


@pytest.mark.parametrize(
    ("class_map", "target", "said"),
    [
        ({"cat": "animal", "dog": "animal", "oak": "plant"}, ("animal", "plant"), None),
        ({"cat": "animal", "oak": "plant"}, ("plant", "animal"), None),
        ({"cat": "animal", "fir": "plant"}, ("animal", "plant"), "names fir, which are no classes of it"),
        (
            {"cat": "animal", "oak": "tree"},
            ("animal", "plant"),
            "leads to tree, which are no classes of domain 'target'",
        ),
        ({"cat": "animal"}, ("animal", "plant"), "leads nothing to plant of domain 'target'"),
        ({}, ("cat", "dog", "oak"), None),
        ({}, ("dog", "cat", "oak"), None),
        ({}, ("cat", "dog", "elm"), "only the first: oak; only the second: elm"),
    ],
)
def test_classes_of_a_given_teacher(
    value: dict[str, Any], tmp_path: Path, class_map: dict[str, str], target: tuple[str, ...], said: str | None
) -> None:
    given = {"model": "resnet-tiny", "weights": "big.safetensors", "classes": list(OWN), "class_map": class_map}
    value["teachers"]["big"] = given
    project = _project(value, tmp_path)
    done = {"domains.target": SimpleNamespace(classes=target)}
    if said is None:
        assert classes_of(project, done, "big", ["target"]) == (OWN, target if class_map else OWN)
    else:
        with pytest.raises(SpecError, match=said):
            classes_of(project, done, "big", ["target"])


def test_classes_in_another_order_are_noted_once_they_are_known(value: dict[str, Any], tmp_path: Path) -> None:
    graph = graph_of(value, tmp_path)
    assert graph.remarks({}) == []
    packed = {
        "domains.source": SimpleNamespace(classes=("a", "b")),
        "domains.target": SimpleNamespace(classes=("b", "a")),
    }
    said = ["teachers.big and domain 'target' have the same classes in another order: they are read by their names"]
    assert graph.remarks(packed) == said
    value["domains"]["source"]["classes"], value["domains"]["target"]["classes"] = ["x", "y"], ["y", "x"]
    assert graph_of(value, tmp_path).remarks({}) == said
    assert graph_of(value, tmp_path).remarks(packed) == said
    value["domains"]["target"]["classes"] = ["x", "y"]
    assert graph_of(value, tmp_path).remarks({}) == []


def test_a_source_of_other_classes_gives_no_baselines(value: dict[str, Any], tmp_path: Path) -> None:
    value["teachers"]["big"]["class_map"] = {"cat": "animal", "dog": "animal", "oak": "plant"}
    project = _project(value, tmp_path)
    assert project.arms("small") == ["distilled", "no-teacher"]
    graph = graph_of(value, tmp_path)
    assert "students.small.source" not in graph.steps
    assert "evaluation.big.source" not in graph.steps
    assert (
        "small: teacher 'big' maps its classes onto others: source-only and source-finetuned are left out"
        in graph.notes
    )


def _project(value: dict[str, Any], tmp_path: Path) -> Project:
    path = tmp_path / "changed.yaml"
    path.write_text(yaml.safe_dump(value, sort_keys=False))
    spec: Spec = load_spec(path).spec
    return Project(spec, normal_parts(spec), {}, {})
