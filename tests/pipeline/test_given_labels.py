"""Somebody else's labels in a spec: published, locked, used; and every refusal before training."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from pipeline.api import plan, run
from pipeline.lock import lock_path
from pipeline.planner import Plan
from pipeline.specs import load_spec
from schemas.errors import CrossdistillError, SpecError, StoreError
from schemas.labels import Tag
from stages.labels.publish import copy_set
from stages.labels.reader import LabelSet
from stages.labels.tags import put_tag
from stages.places import Place
from tests.pipeline.world import write_domain, write_spec, write_world


def borrow(spec: Path, **labels: Any) -> Path:
    """Team B's spec: the same target and student, and team A's labels."""
    value = yaml.safe_load(spec.read_text())
    source = {"from": "shared", "tag": "bars", "domain": "target"} | labels
    value |= {
        "name": "borrowed",
        "teachers": {},
        "labels": {"said": {k: v for k, v in source.items() if v is not None}},
    }
    value["domains"].pop("source")
    value["students"] = {"small": value["students"]["small"]}
    value["evaluation"] = {"cost": False, "bootstrap": 50}
    path = spec.with_name("borrowed.yaml")
    path.write_text(yaml.safe_dump(value, sort_keys=False))
    return path


def tag(place: Place, labels: LabelSet, name: str = "bars") -> int:
    return put_tag(place, name, Tag(fingerprint=labels.fingerprint, digest=labels.digest))


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Team A has labelled the target in two encodings, trained a student, and published both sets."""
    spec = write_world(tmp_path_factory.mktemp("given"))
    value = yaml.safe_load(spec.read_text())
    value["labels"]["hard"] = {"teacher": "fit", "domain": "target", "encoding": {"kind": "hard"}}
    value["students"] = {"small": value["students"]["small"]}
    value["evaluation"] = {"cost": False, "bootstrap": 50}
    spec.write_text(yaml.safe_dump(value, sort_keys=False))
    result = run(spec)
    assert not result.failures
    shared = Place(str(spec.parent / "shared"))
    for name in ("said", "hard"):
        ref = result.outputs[f"labels.{name}"].labels
        copy_set(LabelSet.open(ref.uri, ref.fingerprint), shared)
        tag(shared, LabelSet.open(shared, ref.fingerprint), {"said": "bars", "hard": "hard"}[name])
    return spec


def digests(result: Any) -> list[str]:
    return [out.model.digest for out in result.outputs["students.small"].students if out.arm == "distilled"]


def test_the_same_students_from_labels_that_were_pulled_from_a_store(world: Path) -> None:
    borrowed = borrow(world)
    lock = lock_path(load_spec(borrowed))
    planned = plan(borrowed)
    assert "a run locks bars -> " in planned.notes[-1]
    assert not lock.exists()
    result = run(borrowed)
    assert not result.failures
    assert digests(result) == digests(run(world))
    locked = yaml.safe_load(lock.read_text())
    assert locked["labels"]["said"]["name"] == "bars"
    again = run(borrowed)
    assert again.made == []
    assert [planned for planned in plan(borrowed).notes if "lock" in planned] == []
    lock.unlink()


def test_a_name_that_moved_is_refused_until_it_is_taken(world: Path) -> None:
    borrowed, shared = borrow(world), Place(str(world.parent / "shared"))
    lock = lock_path(load_spec(borrowed))
    run(borrowed)
    text = lock.read_text()
    first, second = LabelSet.open(shared, "bars"), LabelSet.open(shared, "hard")
    tag(shared, second)
    with pytest.raises(
        SpecError, match=r"labels.said: 'bars' of .* is another set than borrowed.lock has locked .*--upd"
    ):
        run(borrowed)
    assert lock.read_text() == text
    pinned = run(borrow(world, tag="bars@v1"))
    assert pinned.made == []
    borrow(world)
    lock.write_text(text)
    moved = run(borrowed, update_lock=True)
    assert not moved.failures
    assert second.fingerprint in lock.read_text()
    tag(shared, first)
    lock.unlink()


