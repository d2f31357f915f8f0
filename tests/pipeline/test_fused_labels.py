"""Several teachers of one student in a spec: through the ordinary graph, and every fault before any work."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from pipeline.api import plan, run
from pipeline.graph import Graph, build_graph
from pipeline.specs import load_spec
from schemas.errors import CrossdistillError
from schemas.labels import LabelsInputs
from stages.evaluation.reader import read_report
from stages.labels.reader import LabelSet
from stages.places import Place
from tests.pipeline.world import write_spec, write_world
from tests.test_door import command

LABELS: dict[str, Any] = {
    "adapted": {"teacher": "fit", "domain": "target"},
    "raw": {"teacher": "big", "domain": "target", "encoding": {"kind": "top-k", "k": 2}},
    "both": {"fuse": ["adapted", "raw"], "weights": [0.7, 0.3], "encoding": {"kind": "dense", "dtype": "float32"}},
}


def fused(path: Path, **labels: Any) -> Path:
    """The world's spec, whose student learns from two teachers."""
    spec = write_spec(path)
    value = yaml.safe_load(spec.read_text())
    value["labels"] = LABELS | labels
    value["students"] = {"small": {**value["students"]["small"], "labels": "both", "seeds": 1}}
    value["evaluation"] = {"cost": False, "bootstrap": 50, "baselines": ["source-only"]}
    spec.write_text(yaml.safe_dump(value, sort_keys=False))
    return spec


def graph_of(spec: Path) -> Graph:
    loaded = load_spec(spec).spec
    return build_graph(loaded, dict.fromkeys(loaded.domains, "0" * 32), {})


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return fused(write_world(tmp_path_factory.mktemp("fused")))


def test_a_student_of_two_teachers(world: Path) -> None:
    result = run(world)
    assert not result.failures
    parts = [result.outputs[f"labels.{name}"].labels for name in ("adapted", "raw", "both")]
    first, second, both = (LabelSet.open_ref(Place(ref.uri), ref) for ref in parts)
    rows = np.arange(150)
    p, q = (np.exp(item.decode(item.gather(rows)).log_probabilities(1.0)) for item in (first, second))
    mean = np.exp(both.decode(both.gather(rows)).log_probabilities(1.0))
    assert np.allclose(mean, 0.7 * p + 0.3 * q, atol=1e-6)
    assert both.manifest.parents == (first.digest, second.digest)
    assert [unit.shard_digest for unit in both.units] == [unit.shard_digest for unit in first.units]
    (student,) = [out for out in result.outputs["students.small"].students if out.arm == "distilled"]
    assert student.model is not None
    ref = result.outputs["report"].report
    shown = {section.name: section for section in read_report(Place(ref.uri), ref).labels}
    assert (shown["both"].fuse, shown["both"].teacher) == (("adapted", "raw"), None)
    again = run(world)
    assert again.made == []
    tables = {name for name in result.outputs if name.startswith("evaluation.")}
    assert {"evaluation.fit.target", "evaluation.big.target", "evaluation.small"} <= tables


def test_what_changes_and_what_is_kept(world: Path) -> None:
    run(world)
    planned = plan(world, overrides=["labels.both.weights=confidence"])
    assert {"labels.both", "students.small"} <= set(planned.to_do)
    assert not {"labels.raw", "labels.adapted", "students.small.source", "teachers.big"} & set(planned.to_do)
    step = planned.steps["labels.both"]
    assert step.why == "fuse.weights: [0.7, 0.3] -> confidence"
    looser = plan(world, overrides=["labels.both.require={top1_agreement: 0.9}"])
    assert looser.to_do == []


def test_alone_as_a_stage(world: Path, tmp_path: Path) -> None:
    run(world)
    inputs = plan(world).steps["labels.both"].inputs
    assert isinstance(inputs, LabelsInputs)
    (tmp_path / "inputs.json").write_bytes(inputs.to_json())
    words = ("stage", "labels", str(tmp_path / "inputs.json"), "--workspace", str(tmp_path / "w"), "--local")
    answer = command(*words)
    assert answer.returncode == 0, answer.stderr
    known = run(world).outputs["labels.both"]
    assert json.loads(answer.stdout)["labels"]["digest"] == known.labels.digest
    assert json.loads(answer.stdout)["classes"] == list(known.classes)


def test_sets_stand_after_those_that_they_fuse(world: Path, tmp_path: Path) -> None:
    spec = fused(tmp_path / "spec.yaml", twice={"fuse": ["both", "raw"]})
    value = yaml.safe_load(spec.read_text())
    value["labels"] = dict(reversed(value["labels"].items()))
    spec.write_text(yaml.safe_dump(value, sort_keys=False))
    seen: set[str] = set()
    graph = graph_of(spec)
    for step in graph.steps.values():
        assert {*step.needs, *step.after} <= seen, step.name
        seen.add(step.name)
    assert set(graph.steps["labels.twice"].needs) == {"labels.both", "labels.raw", "domains.target"}
    assert graph.notes == [], "its teachers have one source"
    assert "students.small.source" in graph.steps


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ({"both": {"fuse": ["adapted", "rew"]}}, "labels.both.fuse: no label set is called 'rew'; did you mean 'raw'"),
        ({"both": {"fuse": ["adapted"]}}, "names two label sets or more"),
        ({"both": {"fuse": ["raw", "raw"]}}, "each once"),
        ({"both": {"fuse": ["adapted", "raw"], "weights": [1]}}, "2 label sets have 2 weights, not 1"),
        ({"both": {"fuse": ["adapted", "raw"], "weights": [1, 0]}}, "weights are numbers above 0"),
        ({"both": {"fuse": ["adapted", "raw"], "weights": "sure"}}, "or `confidence`"),
        ({"both": {"fuse": ["adapted", "raw"], "teacher": "big"}}, "ask nobody: leave out teacher"),
        (
            {"both": {"fuse": ["adapted", "raw"], "domain": "source"}},
            "speaks of domain 'source', and 'adapted', .*'target'",
        ),
        (
            {"other": {"teacher": "big", "domain": "source"}, "both": {"fuse": ["raw", "other"]}},
            "'other', .* of 'source'",
        ),
        ({"both": {"fuse": ["adapted", "x"]}, "x": {"fuse": ["both", "raw"]}}, "labels.x: .* by way of x -> both -> x"),
        ({"raw": {"teacher": "big", "domain": "target", "weights": [1]}}, "weights goes with `fuse`"),
        ({"raw": {"teacher": "big"}}, "name the `domain`"),
        (
            {"raw": {"teacher": "big", "domain": "target", "encoding": {"kind": "top-k", "temperatures": [2.0]}}},
            "labels.both.fuse: 'raw' cannot be fused: temperature 1 lies below",
        ),
    ],
)
def test_faults_are_told_before_any_work(world: Path, labels: dict[str, Any], message: str) -> None:
    spec = fused(world.with_name("faulty.yaml"), **labels)
    with pytest.raises(CrossdistillError, match=message):
        plan(spec, look_only=True)


def test_one_set_under_two_names_is_told(world: Path) -> None:
    run(world)
    twin = fused(world.with_name("spec.yaml"), raw=LABELS["adapted"])
    with pytest.raises(CrossdistillError, match="'adapted' and 'raw' are one label set|'raw' and 'adapted'"):
        plan(twin)
    fused(world)
