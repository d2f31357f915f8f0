"""Pictures as batches: resizing, cropping, augmentation. Pictures of one shape are handled together.

Shapes: B rows, H height, W width, K channels, S side of the model's input.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch.nn import functional

from stages.tasks._images import Pixels, decode

DRAWS = 6
"""Random numbers per sample: angle, two shifts, size, shear, flip; always all, so that a setting moves no other."""


def picture_batch(
    pictures: Pixels | Sequence[bytes],
    channels: int,
    size: int,
    interpolation: str,
    crop: float | None,
    own_maximum: bool,
    bgr: bool,
) -> torch.Tensor:
    """float32 (B, K, S, S) in [0, 1] from raw pixels (B, H, W, K) or B encoded pictures.

    Without `crop` a picture is squeezed to a square; with it, the shorter side becomes floor(size / crop) and the
    centre is cut out. `own_maximum` divides each picture, so cut, by its largest value (a black one stays black).
    A row's result does not depend on the other rows, nor on whether it was stored raw or as a file without loss.
    """
    if isinstance(pictures, np.ndarray):
        batch = _resized(pictures, size, interpolation, crop)
    else:
        decoded = [decode(data, channels) for data in pictures]
        batch = torch.empty(len(decoded), channels, size, size)
        for shape in dict.fromkeys(pixels.shape for pixels in decoded):
            rows = [row for row, pixels in enumerate(decoded) if pixels.shape == shape]
            batch[rows] = _resized(np.stack([decoded[row] for row in rows]), size, interpolation, crop)
    if own_maximum:
        largest = batch.amax(dim=(1, 2, 3), keepdim=True)
        batch /= torch.where(largest > 0, largest, 1.0)
    return batch.flip(1) if bgr else batch


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


def affine(batch: torch.Tensor, settings: Any, rng: np.random.Generator) -> torch.Tensor:
    """The batch (B, K, S, S), each row under an affine map of its own, drawn evenly within the settings.

    One draw of (B, 6) numbers and one resampling for all rows; what comes from outside a picture is black.
    """
    draw = rng.random((len(batch), DRAWS))
    signed = 2 * draw - 1
    low, high = settings.scale
    angle = np.deg2rad(settings.rotate) * signed[:, 0]
    shift = 2 * settings.translate * signed[:, 1:3]
    shear = np.tan(np.deg2rad(settings.shear) * signed[:, 4])
    size = low + (high - low) * draw[:, 3]
    flip = np.where(settings.flip & (draw[:, 5] < 0.5), -1.0, 1.0)
    cos, sin = np.cos(angle) / size, np.sin(angle) / size
    # grid_sample asks where in the input an output pixel lies: the inverse of rotation, size and shear.
    theta = np.empty((len(batch), 2, 3))
    theta[:, 0] = np.stack([flip * (cos - shear * sin), flip * (sin + shear * cos), shift[:, 0]], axis=1)
    theta[:, 1] = np.stack([-sin, cos, shift[:, 1]], axis=1)
    grid = functional.affine_grid(torch.from_numpy(theta).float(), list(batch.shape), align_corners=False)
    return functional.grid_sample(
        batch, grid.to(batch.device), mode="bilinear", padding_mode="zeros", align_corners=False
    )
