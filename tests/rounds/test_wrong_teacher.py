"""Three real teachers of different strength, and one trained on shuffled labels, which is noticed and weighed down."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import yaml

from pipeline.api import chains_so_far, run
from tests.pipeline.world import bars, write_domain, write_spec, write_world


def test_a_wrong_teacher_hardly_speaks(tmp_path: Path) -> None:
    folder = write_world(tmp_path / "world").parent
    write_domain(folder / "source.npz", 240, 1, 190)
    write_domain(folder / "shuffled.npz", 240, 1, 190, np.random.default_rng(0).permutation(bars(240, 1, 190)[1]))
    value: dict[str, Any] = yaml.safe_load(write_spec(folder / "spec.yaml").read_text())
    value["domains"]["shuffled"] = value["domains"]["source"] | {"from": {"arrays": "shuffled.npz"}}
    value["domains"]["target"] |= {"label_budget": {"train": 6, "validation": 28}}

    def teacher(domain: str, steps: int) -> dict[str, Any]:
        training = {"steps": steps, "batch_size": 32, "learning_rate": 0.01}
        return {"domains": [domain], "model": {"name": "resnet-tiny", "width": 0.5}, "training": training}

    value["teachers"] = {
        "strong": teacher("source", 80),
        "medium": teacher("source", 30),
        "weak": teacher("source", 12),
        "wrong": teacher("shuffled", 80),
    }
    for name in tuple(value["teachers"]):  # the target is darker: only re-estimated statistics see anything in it
        value["teachers"][f"{name}-there"] = {"from": name, "adapt": {"domain": "target"}}
    value["labels"] = {
        name: {"teacher": f"{name}-there", "domain": "target"} for name in ("strong", "medium", "weak", "wrong")
    }
    student = {"model": "mobile-tiny", "training": {"steps": 6, "batch_size": 16}, "seeds": 1}
    value["students"] = {name: student | {"labels": name} for name in value["labels"]}
    value["rounds"] = {"policy": "co-training", "max_rounds": 2, "patience": 2}
    value["evaluation"] = {"metrics": ["accuracy"], "bootstrap": 20, "cost": False, "baselines": []}
    path = folder / "spec.yaml"
    path.write_text(yaml.safe_dump(value, sort_keys=False))
    assert not run(path).failures
    (chain,) = chains_so_far(path)
    worth = {name: one.quality["accuracy"] for name, one in chain.past[0].sets.items()}
    assert worth["wrong"] < min(worth[name] for name in ("strong", "medium", "weak"))
    fused = chain.asked[1].labels["to-weak.r2"]
    assert isinstance(fused.weights, tuple)
    weights = dict(zip(fused.fuse, fused.weights, strict=True))
    assert weights.get("wrong", 0.0) < 0.3 * weights["strong"]
    order = sorted(("strong", "medium", "weak"), key=lambda name: worth[name])
    said = [weights.get(name, 0.0) for name in order]
    assert said == sorted(said)
