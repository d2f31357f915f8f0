"""One or two bright squares or bars on a dark picture of 64 px; every sixth picture is empty."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from tests.tasks.worlds.base import Row, World

SIDE = 64
CLASSES = ("square", "bar")


def _rows(count: int, seed: int, domain: int) -> list[Row]:
    random, rows = np.random.default_rng([seed, domain, 5]), []
    for number in range(count):
        picture, boxes = random.integers(0, 40, (SIDE, SIDE), np.uint8), []
        for half in range(0 if number % 6 == 5 else 1 + number % 2):
            kind = int(random.integers(2))
            width, height = (20, 20) if kind == 0 else (24, 12)
            left, top = int(random.integers(2, SIDE - width)), 32 * half + int(random.integers(2, 32 - height))
            picture[top : top + height, left : left + width] = (250, 190)[domain] - 60 * kind
            boxes.append([CLASSES[kind], left, top, left + width, top + height])
        rows.append({"image": picture, "label": json.dumps({"width": SIDE, "height": SIDE, "boxes": boxes})})
    return rows


def _write(path: Path, rows: Sequence[Row]) -> dict[str, str]:
    image, label = np.stack([row["image"] for row in rows]), np.array([row["label"] for row in rows])
    np.savez(path.with_suffix(".npz"), image=image, label=label)
    return {"arrays": str(path.with_suffix(".npz"))}


WORLD = World(
    config={"image_size": SIDE, "channels": 1, "classes": list(CLASSES), "boxes": 6, "items": 24},
    classes=(),
    rows=_rows,
    write=_write,
    teacher="faster-rcnn-small",
    student="ssd-light",
    augmentation={"flip": True, "crop": [0.5, 0.9], "brightness": 0.5},
    bad=(
        ({"image": None}, "empty"),
        ({"image": b""}, "empty"),
        ({"image": np.zeros((0, 8), np.uint8)}, "empty"),
        ({"image": b"no picture"}, "not an image"),
        ({"image": np.zeros((8, 8, 3), np.uint8)}, "1 channel"),
    ),
    models={"faster-rcnn-small": {"width": 16}, "ssd-light": {"width": 16}},
    learning_rate=4e-3,
    steps=120,
)
