"""Several questions in a spec: what a plan refuses, and a teacher of two sources that answer one question each."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from pipeline.api import plan, run
from pipeline.checks import check_spec
from pipeline.checks.labels import given_faults
from pipeline.specs import load_spec
from schemas.encodings import Dense
from schemas.errors import SpecError, UserError
from stages.labels.encodings import label_schema
from stages.labels.reader import LabelSet
from stages.places import Place
from stages.tasks import get_task
from tests.pipeline.test_trainings import check
from tests.pipeline.world import write_spec
from tests.tasks.worlds.image_questions import QUESTIONS, WORLD


def write_world(folder: Path) -> Path:
    """One source of bars and their ways, one of bars and their light, and a target where some know both."""
    folder.mkdir(parents=True, exist_ok=True)
    for number, (domain, columns) in enumerate({"ways": ("way",), "lights": ("bright",), "target": QUESTIONS}.items()):
        rows = WORLD.rows(120, number, domain == "target")
        cells: dict[str, Any] = {column: np.array([row[column] for row in rows]) for column in columns}
        np.savez(folder / f"{domain}.npz", picture=np.stack([row["image"] for row in rows]), **cells)
    training = {"steps": 12, "batch_size": 16, "learning_rate": 0.01}
    source = {"split": {"train": 0.8, "validation": 0.2}, "columns": {"image": "picture"}}
    return write_spec(
        folder / "spec.yaml",
        task={"name": "image-questions", **WORLD.config},
        domains={
            "ways": {"from": {"arrays": "ways.npz"}, **source},
            "lights": {"from": {"arrays": "lights.npz"}, **source},
            "target": {
                "from": {"arrays": "target.npz"},
                "columns": {"image": "picture"},
                "split": {"train": 0.5, "validation": 0.2, "test": 0.3},
                "label_budget": {"train": 9, "validation": 9},
            },
        },
        teachers={
            "big": {
                "domains": ["ways", "lights"],
                "model": "resnet-tiny",
                "training": training | {"steps": 60, "batch_size": 32, "balance": {"between": ["domains"]}},
            }
        },
        labels={"said": {"teacher": "big", "domain": "target", "encoding": {"kind": "dense", "dtype": "float16"}}},
        students={
            "small": {
                "model": "mobile-tiny",
                "labels": "said",
                "method": [{"name": "adaptive", "weight": 0.5}, {"name": "dkd", "weight": 0.5}],
                "training": training | {"source_share": 0.2, "mixing": {"mixup": 0.2}, "accumulate": 2},
            }
        },
        evaluation={
            "baselines": ["no-teacher"],
            "metrics": ["accuracy", "accuracy_way", "accuracy_bright"],
            "bootstrap": 50,
            "cost": False,
        },
    )


def changed(folder: Path, **changes: dict[str, Any]) -> None:
    """Check the world with some of its parts (`students.small` as `students_small`) changed."""
    path = write_world(folder)
    value = yaml.safe_load(path.read_text())
    for place, change in changes.items():
        part = value
        for key in place.split("_"):
            part = part.setdefault(key, {})
        part |= change
    path.write_text(yaml.safe_dump(value, sort_keys=False))
    check_spec(load_spec(path), Place(str(folder / "workspace")))


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"labels_said": {"encoding": {"kind": "top-k"}}}, "cannot learn from top-k labels: .*dense, low-rank"),
        ({"students_small": {"method": {"name": "mutual", "peers": ["mobile-tiny"]}}}, "'mutual' has models of its"),
        ({"students_small": {"calibrate": True}}, "students.small.calibrate: samples of 'image-questions' have no one"),
        ({"students_small_training": {"balance": {}}}, "no one class to balance by: leave `classes` out"),
        ({"teachers_big_training": {"question_weights": {"wya": 2}}}, "'wya' is no question .*; did you mean 'way'"),
        ({"students_small_training": {"question_weights": {"way": 0}}}, "question_weights.way.* greater than 0"),
        ({"rounds": {"policy": "migration", "max_rounds": 2}}, "rounds: policies go by the one class of a sample"),
        ({"evaluation": {"metrics": ["accuracy_wya"]}}, "no metric 'accuracy_wya'; did you mean 'accuracy_way'"),
        ({"domains_target_columns": {"bright": "light"}}, "no column 'light'"),
        ({"domains_target": {"columns": {"label": "way"}}}, "the role 'label'"),
    ],
)
def test_what_a_plan_refuses(tmp_path: Path, changes: dict[str, Any], said: str) -> None:
    with pytest.raises(UserError, match=said):
        changed(tmp_path, **changes)


def test_a_plan_loads_no_torch(tmp_path: Path) -> None:
    code = (
        "import sys; from pipeline.checks import check_spec; from pipeline.specs import load_spec; "
        "from stages.places import Place; "
        f"check_spec(load_spec({str(write_world(tmp_path))!r}), Place({str(tmp_path / 'w')!r})); "
        "print(sorted({'torch', 'ray'} & set(sys.modules)))"
    )
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert answer.stdout.strip() == "[]"


@pytest.mark.parametrize(
    ("order", "said"), [((0, 1, 2, 3, 4), ""), ((1, 0, 2, 3, 4), ""), ((0, 1, 2, 3), "one side only")]
)
def test_labels_of_another_store_answer_the_same_questions(tmp_path: Path, order: tuple[int, ...], said: str) -> None:
    """In whatever order: they are read by their names."""
    spec = load_spec(write_world(tmp_path)).spec
    own = get_task(spec.task).vocabulary()
    assert own is not None
    schema = label_schema(tuple(own[place] for place in order), Dense())
    faults = " ".join(given_faults(spec, "said", schema))
    assert said in faults
    assert bool(said) == bool(faults)


def test_a_task_that_asks_one_thing_weighs_no_questions(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match="'digit' is no question of task 'image-classification', which asks one thing"):
        check(tmp_path, "students.small", {"question_weights": {"digit": 2.0}})


def test_sources_that_answer_one_question_each_teach_both(tmp_path: Path) -> None:
    """Labels hold all classes and no more; other weights train students again, and ask no teacher."""
    path = write_world(tmp_path / "world")
    result = run(path)
    assert not result.failures, result.failures
    table = result.outputs["evaluation.small"].table
    arms = {arm.arm: arm.mean for arm in table.arms}
    assert arms["teacher"]["accuracy_way"] > 0.6, "a third by chance"
    assert arms["teacher"]["accuracy_bright"] > 0.7, "a half by chance"
    for mean in arms.values():
        assert mean["accuracy"] == pytest.approx((mean["accuracy_way"] + mean["accuracy_bright"]) / 2)
    ref = result.outputs["labels.said"].labels
    said = LabelSet.open_ref(Place(ref.uri), ref)
    assert said.classes == get_task(load_spec(path).spec.task).vocabulary()
    assert said.bytes_per_row == 2 * 5
    assert result.outputs["budgets.target.seed0"].train == 9
    weighed = plan(path, overrides=["students.small.training.question_weights.way=3"])
    assert set(weighed.to_do) == {"students.small", "evaluation.small", "report"}