def test_a_lock_keeps_what_another_form_of_the_spec_uses(world: Path) -> None:
    borrowed = borrow(world)
    value = yaml.safe_load(borrowed.read_text())
    other = {**value["labels"]["said"], "tag": "hard"}
    small = {**value["students"]["small"], "labels": "more", "method": "hard"}
    forms = {"more": {"labels": {"more": other}, "students": {"small": small}}}
    borrowed.write_text(yaml.safe_dump({**value, "forms": forms}, sort_keys=False))
    lock = lock_path(load_spec(borrowed))
    for form in ("more", None):
        locked = plan(load_spec(borrowed, form=form)).locked
        assert locked is not None
        locked.write()
    assert sorted(yaml.safe_load(lock.read_text())["labels"]) == ["more", "said"]
    lock.unlink()


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ({"tag": "bers"}, "no tag 'bers'; did you mean 'bars'"),
        ({"from": "nowhere"}, "is no label store"),
        ({"tag": None, "fingerprint": "0" * 32}, "has no finished label set 0000"),
        ({"tag": None}, "named by `tag` or by `fingerprint`"),
        ({"teacher": "x"}, "made already: leave out teacher"),
        ({"encoding": {"kind": "hard"}}, "leave out encoding"),
        ({"from": None}, "have a `teacher` to ask"),
    ],
)
def test_names_that_mean_nothing(world: Path, labels: dict[str, Any], message: str) -> None:
    with pytest.raises(CrossdistillError, match=message):
        plan(borrow(world, **labels))
    assert not lock_path(load_spec(world)).with_stem("borrowed").exists()


def test_classes_that_the_spec_names_are_compared_at_once(world: Path, tmp_path: Path) -> None:
    borrowed, workspace = borrow(world), str(tmp_path / "w")
    with pytest.raises(SpecError, match=r"labels.said: the label set \(3 classes\) .* 2 stand .*first: 'slope'"):
        plan(borrowed, workspace, ["domains.target.classes=[across, down, up]"])
    planned = plan(borrowed, workspace, ["domains.target.classes=[slope, across, down]"])
    note = "labels.said and domain 'target' have the same classes in another order: they are read by their names"
    assert note in planned.notes


def failed(spec: Path, workspace: Path) -> tuple[CrossdistillError, Plan]:
    """Why the labels step of a run failed; nothing was trained."""
    result = run(spec, str(workspace))
    assert set(result.failures) == {"labels.said"}
    assert not list(workspace.glob("artifacts/students/*"))
    return result.failures["labels.said"], plan(spec, str(workspace))


def test_other_samples_and_other_tasks_are_refused_before_training(world: Path, tmp_path: Path) -> None:
    borrowed = borrow(world)
    value = yaml.safe_load(borrowed.read_text())
    value["task"]["image_size"] = 16
    other = borrowed.with_name("other.yaml")
    other.write_text(yaml.safe_dump(value))
    error, _ = failed(other, tmp_path / "one")
    assert "was made for another task (image_size 8 there, 16 here)" in str(error)
    write_domain(world.parent / "others.npz", 40, 9, 90)
    value["task"]["image_size"] = 8
    value["domains"]["target"]["from"] = {"arrays": "others.npz"}
    other.write_text(yaml.safe_dump(value))
    error, _ = failed(other, tmp_path / "two")
    assert isinstance(error, StoreError)
    assert "40 of 40 samples have no label in set" in str(error)
    assert "or take a set that speaks of all of them" in str(error)
    for path in (lock_path(load_spec(other)), lock_path(load_spec(borrowed))):
        path.unlink(missing_ok=True)


def test_samples_packed_another_way_find_their_labels(world: Path, tmp_path: Path) -> None:
    borrowed = borrow(world)
    result = run(borrowed, str(tmp_path / "w"), ["domains.target.shard_rows=31"])
    assert not result.failures
    assert result.outputs["labels.said"].rows == 150
    lock_path(load_spec(borrowed)).unlink()


def test_a_damaged_lock_is_told(world: Path) -> None:
    borrowed = borrow(world)
    lock = lock_path(load_spec(borrowed))
    for text, message in (("labels: [", "is damaged"), ("version: 1\nlabel: {}\n", "did you mean 'labels'")):
        lock.write_text(text)
        with pytest.raises(CrossdistillError, match=message):
            plan(borrowed)
    lock.unlink()


def test_the_example_of_a_spec_is_as_before(tmp_path: Path) -> None:
    spec = write_spec(tmp_path / "spec.yaml")
    assert load_spec(spec).spec.labels["said"].teacher == "fit"
