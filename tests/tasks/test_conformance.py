"""What every task must do, by the registry: samples, batches, changes, models, metrics, and the whole way.

A task brings `tests/tasks/worlds/NAME.py`, and changes nothing here.
"""

from __future__ import annotations

import importlib
import shutil
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml

from pipeline.api import run
from schemas.base import Part
from schemas.labels import SAID
from schemas.training import Training
from stages.domains.pack import pack_row
from stages.domains.reader import TRAIN, VALIDATION, read_budget, read_split
from stages.places import Place
from stages.random import step_draws, view_draws
from stages.registry import validate_settings
from stages.tasks import TASKS, get_task
from stages.tasks.base import BadRow, Packed, Task, rows_of
from stages.training.models import build
from stages.truth import UNKNOWN, Truth, as_truth
from tests.tasks.worlds.base import Row, World

NAMES = TASKS.names()
SOME = 12
pytestmark = pytest.mark.parametrize("name", NAMES)


@cache
def world_of(name: str) -> World:
    world: World = importlib.import_module(f"tests.tasks.worlds.{name.replace('-', '_')}").WORLD
    return world


def task_of(name: str) -> Task:
    return get_task(Part.model_validate({"name": name, **world_of(name).config}))


def packed_of(task: Task, rows: list[Row]) -> Packed:
    """As a domain gives them back: raw columns as arrays, encoded ones as lists of bytes."""
    samples = [pack_row(task, task.Prepare(), row) for row in rows]
    packed: dict[str, Any] = {}
    for role, column in samples[0].columns.items():
        values = [sample.values[role] for sample in samples]
        if column.storage == "raw":
            packed[role] = np.stack([np.frombuffer(value, column.dtype).reshape(column.shape) for value in values])
        else:
            packed[role] = values
    return packed


def inputs(name: str, count: int = SOME) -> tuple[Task, Packed, Truth]:
    """A task, some packed samples, and their truth."""
    task, world = task_of(name), world_of(name)
    rows = world.rows(count, 0, 0)
    labels = [task.label(row) for row in rows]
    coded = [task.code_truth(label) if task.coded else task.pack_truth(label, world.classes) for label in labels]
    return task, packed_of(task, rows), as_truth(coded, task.coded)


def classes_of(name: str, count: int) -> int:
    """Classes that models are built for: as many as are asked for, but for a task that has its own."""
    own = task_of(name).vocabulary()
    return count if own is None else len(own)


def part_of(name: str, model: str) -> Part:
    """A model under the settings of the task's world."""
    return Part.model_validate({"name": model, **world_of(name).models.get(model, {})})


def sure(task: Task, numbers: np.ndarray, classes: int) -> np.ndarray:
    """Logits of whoever is sure of these classes (B,), or of these of each question (B, Q); numbers begin anew."""
    columns = [question.columns for question in task.questions] or [slice(0, classes)]
    counts = [part.stop - part.start for part in columns]
    parts = zip(counts, numbers.reshape(len(numbers), -1).T, strict=True)
    return np.concatenate([9 * np.eye(count, dtype=np.float32)[of % count] for count, of in parts], axis=1)


def metric_of(task: Task) -> str:
    """A metric that is 1 where all is right, or an error that is 0."""
    return "accuracy" if "accuracy" in task.metrics else task.metrics[0]


# --- samples and batches -----------------------------------------------------------------------------------------


def test_a_row_of_a_batch_depends_on_its_sample_alone(name: str) -> None:
    task, packed, truth = inputs(name)
    batch = task.batch(packed, task.Preprocessing())
    again = task.batch(packed, task.Preprocessing())
    assert len(batch) == SOME
    assert task.forced(batch, task.asked(truth)).shape[1:] == task.fake_batch(2, task.Preprocessing()).shape[1:]
    assert batch.dtype == task.fake_batch(2, task.Preprocessing()).dtype
    assert torch.equal(batch, again)
    for rows in (np.array([3]), np.array([5, 0]), slice(2, 9)):
        assert torch.equal(task.batch(rows_of(packed, rows), task.Preprocessing()), batch[rows])
    assert len({row.numpy().tobytes() for row in batch}) > 1


