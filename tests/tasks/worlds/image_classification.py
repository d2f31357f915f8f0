"""Bars of 8 px: across, down or sloping."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from tests.pipeline.world import CLASSES, bars
from tests.tasks.worlds.base import Row, World


def _rows(count: int, seed: int, domain: int) -> list[Row]:
    pictures, truth = bars(count, seed, (190, 90)[domain])
    return [{"image": picture, "label": CLASSES[label]} for picture, label in zip(pictures, truth, strict=True)]


def _write(path: Path, rows: Sequence[Row]) -> dict[str, str]:
    image, label = (np.stack([row[name] for row in rows]) for name in ("image", "label"))
    np.savez(path.with_suffix(".npz"), image=image, label=label)
    return {"arrays": str(path.with_suffix(".npz"))}


WORLD = World(
    config={"image_size": 8, "channels": 1},
    classes=CLASSES,
    rows=_rows,
    write=_write,
    teacher="resnet-tiny",
    student="mobile-tiny",
    augmentation={"rotate": 30, "translate": 0.2, "crop": [0.4, 0.8], "brightness": 0.5},
    bad=(
        ({"image": None}, "empty"),
        ({"image": b""}, "empty"),
        ({"image": np.zeros((0, 8), np.uint8)}, "empty"),
        ({"image": b"no picture"}, "not an image"),
        ({"image": np.zeros((8, 8, 3), np.uint8)}, "1 channel"),
    ),
)
