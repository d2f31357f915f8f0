"""A tiny world: two domains of 8 px bars that differ in brightness, and a spec over them that runs in seconds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import yaml

CLASSES = ("across", "down", "slope")


def bars(rows: int, seed: int, ink: int) -> tuple[np.ndarray, np.ndarray]:
    """Pictures (rows, 8, 8, 1) of a bar in one of three directions, and its class."""
    rng = np.random.default_rng(seed)
    truth = rng.integers(0, 3, rows)
    pictures = rng.integers(0, 60, (rows, 8, 8, 1))
    for row, kind in enumerate(truth):
        at = rng.integers(2, 6)
        if kind == 0:
            pictures[row, at] += ink
        elif kind == 1:
            pictures[row, :, at] += ink
        else:
            pictures[row, np.arange(8), (np.arange(8) + at - 4) % 8] += ink
    return pictures.astype(np.uint8), truth


def write_domain(path: Path, rows: int, seed: int, ink: int, truth: np.ndarray | None = None) -> np.ndarray:
    """One `.npz` file of bars; other labels can be put in the place of the true ones."""
    pictures, own = bars(rows, seed, ink)
    labels = own if truth is None else truth
    np.savez(path, image=pictures, label=np.array(CLASSES)[labels])
    return labels


def write_world(folder: Path) -> Path:
    """Two domains and a spec over them; returns the spec's path."""
    folder.mkdir(parents=True, exist_ok=True)
    write_domain(folder / "source.npz", 120, 1, 190)
    write_domain(folder / "target.npz", 150, 2, 90)
    return write_spec(folder / "spec.yaml")


def write_spec(path: Path, **changes: Any) -> Path:
    """The world's spec; `changes` replace its top-level parts."""
    training = {"steps": 12, "batch_size": 16, "learning_rate": 0.01, "augmentation": {"translate": 0.1}}
    spec = {
        "version": 1,
        "name": "bars",
        "task": {"name": "image-classification", "image_size": 8, "channels": 1},
        "resources": {"mode": "local"},
        "domains": {
            "source": {"from": {"arrays": "source.npz"}, "split": {"train": 0.8, "validation": 0.2}, "shard_rows": 64},
            "target": {
                "from": {"arrays": "target.npz"},
                "split": {"train": 0.5, "validation": 0.2, "test": 0.3},
                "label_budget": {"train": 6, "validation": 6},
                "shard_rows": 64,
            },
        },
        "teachers": {
            "big": {"domains": ["source"], "model": "resnet-tiny", "training": {"epochs": 2, "batch_size": 32}},
            "fit": {"from": "big", "adapt": {"domain": "target"}},
        },
        "labels": {"said": {"teacher": "fit", "domain": "target"}},
        "students": {
            "small": {"model": "mobile-tiny", "labels": "said", "training": training, "seeds": 2},
            "sharp": {
                "model": "mobile-tiny",
                "labels": "said",
                "method": {"name": "soft", "temperature": 1.0},
                "training": training,
                "seeds": 2,
            },
        },
        "evaluation": {"metrics": ["accuracy"], "bootstrap": 200, "cost": False},
    }
    path.write_text(yaml.safe_dump({**spec, **changes}, sort_keys=False))
    return path
