"""Scenes of several digits on one canvas, composed from an example of single ones, with exact masks and boxes.

Each digit stands in one scene only, so that scenes of two splits share none. Every twelfth scene is empty.

Shapes: N scenes, S side of a canvas, H and W of a digit.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np

SIDE = 160
MOST = 6
"""Digits of a scene."""
SIZES = (24, 56)
"""Smallest and largest side of the square that a digit is drawn in, in pixels."""
EMPTY = 12
"""One of so many scenes has no digit."""
INK = 0.35
"""Share of a digit's largest value from which a pixel belongs to it."""
NOISE = 24
"""Largest value of the background."""
TRIES = 20


def scenes(image: np.ndarray, label: np.ndarray, seed: int = 0) -> dict[str, np.ndarray]:
    """Scenes of digits (rows, H, W, 1) uint8 and their names (rows,), a function of these and of the seed.

    `image` uint8 (N, S, S, 1); `boxes`, JSON of width, height and boxes in pixels, each tight around a digit's ink and
    [class, left, top, right, bottom]; `mask` uint8 (N, S, S), 1 + the digit's number, 0 for the background.
    """
    import numpy as np

    random = np.random.default_rng(seed)
    left = random.permutation(len(image)).tolist()
    canvases: list[np.ndarray] = []
    masks: list[np.ndarray] = []
    boxes: list[str] = []
    while left:
        canvas = random.integers(0, NOISE, (SIDE, SIDE)).astype(np.uint8)
        mask = np.zeros((SIDE, SIDE), np.uint8)
        count = 0 if len(canvases) % EMPTY == EMPTY - 1 else int(random.integers(1, MOST + 1))
        found = [_draw(canvas, mask, image[row, :, :, 0], str(label[row]), random) for row in left[:count]]
        left = left[count:]
        canvases.append(canvas[:, :, None])
        masks.append(mask)
        boxes.append(json.dumps({"width": SIDE, "height": SIDE, "boxes": [box for box in found if box is not None]}))
    return {"image": np.stack(canvases), "boxes": np.array(boxes), "mask": np.stack(masks)}


def _draw(
    canvas: np.ndarray, mask: np.ndarray, digit: np.ndarray, name: str, random: np.random.Generator
) -> list[str | int] | None:
    """Draw a digit where none is yet, and give its box; nothing where no room was found."""
    import numpy as np
    from PIL import Image

    rows, columns = np.nonzero(digit > INK * digit.max())
    ink = digit[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1]
    side = int(random.integers(SIZES[0], SIZES[1] + 1))
    factor = side / max(ink.shape)
    width, height = (max(4, round(length * factor)) for length in (ink.shape[1], ink.shape[0]))
    scaled = np.asarray(Image.fromarray(ink).resize((width, height), Image.Resampling.BILINEAR)).astype(np.float64)
    drawn = np.rint(scaled / scaled.max() * random.integers(140, 256)).astype(np.uint8)
    for _ in range(TRIES):
        top, left = int(random.integers(0, SIDE - height + 1)), int(random.integers(0, SIDE - width + 1))
        part = (slice(top, top + height), slice(left, left + width))
        if mask[part].any():
            continue
        inked = drawn > INK * drawn.max()
        canvas[part] = np.maximum(canvas[part], drawn)
        mask[part] = np.where(inked, 1 + int(name), 0)
        down, across = np.nonzero(inked)
        start = (left + int(across.min()), top + int(down.min()))
        end = (left + int(across.max()) + 1, top + int(down.max()) + 1)
        return [name, *start, *end]
    return None
