"""Balance and source rows in a spec: what is refused, and what a run hands on and tells."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from pipeline.api import run
from pipeline.checks import check_spec
from pipeline.specs import load_spec
from schemas.errors import UserError
from stages.evaluation.reader import read_report
from stages.places import Place
from tests.pipeline.test_trainings import check
from tests.pipeline.world import write_world


@pytest.mark.parametrize(
    ("part", "training", "problem"),
    [
        ("teachers.big", {"source_share": 0.5}, "teachers.big.training.source_share is for students"),
        ("students.small", {"balance": {"between": ["domains"]}}, "balances its domains by `source_share`"),
        ("students.small", {"balance": {"between": []}}, "balance.between"),
        ("students.small", {"source_share": 1.0}, "source_share: .*less than 1"),
    ],
)
def test_nonsense_is_refused(tmp_path: Path, part: str, training: dict[str, Any], problem: str) -> None:
    with pytest.raises(UserError, match=problem):
        check(tmp_path, part, training)


def test_what_makes_sense_passes(tmp_path: Path) -> None:
    check(tmp_path, "students.small", {"source_share": 0.5, "balance": {"by": "weights"}})
    check(tmp_path, "teachers.big", {"balance": {"between": ["classes", "domains"]}})


def test_a_share_needs_a_source_with_the_students_classes(tmp_path: Path) -> None:
    value = yaml.safe_load(write_world(tmp_path).read_text())
    value["students"]["small"]["training"]["source_share"] = 0.5
    path = tmp_path / "spec.yaml"

    def problem() -> str:
        path.write_text(yaml.safe_dump(value, sort_keys=False))
        with pytest.raises(UserError) as caught:
            check_spec(load_spec(path), Place(str(tmp_path / "workspace")))
        return str(caught.value)

    value["teachers"]["big"]["class_map"] = {"across": "flat", "down": "flat", "slope": "slope"}
    assert "students.small.training.source_share: its teacher was trained on other classes" in problem()
    (tmp_path / "big.safetensors").write_bytes(b"")
    value["teachers"] = {"fit": {"model": "resnet-tiny", "weights": "big.safetensors"}}
    assert "source_share: it reads rows of the source domain, and there is none" in problem()


def test_every_arm_on_the_target_reads_its_seeds_draw_of_the_source(tmp_path: Path) -> None:
    """The run shows the sizes of both."""
    value = yaml.safe_load(write_world(tmp_path).read_text())
    value["domains"]["source"]["label_budget"] = {"train": 30, "validation": 10}
    value["evaluation"]["bootstrap"] = 20
    value["students"] = {"small": value["students"]["small"] | {"seeds": [1]}}
    value["students"]["small"]["training"] |= {"source_share": 0.5, "balance": {}}
    value["teachers"]["big"]["training"]["balance"] = {}
    path = tmp_path / "spec.yaml"
    path.write_text(yaml.safe_dump(value, sort_keys=False))
    result = run(path)
    students = result.outputs["students.small"].students
    assert {one.arm for one in students} == {"distilled", "no-teacher", "source-finetuned"}
    assert [sum(one.source.labelled) for one in students] == [30, 30, 30], "the budget of the source, in every arm"
    assert [one.source for one in result.outputs["students.small.source"].students] == [None]
    ref = result.outputs["report"].report
    notes = "\n".join(read_report(Place(ref.uri), ref).notes)
    assert "teachers.big learned from source: 30 rows, 30 with their truth" in notes
    assert "students.small learned from its target: 75 rows, 6 with their truth" in notes
    assert "of the source: 30 rows, 30 with their truth" in notes
