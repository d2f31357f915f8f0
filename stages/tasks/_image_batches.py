"""Pictures as batches: resizing and cropping. Pictures of one shape are handled together.

Shapes: B rows, H height, W width, K channels, S side of the model's input.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch.nn import functional

from stages.tasks._images import Pixels, decode


def picture_batch(
    pictures: Pixels | Sequence[bytes | Pixels],
    channels: int,
    size: int,
    interpolation: str,
    crop: float | None,
    own_maximum: bool,
    bgr: bool,
    box_B4: np.ndarray | None = None,
) -> torch.Tensor:
    """float32 (B, K, S, S) in [0, 1] from raw pixels (B, H, W, K), or B encoded or decoded pictures.

    Without `crop` a picture is squeezed to a square; with it, the shorter side becomes floor(size / crop) and the
    centre is cut out. With `box_B4` (top, left, height, width of each row, as shares of its picture) that part is
    squeezed to a square instead. `own_maximum` divides each picture, so cut, by its largest value (a black one stays
    black). A row's result depends on no other row, nor on whether it was stored raw or as a file without loss.
    """
    if isinstance(pictures, np.ndarray) and box_B4 is None:
        batch = _resized(pictures, size, interpolation, crop)
    else:
        decoded = [item if isinstance(item, np.ndarray) else decode(item, channels) for item in pictures]
        if box_B4 is not None:
            decoded, crop = [_cut(pixels, box) for pixels, box in zip(decoded, box_B4, strict=True)], None
        batch = torch.empty(len(decoded), channels, size, size)
        for shape in dict.fromkeys(pixels.shape for pixels in decoded):
            rows = [row for row, pixels in enumerate(decoded) if pixels.shape == shape]
            batch[rows] = _resized(np.stack([decoded[row] for row in rows]), size, interpolation, crop)
    if own_maximum:
        largest = batch.amax(dim=(1, 2, 3), keepdim=True)
        batch /= torch.where(largest > 0, largest, 1.0)
    return batch.flip(1) if bgr else batch


def whole_pixels(box_4: np.ndarray, height: int, width: int) -> tuple[int, int, int, int]:
    """(top, left, height, width) in pixels of what a box names of a picture: to the nearest one, and at least one."""
    sides = np.array([height, width])
    size = np.clip(np.rint(box_4[2:] * sides), 1, sides).astype(int)
    top, left = np.minimum(np.rint(box_4[:2] * sides).astype(int), sides - size).tolist()
    return top, left, int(size[0]), int(size[1])


def _cut(pixels: Pixels, box_4: np.ndarray) -> Pixels:
    """The part (h, w, K) of a picture (H, W, K) that a box names."""
    top, left, height, width = whole_pixels(box_4, *pixels.shape[:2])
    return pixels[top : top + height, left : left + width]


def _resized(pixels: Pixels, size: int, interpolation: str, crop: float | None) -> torch.Tensor:
    """(B, H, W, K) uint8 to (B, K, S, S) float32 in [0, 1], antialiased as PIL does."""
    batch = torch.from_numpy(np.ascontiguousarray(pixels.transpose(0, 3, 1, 2), dtype=np.float32)) / 255
    height, width = batch.shape[2:]
    target = [size, size]
    if crop is not None:
        shorter = math.floor(size / crop)
        scale = shorter / min(height, width)
        target = [max(shorter, int(height * scale)), max(shorter, int(width * scale))]
    if [height, width] != target:
        smooth = interpolation != "nearest"
        batch = functional.interpolate(
            batch,
            target,
            mode=interpolation if smooth else "nearest-exact",
            align_corners=False if smooth else None,
            antialias=smooth,
        ).clamp(0, 1)
    top, left = (target[0] - size) // 2, (target[1] - size) // 2
    return batch[:, :, top : top + size, left : left + size]
