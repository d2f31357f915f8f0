"""Models tried before the work: every way to be wrong becomes one sentence, and one subprocess tries all."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from schemas.base import Part
from schemas.models import ProbeInputs, ProbeVerdict
from stages.training.probe import probe, probe_key

ROOT = Path(__file__).parent.parent.parent
USER_CODE = ROOT / "tests" / "user_code"
TASK = Part.model_validate({"name": "image-classification", "image_size": 8, "channels": 1})


def asked(model: str, **more: Any) -> ProbeInputs:
    return ProbeInputs(task=TASK, model=Part(name=model), classes=("a", "b", "c"), **more)


@pytest.fixture
def user_code(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(USER_CODE)


@pytest.mark.parametrize(
    ("model", "problem"),
    [
        ("mobile-tiny", None),
        ("image_factories:brightness", None),
        ("image_factories:one_too_many", "gives 2x4 for a batch of 2x1x8x8, not 2x3"),
        ("image_factories:not_finite", "not finite"),
        ("image_factories:pair", "gives tuple, not a tensor"),
        ("image_factories:broken", "no weights on this machine"),
        ("image_factories:quits", "SystemExit"),
        ("image_factories:nothing", "has no function 'nothing'"),
        ("mobile-tinny", "did you mean 'mobile-tiny'"),
    ],
)
def test_verdicts(user_code: None, model: str, problem: str | None) -> None:
    found = probe(asked(model))
    if problem is None:
        assert found is None
    else:
        assert found is not None
        assert problem in found
        assert "\n" not in found


def test_features_are_looked_for_where_they_are_needed(user_code: None) -> None:
    assert probe(asked("mobile-tiny", features=True)) is None
    assert "has no penultimate features" in (probe(asked("image_factories:brightness", features=True)) or "")


def test_settings_are_tried_too() -> None:
    assert "known: " in (probe(asked("mobile-tiny", preprocessing={"smoothing": 1})) or "")
    assert "1 numbers each" in (probe(asked("mobile-tiny", preprocessing={"mean": [0.1, 0.2]})) or "")


def test_weights_are_tried(user_code: None, tmp_path: Path) -> None:
    import image_factories  # type: ignore[import-not-found]

    file = str(tmp_path / "weights.pt")
    torch.save(image_factories.plain(5).state_dict(), file)
    inputs = asked("image_factories:plain", weights=file)
    assert "2 of another shape" in (probe(inputs) or "")
    assert probe(inputs.model_copy(update={"strict": False})) is None
    before = probe_key(inputs)
    moved = tmp_path / "moved.pt"
    moved.write_bytes(Path(file).read_bytes())
    assert probe_key(inputs.model_copy(update={"weights": str(moved)})) == before
    torch.save(image_factories.plain(3).state_dict(), file)
    assert probe_key(inputs) != before
    assert probe(inputs) is None


def test_keys_differ_where_the_answer_may(user_code: None) -> None:
    keys = {
        probe_key(asked("mobile-tiny")),
        probe_key(asked("resnet-tiny")),
        probe_key(asked("mobile-tiny", preprocessing={"size": 9})),
        probe_key(asked("image_factories:plain")),
    }
    assert len(keys) == 4


def test_one_subprocess_tries_all() -> None:
    models = ["mobile-tiny", "image_factories:talks", "image_factories:quits"]
    answer = subprocess.run(
        [sys.executable, "-m", "stages.training.probe"],
        input=json.dumps([asked(model).dump() for model in models]),
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{USER_CODE}"},
    )
    verdicts = [ProbeVerdict.parse_json(line, "verdict") for line in answer.stdout.splitlines()]
    assert [verdict.problem is None for verdict in verdicts] == [True, True, False]
    assert verdicts[0].parameters == 8_579
    assert verdicts[0].key == probe_key(asked("mobile-tiny"))
    assert "loading" in answer.stderr


def test_a_key_loads_no_torch() -> None:
    code = (
        "import sys; from schemas.models import ProbeInputs; from stages.training.probe import probe_key;"
        f"probe_key(ProbeInputs.model_validate({asked('timm/resnet18').dump()!r}));"
        "assert not {'torch', 'timm', 'numpy'} & set(sys.modules), sorted(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)
