"""Tree crowns in photographs from the air, 10 cm a pixel, cut into tiles, with boxes that people drew."""

from __future__ import annotations

import json
from collections.abc import Sequence
from io import BytesIO
from typing import TYPE_CHECKING

from stages.domains.fetch import Member

if TYPE_CHECKING:
    import numpy as np

LICENCE = (
    "National Ecological Observatory Network (NEON), airborne photographs, NEON's data policy (CC0); boxes by "
    "Weinstein et al. 2020; both come with deepforest, MIT"
)
TILE = 200
"""Side of a tile in pixels. Two photographs of 400 px are all that the target has: whole, they make no three splits."""
LEFT = 0.3
"""Share of a box that must lie in a tile, else it is none of that tile's."""


def member(name: str, sha256: str) -> Member:
    """A file of deepforest's."""
    return Member(package="deepforest", version="2.1.0", path=f"deepforest/data/{name}", sha256=sha256)


def tiles(*pairs: bytes) -> dict[str, np.ndarray]:
    """Whole tiles of photographs, each a PNG and then a VOC XML: `image` uint8 (N, 200, 200, 3), and `boxes`.

    All crowns are of one class, `tree`. What remains at the right and lower rims is left out.
    """
    import numpy as np
    from PIL import Image

    from stages.domains.sources.voc import parse

    images: list[np.ndarray] = []
    boxes: list[str] = []
    for picture, xml in zip(pairs[::2], pairs[1::2], strict=True):
        pixels = np.asarray(Image.open(BytesIO(picture)).convert("RGB"))
        corners = np.array([box[1:] for box in parse(xml)[2]], np.float64)
        for top in range(0, len(pixels) - TILE + 1, TILE):
            for left in range(0, pixels.shape[1] - TILE + 1, TILE):
                images.append(pixels[top : top + TILE, left : left + TILE])
                found = _inside(corners - [left, top, left, top])
                boxes.append(json.dumps({"width": TILE, "height": TILE, "boxes": [["tree", *box] for box in found]}))
    return {"image": np.stack(images), "boxes": np.array(boxes)}


def _inside(corners: np.ndarray) -> Sequence[Sequence[float]]:
    """Boxes that lie in a tile, cut off at its rim."""
    cut = corners.clip(0, TILE)
    area, left = ((item[:, 2:] - item[:, :2]).clip(0).prod(axis=1) for item in (corners, cut))
    found: list[list[float]] = cut[(left > 0) & (left >= LEFT * area)].tolist()
    return found
