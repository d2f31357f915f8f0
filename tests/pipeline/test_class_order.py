"""The same classes in another order on the target: remapped on the whole way, and said so."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from pipeline.api import plan, run
from pipeline.runner import RunResult
from pipeline.show import report_of
from tests.pipeline.world import write_world


def quality(result: RunResult) -> dict[str, Any]:
    table = result.outputs["evaluation.small"].table
    return {arm.arm: arm.mean["accuracy"] for arm in table.arms}


def test_a_target_that_names_them_in_another_order(tmp_path: Path) -> None:
    """Its teacher is as good there as where the order is its own."""
    spec = write_world(tmp_path)
    value = yaml.safe_load(spec.read_text())
    value["students"] = {"small": {**value["students"]["small"], "seeds": 1}}
    value["evaluation"] |= {"baselines": ["source-only"], "bootstrap": 50}
    spec.write_text(yaml.safe_dump(value, sort_keys=False))
    plain = run(spec)
    order = ["domains.target.classes=[slope, across, down]"]
    told: list[str] = []
    moved = run(spec, overrides=order, listener=lambda event: told.append(event.message))
    assert not moved.failures
    assert moved.outputs["teachers.big"] == plain.outputs["teachers.big"]
    assert moved.outputs["labels.said"].classes == ("across", "down", "slope")
    assert quality(moved)["teacher"] == quality(plain)["teacher"]
    assert any("the students have the same classes in another order" in message for message in told)
    planned = plan(spec, overrides=order)
    note = "teachers.big and domain 'target' have the same classes in another order: they are read by their names"
    assert note in planned.notes
    assert note in report_of(planned).notes