def test_content_tells_samples_apart_and_holds_no_truth(name: str) -> None:
    task, world = task_of(name), world_of(name)
    rows = world.rows(SOME, 0, 0)
    contents = [pack_row(task, task.Prepare(), row).content for row in rows]
    another = dict.fromkeys(task.labels, "another")
    other = [pack_row(task, task.Prepare(), row | another).content for row in rows]
    assert contents == other
    batch = task.batch(packed_of(task, rows), task.Preprocessing())
    same = [[a == b for b in contents] for a in contents]
    assert same == [[torch.equal(a, b) for b in batch] for a in batch]


def test_bad_and_empty_samples_say_why(name: str) -> None:
    task, world = task_of(name), world_of(name)
    assert any("empty" in reason for _, reason in world.bad)
    for row, reason in world.bad:
        with pytest.raises(BadRow, match=reason):
            task.pack(row, task.Prepare())


def test_a_label_of_no_class_is_bad(name: str) -> None:
    if task_of(name).coded:
        for label in (None, "", 3.5):
            with pytest.raises(BadRow, match="the label is"):
                task_of(name).code_truth(label)
        return
    with pytest.raises(BadRow, match="'no such class' is none of the"):
        task_of(name).pack_truth("no such class", world_of(name).classes)


def test_items_are_those_that_are_asked_for(name: str) -> None:
    task, packed, truth = inputs(name)
    asked = task.asked(truth)
    forced = task.forced(task.batch(packed, task.Preprocessing()), asked)
    items = task.items(forced)
    counts = torch.ones(SOME, dtype=torch.int64) if items is None else items
    assert len(task.targets(asked)) == counts.sum()
    for row, part in enumerate(task.targets(asked, forced).split(counts.tolist())):
        assert torch.equal(part, task.targets(asked[row : row + 1], forced[row : row + 1]))
    least = UNKNOWN if task.questions else 0
    classes = classes_of(name, len(world_of(name).classes))
    assert least <= task.targets(asked).min() <= task.targets(asked).max() < classes
    assert task.forces == (not torch.equal(forced, task.batch(packed, task.Preprocessing())))
    if task.forces:  # what a label set holds is what was asked
        recorded = {field: values.numpy() for field, values in task.recorded(asked).items()}
        if task.taught(forced) is None:
            assert torch.equal(task.recalled(counts.numpy(), recorded), asked)
        assert set(recorded) == set(task.recalls)


# --- augmentation ------------------------------------------------------------------------------------------------


def test_nothing_set_changes_nothing(name: str) -> None:
    task, packed, _ = inputs(name)
    draws = step_draws(np.random.default_rng(0), SOME)
    found = task.augmented(packed, task.Preprocessing(), task.Augmentation(), draws)
    assert torch.equal(found, task.batch(packed, task.Preprocessing()))


def test_a_change_depends_on_the_rows_own_draws_alone(name: str) -> None:
    task, packed, _ = inputs(name)
    how, settings = task.Preprocessing(), task.Augmentation(**world_of(name).augmentation)
    ids = np.random.default_rng(1).integers(0, 256, (SOME, 16), dtype=np.uint8)

    def changed(view: int, rows: slice | np.ndarray = slice(None)) -> torch.Tensor:
        return task.augmented(rows_of(packed, rows), how, settings, view_draws(ids[rows], 0, view))

    torch.manual_seed(1)
    first = changed(1)
    torch.manual_seed(2)
    assert torch.equal(changed(1), first)
    assert torch.equal(changed(1, np.array([7, 2])), first[[7, 2]])
    plain = task.batch(packed, how)
    assert first.shape == plain.shape
    for other in (plain, changed(2)):
        assert sum(not torch.equal(a, b) for a, b in zip(first, other, strict=True)) > SOME / 2
    assert torch.equal(task.batch(packed, how), plain), "the samples themselves stay"


# --- models ------------------------------------------------------------------------------------------------------


