"""Views on the whole way: a student is fed what the teacher labelled, and one more view asks for itself alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml

from crossdistill import LabelSet, plan, run
from pipeline.graph.project import Project
from pipeline.parts import normal_parts
from pipeline.specs import load_spec
from schemas.errors import StoreError, UserError
from schemas.labels import VIEWS
from schemas.spec import Storage
from schemas.students import CohortInputs
from stages.places import Place
from stages.random import view_draws
from stages.students import cohort
from stages.students.fit import Fit
from stages.students.order import Order
from stages.students.stage import STUDENTS, _alone, part_of
from stages.tasks import get_task
from stages.training.models import load_model
from tests.pipeline.world import write_world

THREE = {"count": 3, "settings": {"translate": 0.2, "rotate": 25, "crop": [0.5, 1.0]}}
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run whose labels hold three views."""
    spec = write_world(tmp_path_factory.mktemp("views"))
    exact = {"kind": "dense", "dtype": "float32"}
    change(spec, {"teacher": "fit", "domain": "target", "views": THREE, "encoding": exact})
    run(spec)
    return spec


def change(spec: Path, labels: dict[str, Any]) -> None:
    value = yaml.safe_load(spec.read_text())
    spec.write_text(yaml.safe_dump({**value, "labels": {"said": labels}}, sort_keys=False))


def asked(spec: Path) -> CohortInputs:
    inputs = plan(spec).steps["students.small"].inputs
    assert isinstance(inputs, CohortInputs)
    return inputs


def fit_of(inputs: CohortInputs, folder: Path) -> Fit:
    """The first distilled student, before its training."""
    one = next(student for student in inputs.students if student.arm == "distilled")
    alone = _alone(inputs, one)
    order = Order(alone, STUDENTS.fingerprints(alone)[part_of(one)], Place(str(folder)), {}, "students", 1)
    return Fit(order, get_task(inputs.task), Storage(), CPU)


def test_the_student_sees_what_the_teacher_saw(world: Path, tmp_path: Path) -> None:
    """The teacher itself, run again over the students' batches, says what the store says: in all views, to the bit of
    float32 sums."""
    inputs = asked(world)
    assert inputs.stream.views.count == 3
    fit = fit_of(inputs, tmp_path)
    feed = cohort.open_feed([fit], Storage(), CPU)
    made = plan(world).outputs["teachers.fit"].model
    teacher = load_model(Place(made.uri), made)
    assert fit.labels is not None
    plain = 0
    for step in range(3 * feed.rows.steps_per_epoch):
        batch = feed.shared(step, {fit.labels: ()})
        with torch.inference_mode():
            again = teacher.module(batch.inputs)
        assert torch.allclose(again, batch.teachers[fit.labels].dense(), atol=1e-4), step
        rows = feed.rows.at(step)
        samples = get_task(inputs.task).batch(feed.samples.gather(rows.positions), teacher.preprocessing)
        plain += int((samples == batch.inputs).all(dim=(1, 2, 3)).sum())
    assert plain == len(feed.rows.positions) + padding(feed), "in three epochs each row comes once as it is"
    assert feed.counters["decoded"] == 3 * feed.rows.steps_per_epoch * feed.rows.batch_size


def test_all_views_of_a_row_stand_beside_it(world: Path, tmp_path: Path) -> None:
    """One of them is the view that the student is shown, and the mean is that of the store."""
    inputs = asked(world)
    fit = fit_of(inputs, tmp_path)
    feed = cohort.open_feed([fit], Storage(), CPU)
    assert fit.labels is not None
    store, positions = feed.label_sets[fit.labels], feed.rows.at(1).positions
    batch = feed.shared(1, {fit.labels: (VIEWS,)}).teachers[fit.labels]
    said = batch.fields[VIEWS]
    assert said.shape == (len(positions), 3, 3)
    shown = (positions + feed.rows.at(1).epoch) % 3
    assert torch.allclose(said[range(len(positions)), shown], torch.log_softmax(batch.dense(), dim=1), atol=1e-5)
    for view in range(3):
        stored = store.gather(positions, np.full_like(positions, view), extras=())
        assert np.allclose(said[:, view], store.decode(stored).log_probabilities(1.0), atol=1e-5)


