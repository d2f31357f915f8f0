"""From masks and label grids to what a model learns of a picture: items, windows, and how one lies on the other.

An item stands for the middle of a cell of `stride` pixels, across and down. A batch holds pictures as models see them,
each with its window: the affine map from places in it to places in the sample, and which part of the
sample was cut out before (all else is black). Masks are of the sample, label grids of what the teacher saw of it, which
has a window too. So both go wherever the picture goes, and an item that lies outside of either is none.

Places are in [-1, 1] across and down, from rim to rim, as torch's `grid_sample` has them without `align_corners`.

Shapes: B pictures, S side, G cells along it, M = G * G items of a picture, C classes.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from stages.tasks._masks import IGNORED

MAP, WINDOW = 6, 10
"""Numbers of a window: its map's two rows; left, right, top and bottom of the part."""
NONE = -1.0
"""Stands in the place of an item that nothing is asked of."""
ASIDE = 0.01
"""Pixels that an item looks aside in a mask, this way and that way in turn: the middle of a cell of two pixels is the
edge of both, and always to take the same one would move all masks by half a pixel."""


@dataclass(frozen=True)
class Grid:
    """The items of a picture."""

    side: int
    """S, in pixels."""
    stride: int
    """Pixels between two items."""

    @property
    def cells(self) -> int:
        """G."""
        return self.side // self.stride

    @property
    def items(self) -> int:
        """M."""
        return self.cells**2

    def places(self) -> Tensor:
        """Where the items of a picture stand (M, 2), across and down, row after row; float64."""
        line = (2 * torch.arange(self.cells, dtype=torch.float64) + 1) / self.cells - 1
        return _pairs(line)

    def turns(self) -> Tensor:
        """-1 and 1 in turn across and down (M, 2)."""
        return _pairs((-1.0) ** torch.arange(self.cells, dtype=torch.float64))


def whole(rows: int) -> Tensor:
    """Windows (B, 10) of pictures that show their sample as it is."""
    return torch.tensor([[1.0, 0.0, 0.0, 0.0, 1.0, 0.0, -1.0, 1.0, -1.0, 1.0]]).expand(rows, -1)


def windows(part_B4: Tensor, changes_B23: Tensor | None) -> Tensor:
    """Windows (B, 10) of pictures of which a part is cut out (left, right, top, bottom), and then changed by a map."""
    left, right, top, bottom = part_B4.unbind(1)
    zero = torch.zeros_like(left)
    rows = [(right - left) / 2, zero, (right + left) / 2], [zero, (bottom - top) / 2, (bottom + top) / 2]
    map_B23 = torch.stack([torch.stack(row, dim=1) for row in rows], dim=1)
    if changes_B23 is not None:
        turned = map_B23[:, :, :2] @ changes_B23
        turned[:, :, 2] += map_B23[:, :, 2]
        map_B23 = turned
    return torch.cat([map_B23.reshape(-1, MAP), part_B4], dim=1).float()


def asked_of(asked: Tensor, window_BW: Tensor, grid: Grid) -> Tensor:
    """What is asked of each item (B, M) of pictures with these windows: a number, or NONE.

    `asked` is masks of samples (B, S * S), of which an item gets the class that it lies on, or windows (B, 10) of what
    a teacher saw, of whose grid it gets the number of the cell that it lies in; all of them where that is the same.
    """
    device = window_BW.device
    sample_BM2 = _through(window_BW, grid.places().to(device))
    left, right, top, bottom = window_BW[:, MAP:, None].double().unbind(1)
    across_BM, down_BM = sample_BM2.unbind(2)
    hidden_BM = (across_BM < left) | (across_BM >= right) | (down_BM < top) | (down_BM >= bottom)
    if asked.shape[1] == WINDOW:
        asked = asked.to(device)
        place_BM2, size = _back_through(asked, sample_BM2), grid.cells
        hidden_BM = hidden_BM & (asked != window_BW).any(dim=1, keepdim=True)
        cell_BM2 = ((place_BM2 + 1) * size / 2).floor().clamp(0, size - 1)
        found_BM = cell_BM2[..., 1] * size + cell_BM2[..., 0]
    else:
        place_BM2, size = sample_BM2, grid.side
        aside_M2 = ASIDE * grid.turns().to(device)
        pixel_BM2 = ((place_BM2 + 1) * size / 2 + aside_M2).floor().long().clamp(0, size - 1)
        found_BM = asked.to(device).gather(1, pixel_BM2[..., 1] * size + pixel_BM2[..., 0]).double()
        found_BM = found_BM.masked_fill(found_BM == IGNORED, NONE)
    outside_BM = ((place_BM2 < -1) | (place_BM2 >= 1)).any(dim=-1)
    return found_BM.masked_fill(outside_BM | hidden_BM, NONE)


def _pairs(line_G: Tensor) -> Tensor:
    """All pairs of two of a line's numbers (M, 2): the first one across, row after row."""
    down, across = torch.meshgrid(line_G, line_G, indexing="ij")
    return torch.stack([across, down], dim=-1).reshape(-1, 2)


def _through(window_BW: Tensor, places_M2: Tensor) -> Tensor:
    """Places in pictures as places (B, M, 2) in their samples."""
    map_B23 = window_BW[:, :MAP].double().reshape(-1, 2, 3)
    return places_M2 @ map_B23[:, :, :2].transpose(1, 2) + map_B23[:, None, :, 2]


def _back_through(window_BW: Tensor, places_BM2: Tensor) -> Tensor:
    """Places in samples as places (B, M, 2) in pictures of them."""
    map_B23 = window_BW[:, :MAP].double().reshape(-1, 2, 3)
    back_B22: Tensor = torch.linalg.inv(map_B23[:, :, :2])
    return (places_BM2 - map_B23[:, None, :, 2]) @ back_B22.transpose(1, 2)
