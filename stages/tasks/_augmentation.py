"""Random changes of pictures, each row's by its own drawn numbers. What is drawn is relative to the picture.

Shapes: B rows, K channels, S side of the model's input.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from torch.nn import functional

AFFINE, BOX, COLOUR = 6, 4, 3
"""Numbers per row of each purpose; always all of them, so that one setting does not move another's."""
RATIO = 4 / 3
"""Largest ratio of a cut's sides, over that of the picture: as in torchvision's RandomResizedCrop."""
GREY = (0.2989, 0.587, 0.114)
"""Weights of red, green and blue in grey (ITU-R BT.601), as torchvision has them."""


def boxes(draw_B4: np.ndarray, share: tuple[float, float]) -> np.ndarray:
    """(top, left, height, width) of each row's cut, (B, 4), as shares of the picture; all inside it.

    The area is drawn evenly between the two shares, the ratio of the sides evenly in its logarithm.
    """
    area = share[0] + (share[1] - share[0]) * draw_B4[:, 0]
    ratio = np.exp((2 * draw_B4[:, 1] - 1) * math.log(RATIO))
    size = np.minimum(np.stack([np.sqrt(area / ratio), np.sqrt(area * ratio)], axis=1), 1.0)
    return np.concatenate([draw_B4[:, 2:] * (1 - size), size], axis=1)


def maps(settings: Any, draw_B6: np.ndarray) -> torch.Tensor:
    """Affine maps (B, 2, 3) from places in a changed picture to places in the one before, in float64.

    Drawn evenly within the settings; the numbers stand for angle, two shifts, size, shear and flip.
    """
    signed = 2 * draw_B6 - 1
    low, high = settings.scale
    angle = np.deg2rad(settings.rotate) * signed[:, 0]
    shift = 2 * settings.translate * signed[:, 1:3]
    shear = np.tan(np.deg2rad(settings.shear) * signed[:, 4])
    size = low + (high - low) * draw_B6[:, 3]
    flip = np.where(settings.flip & (draw_B6[:, 5] < 0.5), -1.0, 1.0)
    cos, sin = np.cos(angle) / size, np.sin(angle) / size
    # grid_sample asks where in the input an output pixel lies: the inverse of rotation, size and shear.
    theta = np.empty((len(draw_B6), 2, 3))
    theta[:, 0] = np.stack([flip * (cos - shear * sin), flip * (sin + shear * cos), shift[:, 0]], axis=1)
    theta[:, 1] = np.stack([-sin, cos, shift[:, 1]], axis=1)
    return torch.from_numpy(theta)


def affine(batch: torch.Tensor, maps_B23: torch.Tensor) -> torch.Tensor:
    """The batch (B, K, S, S), each row under its map.

    One resampling for all rows; what comes from outside a picture is black.
    """
    grid = functional.affine_grid(maps_B23.float(), list(batch.shape), align_corners=False)
    return functional.grid_sample(
        batch, grid.to(batch.device), mode="bilinear", padding_mode="zeros", align_corners=False
    )


def recoloured(batch: torch.Tensor, settings: Any, draw_B3: np.ndarray, bgr: bool) -> torch.Tensor:
    """The batch (B, K, S, S) with factors of its own for brightness, contrast and saturation, in this order.

    Each factor is drawn evenly from 1 - setting to 1 + setting; values stay in [0, 1].
    """
    most_3 = np.array([settings.brightness, settings.contrast, settings.saturation])
    factor_3B = torch.from_numpy(1 + most_3[:, None] * (2 * draw_B3.T - 1)).float()
    brightness, contrast, saturation = factor_3B[:, :, None, None, None]
    batch = (batch * brightness).clamp(0, 1)
    mean = _grey(batch, bgr).mean(dim=(1, 2, 3), keepdim=True)
    batch = (contrast * batch + (1 - contrast) * mean).clamp(0, 1)
    changed: torch.Tensor = (saturation * batch + (1 - saturation) * _grey(batch, bgr)).clamp(0, 1)
    return changed


def _grey(batch: torch.Tensor, bgr: bool) -> torch.Tensor:
    """(B, 1, S, S)."""
    if batch.shape[1] == 1:
        return batch
    weights = torch.tensor(GREY[::-1] if bgr else GREY)
    return (batch * weights[:, None, None]).sum(dim=1, keepdim=True)
