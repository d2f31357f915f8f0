"""What a plan refuses of a `training:` block, for teachers and students alike; torch stays unloaded."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from pipeline.checks import check_spec
from pipeline.specs import load_spec
from schemas.errors import SpecError
from stages.places import Place
from tests.pipeline.world import write_world


def check(folder: Path, part: str, training: dict[str, Any], **changes: Any) -> None:
    """Check the tiny world with the training of one part (`students.small`) and some top-level parts changed."""
    path = write_world(folder)
    value = yaml.safe_load(path.read_text())
    for name, change in changes.items():
        for key, item in change.items():
            value[name][key] |= item
    kind, name = part.split(".")
    value[kind][name]["training"] |= training
    path.write_text(yaml.safe_dump(value, sort_keys=False))
    check_spec(load_spec(path), Place(str(folder / "workspace")))


@pytest.mark.parametrize("part", ["teachers.big", "students.small"])
@pytest.mark.parametrize(
    ("training", "problem"),
    [
        ({"optimizer": "timm/lam"}, "optimizer: no optimiser is called 'timm/lam'; did you mean 'timm/lamb'"),
        ({"optimizer": "sgd", "betas": [0.9, 0.99]}, "optimizer: .*'sgd' takes no pair of `betas`"),
    ],
)
def test_what_no_training_can_do(tmp_path: Path, part: str, training: dict[str, Any], problem: str) -> None:
    with pytest.raises(SpecError, match=f"{part}.training.{problem}"):
        check(tmp_path, part, training)


@pytest.mark.parametrize("part", ["teachers.big", "students.small"])
def test_what_it_can(tmp_path: Path, part: str) -> None:
    check(tmp_path, part, {"optimizer": "timm/lamb", "betas": [0.9, 0.99], "schedule": "cosine", "warmup": 0.1})