def test_every_short_name_builds_from_its_seed_alone_and_can_be_saved(name: str) -> None:
    task = task_of(name)
    batch = task.fake_batch(3, task.Preprocessing())
    items = task.items(batch)
    outputs = classes_of(name, 5)
    for model in task.models:
        part = part_of(name, model)
        one, same, other = (build(task, part, outputs, task.Preprocessing(), seed).eval() for seed in (0, 0, 1))
        with torch.no_grad():
            assert one(batch).shape == (3 if items is None else items.sum(), outputs)
            assert torch.equal(one(batch), same(batch)), model
            assert not torch.equal(one(batch), other(batch)), model
            other.load_state_dict(one.state_dict())
            assert torch.equal(one(batch), other(batch)), model


def test_a_row_of_outputs_depends_on_its_sample_alone(name: str) -> None:
    """To float32 rounding: a batch is one matrix product."""
    task, packed, _ = inputs(name)
    batch = task.batch(packed, task.Preprocessing())
    for model in (world_of(name).teacher, world_of(name).student):
        network = build(task, part_of(name, model), classes_of(name, 3), task.Preprocessing()).eval()
        with torch.no_grad():
            whole = network(batch)
            for row in range(SOME):
                assert torch.allclose(network(batch[row : row + 1])[0], whole[row], atol=1e-5), model


def test_models_learn_a_handful_by_heart(name: str) -> None:
    task, packed, truth = inputs(name)
    batch, asked = task.batch(packed, task.Preprocessing()), task.asked(truth)
    forced = task.forced(batch, asked)
    targets = task.targets(asked, forced)
    for model in (world_of(name).teacher, world_of(name).student):
        classes = classes_of(name, len(world_of(name).classes))
        network = build(task, part_of(name, model), classes, task.Preprocessing())
        optimizer = torch.optim.AdamW(network.parameters(), lr=world_of(name).learning_rate)
        losses = []
        for _ in range(world_of(name).steps):
            logits, costs = task.priced(network(forced.clone()))
            true = task.losses(logits, targets, Training()).sum() / task.counted(targets, Training()).sum()
            loss = true + (0.0 if costs is None else costs.mean())
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(float(loss.detach()))
        assert losses[-1] < 0.1 * losses[0], model
        with torch.no_grad():
            said = network.eval()(batch).numpy()
        metric = metric_of(task)
        found = task.score(said, truth, (metric,))[metric]
        assert (1 - found if metric in task.errors else found) >= world_of(name).by_heart, model


# --- metrics -----------------------------------------------------------------------------------------------------


def test_metrics_know_right_from_wrong(name: str) -> None:
    task, _, truth = inputs(name)
    if task.forces:
        right = task.asked(truth).numpy().astype(np.float32)
        wrong = np.roll(right, 1, axis=0)
    else:
        asked = task.asked(truth).numpy()
        right, wrong = (sure(task, asked + more, classes_of(name, len(world_of(name).classes))) for more in (0, 1))
    once = np.ones((2, SOME), np.int64)
    for metric in task.metrics:
        good, bad = (task.score(logits, truth, (metric,))[metric] for logits in (right, wrong))
        assert good < bad if metric in task.errors else good > bad, metric
        assert task.score_rows(right, truth, metric, once) == pytest.approx([good, good])
        if metric not in task.unbounded:
            assert 0 <= good <= 1
            assert 0 <= bad <= 1
    assert task.score(right[:0], truth[:0], task.metrics) == {}


# --- the whole way -----------------------------------------------------------------------------------------------


def methods_of(name: str) -> dict[str, str]:
    """Methods by student: `soft`, and beside it one that reads what stands beside a task's labels."""
    task = task_of(name)
    if task.forces and SAID in task.recalls:
        return {"small": "soft", "other": "sequence"}
    return {"small": "soft", "other": "consistency"} if task.label_shape.kind == "sample" else {"small": "soft"}


