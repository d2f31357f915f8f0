"""Bars of 8 px: across, down or sloping, and bright or pale; every third one is asked the one or the other only."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from tests.pipeline.world import CLASSES, bars
from tests.tasks.worlds import image_classification
from tests.tasks.worlds.base import Row, World

QUESTIONS = {"way": list(CLASSES), "bright": ["no", "yes"]}


def _rows(count: int, seed: int, domain: int) -> list[Row]:
    pictures, truth = bars(count, seed, (100, 80)[domain])
    rows = []
    for number, (picture, label) in enumerate(zip(pictures, truth, strict=True)):
        bright = number % 2 == 1
        picture = np.where(picture >= 60, picture + 70 * bright, picture).astype(np.uint8)
        answers = {"way": CLASSES[label], "bright": ("no", "yes")[bright]}
        if number % 3 == 2:
            answers[("way", "bright")[number % 2]] = ""
        rows.append({"image": picture, **answers})
    return rows


def _write(path: Path, rows: Sequence[Row]) -> dict[str, str]:
    image, way, bright = (np.stack([row[name] for row in rows]) for name in ("image", "way", "bright"))
    np.savez(path.with_suffix(".npz"), image=image, way=way, bright=bright)
    return {"arrays": str(path.with_suffix(".npz"))}


WORLD = World(
    config={"image_size": 8, "channels": 1, "questions": QUESTIONS},
    classes=(),
    rows=_rows,
    write=_write,
    teacher="resnet-tiny",
    student="mobile-tiny",
    augmentation=image_classification.WORLD.augmentation,
    bad=image_classification.WORLD.bad,
)
