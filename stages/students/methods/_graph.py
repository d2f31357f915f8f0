"""What methods share that look at a batch as a whole."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor


def real(weights_B: Tensor, *each: Tensor) -> tuple[Tensor, ...]:
    """The rows of each tensor (B, ...) that do not only fill up the batch."""
    alive_B = weights_B > 0
    return tuple(values[alive_B] for values in each)


def squared_distances(points_BF: Tensor) -> Tensor:
    """Squared distance (B, B) of every two rows, at least 1e-12 so that its root has a gradient."""
    gram = points_BF @ points_BF.T
    square = gram.diagonal()
    return (square[:, None] + square[None, :] - 2 * gram).clamp(min=1e-12)


def others(points: Tensor) -> Tensor:
    """Mask (B, B) of the pairs of two different rows."""
    import torch

    return ~torch.eye(len(points), dtype=torch.bool, device=points.device)