def write_spec(folder: Path, name: str, target: list[Row]) -> Path:
    """A spec over two tiny domains, the target's rows as given."""
    world = world_of(name)
    folder.mkdir(parents=True)
    teacher, metric = part_of(name, world.teacher).dump(), metric_of(task_of(name))
    training = {"steps": 6, "batch_size": 16, "learning_rate": world.learning_rate}
    named = {"classes": list(world.classes)} if world.classes else {}
    views = {"count": 2, "settings": world.augmentation}
    spec = {
        "version": 1,
        "name": name,
        "task": {"name": name, **world.config},
        "resources": {"mode": "local"},
        "domains": {
            "here": {
                "from": world.write(folder / "here", world.rows(60, 1, 0)),
                **named,
                "split": {"train": 0.8, "validation": 0.2},
            },
            "there": {
                "from": world.write(folder / "there", target),
                **named,
                "split": {"train": 0.5, "validation": 0.2, "test": 0.3},
                "label_budget": {"train": 5, "validation": 5},
                "shard_rows": 32,
            },
        },
        "teachers": {
            "big": {
                "domains": ["here"],
                "model": teacher,
                "training": {**training, "steps": 12},
            }
        },
        "labels": {"said": {"teacher": "big", "domain": "there", "views": views}},
        "students": {
            student: {
                "model": part_of(name, world.student).dump(),
                "labels": "said",
                "method": method,
                "training": {**training, "augmentation": world.augmentation},
            }
            for student, method in methods_of(name).items()
        },
        "evaluation": {
            "metrics": [metric],
            "bootstrap": 50,
            "cost": False,
            "baselines": ["no-teacher"],
        },
    }
    path = folder / "spec.yaml"
    path.write_text(yaml.safe_dump(spec, sort_keys=False))
    return path


def test_the_whole_way_and_hidden_labels_change_nothing(name: str, tmp_path: Path) -> None:
    """Trained, labelled, distilled and evaluated on a handful; then again with every hidden label another."""
    world = world_of(name)
    rows = world.rows(80, 2, 1)
    first = run(write_spec(tmp_path / "first", name, rows))
    assert not first.failures, first.failures
    arms = {arm.arm: arm for arm in first.outputs["evaluation.small"].table.arms}
    assert set(arms) == {"teacher", "distilled", "no-teacher"}
    assert all(0 <= arm.mean[metric_of(task_of(name))] <= 1 for arm in arms.values())
    assert (first.outputs["labels.said"].rows, first.outputs["labels.said"].views.count) == (len(rows), 2)

    split = read_split(Place(first.outputs["splits.there"].split.uri), first.outputs["splits.there"].split)
    ref = first.outputs["budgets.there.seed0"].budget
    budget = read_budget(Place(ref.uri), ref)
    seen = {int(row) for row in (*budget.train_positions, *budget.validation_positions)}
    hidden = [row not in seen and split[row] in (TRAIN, VALIDATION) for row in range(len(rows))]
    assert sum(hidden) > 30
    labels = [tuple(row[column] for column in task_of(name).labels) for row in rows]
    every = list(dict.fromkeys(labels))
    turned = dict(zip(every, (*every[1:], every[0]), strict=True))
    flipped = [
        row | dict(zip(task_of(name).labels, turned[label], strict=True)) if away else row
        for row, label, away in zip(rows, labels, hidden, strict=True)
    ]
    spec = write_spec(tmp_path / "second", name, flipped)
    # Verdicts on the models are kept, and nothing else: each costs a process that loads torch.
    shutil.copytree(tmp_path / "first/spec.workspace/probes/models", tmp_path / "second/spec.workspace/probes/models")
    second = run(spec)
    assert not second.failures, second.failures
    assert second.outputs["domains.there"].truth.digest != first.outputs["domains.there"].truth.digest
    assert second.outputs["labels.said"].labels.digest == first.outputs["labels.said"].labels.digest
    for student in methods_of(name):
        before, after = (of.outputs[f"students.{student}"].students for of in (first, second))
        for one, other in zip(before, after, strict=True):
            assert one.model.digest == other.model.digest, (student, one.arm, one.seed)
        evaluation = f"evaluation.{student}"
        assert second.outputs[evaluation].table.arms == first.outputs[evaluation].table.arms


def test_its_starting_spec_is_a_spec(name: str, tmp_path: Path) -> None:
    from pipeline.specs import load_spec

    path = tmp_path / f"{name}.yaml"
    path.write_text(TASKS.get(name).starter())
    spec = load_spec(path).spec
    assert (spec.name, spec.task.name) == (name, name)
    validate_settings(TASKS.get(name).Config, spec.task.settings, "task")