def test_consistency_needs_views(world: Path, tmp_path: Path) -> None:
    value = yaml.safe_load(world.read_text())
    value["students"] = {"small": value["students"]["small"] | {"method": "consistency", "seeds": 1, "baselines": []}}
    spec = world.parent / "consistency.yaml"
    spec.write_text(yaml.safe_dump(value, sort_keys=False))
    result = run(spec)
    assert not result.failures
    assert result.outputs["students.small"].students[0].failure is None
    value["labels"]["said"] = {"teacher": "fit", "domain": "target"}
    spec.write_text(yaml.safe_dump(value, sort_keys=False))
    with pytest.raises(UserError, match=r"'consistency': it reads `views` .* label with `views: \{count: 4"):
        plan(spec)


def padding(feed: Any) -> int:
    """Rows that only fill up a batch, and are read as they are."""
    padded = 0
    for step in range(3 * feed.rows.steps_per_epoch):
        rows = feed.rows.at(step)
        padded += int((((rows.positions + rows.epoch) % 3 == 0) & (rows.weights == 0)).sum())
    return padded


def test_one_more_view_and_nothing_else_is_labelled(world: Path) -> None:
    store = Place(f"{world.parent}/spec.workspace/store")
    before = set(store.names("units"))
    result = run(world, overrides=["labels.said.views.count=4"])
    assert len(before) == 9
    assert len(set(store.names("units")) - before) == 3
    assert "labels.said" in result.made
    assert {"students.small", "students.sharp"} <= set(result.made)
    assert "teachers.big" not in result.made
    labels = LabelSet.open(store, result.outputs["labels.said"].labels.fingerprint)
    assert len(labels.manifest.replays) == 16
    assert len({unit.view for unit in labels.units}) == 4


def test_students_of_other_views_are_another_cohort(world: Path) -> None:
    value = yaml.safe_load(world.read_text())
    value["labels"]["plain"] = {"teacher": "fit", "domain": "target"}
    value["students"]["sharp"]["labels"] = "plain"
    other = world.parent / "two.yaml"
    other.write_text(yaml.safe_dump(value, sort_keys=False))
    steps = plan(other, workspace=str(world.parent / "w")).steps
    groups = {name: planned.step.group for name, planned in steps.items()}
    assert groups["students.small"] != groups["students.sharp"]


@pytest.mark.parametrize("on_source", [False, True])
def test_rows_with_truth_change_as_the_views_do(world: Path, on_source: bool) -> None:
    """Those of the baselines too, on target and source; else a gain would tell of the changes alone."""

    def changes(augmentation: str) -> Any:
        spec = load_spec(world, [f"students.small.training.augmentation={augmentation}"]).spec
        settings = Project(spec, normal_parts(spec), {}, {}).stream_settings("small", on_source)
        assert settings["views"].count == (1 if on_source else 3)
        return settings["augmentation"]

    assert changes("{}") == normal_parts(load_spec(world).spec).views["said"].settings
    assert changes("{}")["rotate"] == 25
    own = changes("{flip: true}")
    assert (own["flip"], own["rotate"]) == (True, 0.0)


def test_a_store_whose_views_come_out_otherwise_is_refused_before_training(
    world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("stages.labels.views.view_draws", lambda ids, seed, view: view_draws(ids, seed + 1, view))
    with pytest.raises(StoreError, match="16 of 16 views of label set .* cannot be replayed here"):
        cohort.open_feed([fit_of(asked(world), tmp_path)], Storage(), CPU)


def test_another_teams_views_are_taken_and_checked(world: Path, tmp_path: Path) -> None:
    store = f"{world.parent}/spec.workspace/store"
    fingerprint = plan(world).outputs["labels.said"].labels.fingerprint
    spec = write_world(tmp_path / "theirs")
    change(spec, {"from": store, "fingerprint": fingerprint, "domain": "target"})
    value = yaml.safe_load(spec.read_text())
    spec.write_text(yaml.safe_dump({**value, "teachers": {}}, sort_keys=False))
    theirs = run(spec).outputs["students.small"]
    ours = plan(world).outputs["students.small"]
    assert [one.model.digest for one in theirs.students if one.arm == "distilled"] == [
        one.model.digest for one in ours.students if one.arm == "distilled"
    ]


@pytest.mark.parametrize(
    ("views", "message"),
    [
        ({"count": 3}, "`settings` that they are drawn by"),
        ({"count": 1, "settings": {"flip": True}}, "`count` above 1"),
        ({"count": 2, "settings": {"flop": True}}, "labels.said.views.settings.*flop"),
    ],
)
def test_views_that_make_no_sense_are_refused_in_the_plan(tmp_path: Path, views: dict[str, Any], message: str) -> None:
    spec = write_world(tmp_path)
    change(spec, {"teacher": "fit", "domain": "target", "views": views})
    with pytest.raises(UserError, match=message):
        plan(spec)
