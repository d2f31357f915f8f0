"""A bright square and a paler bar on a dark picture of 32 px; every sixth picture is empty, and a corner is unknown."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from tests.tasks.worlds.base import Row, World

SIDE = 32
CLASSES = ("background", "square", "bar")
UNKNOWN = 255


def png(pixels: np.ndarray) -> bytes:
    sink = io.BytesIO()
    Image.fromarray(pixels).save(sink, "png")
    return sink.getvalue()


def _rows(count: int, seed: int, domain: int) -> list[Row]:
    random, rows = np.random.default_rng([seed, domain, 7]), []
    for number in range(count):
        picture, mask = random.integers(0, 30, (SIDE, SIDE), np.uint8), np.zeros((SIDE, SIDE), np.uint8)
        for kind, (height, width) in () if number % 6 == 5 else ((1, (12, 12)), (2, (6, 16))):
            top = 16 * (kind - 1) + int(random.integers(0, 16 - height + 1))
            left = int(random.integers(0, SIDE - width + 1))
            part = slice(top, top + height), slice(left, left + width)
            picture[part] = (250, 190)[domain] - 110 * (kind - 1)
            mask[part] = kind
        mask[-3:, -3:] = UNKNOWN
        rows.append({"image": picture, "label": png(mask)})
    return rows


def _write(path: Path, rows: Sequence[Row]) -> dict[str, str]:
    images, masks = path / "images", path / "masks"
    for folder in (images, masks):
        folder.mkdir(parents=True)
    for number, row in enumerate(rows):
        (images / f"{number:03}.png").write_bytes(png(row["image"]))
        (masks / f"{number:03}.png").write_bytes(row["label"])
    return {"images": str(images), "masks": str(masks)}


WORLD = World(
    config={"image_size": SIDE, "channels": 1, "classes": list(CLASSES), "stride": 2},
    classes=(),
    rows=_rows,
    write=_write,
    teacher="unet-small",
    student="deeplab-light",
    augmentation={"flip": True, "crop": [0.5, 0.9], "rotate": 20, "brightness": 0.5},
    bad=(
        ({"image": None}, "empty"),
        ({"image": b""}, "empty"),
        ({"image": np.zeros((0, 8), np.uint8)}, "empty"),
        ({"image": b"no picture"}, "not an image"),
        ({"image": np.zeros((8, 8, 3), np.uint8)}, "1 channel"),
        ({"image": np.zeros((8, 8), np.uint8), "label": np.zeros((8, 9), np.uint8)}, "mask has 8x9 .* its picture 8x8"),
    ),
    models={"unet-small": {"width": 16}, "deeplab-light": {"width": 16}},
    learning_rate=1e-2,
    steps=80,
    by_heart=0.8,
)
