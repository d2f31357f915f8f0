"""A teacher that has seen the student's test rows: refused before any training, whoever trained it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import yaml

from pipeline.api import plan, run
from pipeline.runner import RunResult, Selection
from pipeline.specs import load_spec
from schemas.errors import DataError, StoreError
from schemas.labels import Names, Tag
from stages.labels.publish import copy_set
from stages.labels.reader import LabelSet
from stages.labels.tags import put_tag, read_tag
from stages.labels.verify import verify
from stages.places import Place
from tests.labels.test_commands import refused, said
from tests.pipeline.test_given_labels import borrow
from tests.pipeline.world import write_world


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Team A has labelled the target with a teacher that it had carried over to it, and published that."""
    spec = small(write_world(tmp_path_factory.mktemp("held-out")))
    result = run(spec)
    assert not result.failures
    ref = result.outputs["labels.said"].labels
    shared = Place(str(spec.parent / "shared"))
    copy_set(LabelSet.open(ref.uri, ref.fingerprint), shared)
    put_tag(shared, "bars", Tag(fingerprint=ref.fingerprint, digest=ref.digest))
    return spec


def small(spec: Path) -> Path:
    value = yaml.safe_load(spec.read_text())
    value["students"] = {"small": {**value["students"]["small"], "seeds": 1}}
    value["evaluation"] |= {"bootstrap": 50, "baselines": ["source-only"]}
    spec.write_text(yaml.safe_dump(value, sort_keys=False))
    return spec


def refusals(result: RunResult, *steps: str) -> list[str]:
    assert set(result.failures) == set(steps), result.failures
    assert all(isinstance(error, DataError) for error in result.failures.values())
    return [str(result.failures[step]) for step in steps]


def test_a_source_that_holds_test_rows_of_the_target(tmp_path: Path) -> None:
    """Neither the teacher nor the baselines that start from the source are trained on it."""
    spec = small(write_world(tmp_path))
    source, target = (dict(np.load(tmp_path / f"{name}.npz")) for name in ("source", "target"))
    image, label = (np.concatenate([source[name], target[name][:60]]) for name in ("image", "label"))
    np.savez(tmp_path / "source.npz", image=image, label=label)
    teacher, students = refusals(run(spec), "teachers.big", "students.small.source")
    for message, who in ((teacher, "this teacher"), (students, "these students")):
        count, rest = message.split(" ", 1)
        assert 5 < int(count) < 30
        assert rest.startswith("of the 45 test rows of 'target' are among the 1")
        assert f"that {who} was trained on (first: " in message
    workspace = tmp_path / "spec.workspace/artifacts"
    assert not list(workspace.glob("teachers/*/artifact.json"))
    assert not list(workspace.glob("students/*/artifact.json"))


def test_somebody_elses_teacher_that_saw_what_is_test_here(world: Path) -> None:
    """Their set says so itself, wherever it came from; checked with the labels, and again with the students."""
    borrowed, otherwise = borrow(world), ["domains.target.split.seed=5"]
    (message,) = refusals(run(borrowed, overrides=otherwise), "labels.said")
    assert "test rows of 'target' are among the 195 that the teacher of label set" in message
    assert "Split the domain so that" in message
    fine = run(borrowed, selection=Selection(only=("domains.target", "splits.target", "labels.said")))
    assert not fine.failures
    (again,) = refusals(run(borrowed, overrides=otherwise), "students.small")
    assert "test rows are among the 195" in again
    assert not list(world.parent.glob("borrowed.workspace/artifacts/students/*/artifact.json"))
    load_spec(borrowed).path.with_suffix(".lock").unlink()


def test_figures_of_a_run_go_with_the_name(world: Path, tmp_path: Path) -> None:
    """Those of the teacher on the target, by its labels; another's workspace has none."""
    (table,) = (out.table for name, out in plan(world).outputs.items() if name == "evaluation.small")
    (teacher,) = (arm.seeds[0] for arm in table.arms if arm.arm == "teacher")
    shared, workspace = str(world.parent / "shared"), str(world.parent / "spec.workspace")
    said("tag", shared, "bars", "measured", "--measured", workspace, "--quality", "mine=0.5")
    entry = read_tag(Place(shared), "measured")[1]
    assert entry.quality == {
        "accuracy on target": teacher.final["accuracy"],
        "accuracy on target, selection": teacher.selection["accuracy"],
        "mine": 0.5,
    }
    assert "holds no evaluation of that teacher" in refused("tag", shared, "bars", "no", "--measured", str(tmp_path))


def test_a_set_tells_what_its_teachers_saw(world: Path, tmp_path: Path) -> None:
    outputs = plan(world).outputs
    big, fit = (outputs[f"teachers.{name}"] for name in ("big", "fit"))
    assert (big.seen.rows, fit.seen.rows) == (120, 195)
    labels = LabelSet.open(str(world.parent / "shared#bars"))
    origin, seen = labels.manifest.origin, labels.seen()
    assert seen is not None
    assert (len(seen.keys), seen.whole) == (195, True)
    assert origin.names == Names(teacher="fit", model="resnet-tiny", trained_on=("source", "target"), domain="target")
    card = said("show", str(world.parent / "shared"), "bars")
    assert f"fit, resnet-tiny, {labels.manifest.teacher}" in card
    assert "source, target: 195 rows" in card
    assert f"target, {labels.manifest.samples}" in card
    words = ("--encoding", "hard", "--to", str(tmp_path / "s"), "--json")
    encoded = said("encode", str(world.parent / "shared"), "bars", *words)
    smaller = LabelSet.open(str(tmp_path / "s"), yaml.safe_load(encoded)["fingerprint"])
    again = smaller.seen()
    assert again is not None
    assert np.array_equal(again.keys, seen.keys)
    (path,) = (tmp_path / "s").glob("sets/*/seen-*.npy")
    assert len(path.read_bytes()) == 8 * 195 + 128
    assert verify(smaller) == []
    path.write_bytes(path.read_bytes()[:-8])
    assert "is damaged: it says which rows" in verify(smaller)[0]
    with pytest.raises(StoreError, match="is damaged"):
        copy_set(smaller, Place(str(tmp_path / "t")))
