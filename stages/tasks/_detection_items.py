"""From boxes to what a detector learns of a picture, and back: windows, anchors, and the items of a step.

A batch holds pictures as models see them, each with its window: which part of the sample it shows, and whether
mirrored. Boxes outside of a model are shares of the whole sample; so they travel with whatever was done to the picture.

An item of training is an anchor: those that lie on a box learn its distribution over the classes and its place, the
others that nothing is there. M of each picture are learned from: up to half of them on boxes, then those without a box
that the model is most wrong about (Liu et al., "SSD", 2016, arXiv:1512.02325).

Shapes: B pictures, K channels, S side, D slots of a picture, A anchors, M items of a picture, C classes and background.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor
from torchvision.models.detection._utils import BoxCoder
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.ops import box_iou

from stages.tasks._boxes import ANSWERS, SLOT

WINDOW = 5
"""Numbers behind a picture: left, top, width, height of what it shows, as shares of the sample, and 1 if mirrored."""
STRIDES = (8, 16, 32)
"""Pixels between anchors on each level."""
SIZES = (2.0, 2.0**1.5)
"""Sides of the anchors over their stride."""
ON = 0.5
"""Overlap with a box from which an anchor lies on it."""
SEEN = 0.3
"""Share of a box that must lie in the window, else it is none any more."""
CODER = BoxCoder((10.0, 10.0, 5.0, 5.0))
"""Places as offsets from anchors, and their usual scale (Ren et al. 2015)."""


@cache
def anchors(side: int, ratios: tuple[float, ...]) -> Tensor:
    """Anchors (A, 4) of a picture of that side, as shares of it, level by level, row by row, place by place."""
    sizes = tuple(tuple(stride * size for size in SIZES) for stride in STRIDES)
    made = AnchorGenerator(sizes, (ratios,) * len(STRIDES))
    grids = [[side // stride] * 2 for stride in STRIDES]
    strides = [[torch.tensor(stride)] * 2 for stride in STRIDES]
    corners = torch.cat(made.grid_anchors(grids, strides))
    return (corners + _centres(side, len(ratios))) / side


def _centres(side: int, ratios: int) -> Tensor:
    """What brings anchors from the corners of their cells to the middles (A, 1), in pixels."""
    counts = [(side // stride) ** 2 * len(SIZES) * ratios for stride in STRIDES]
    return torch.cat([torch.full((count, 1), stride / 2) for stride, count in zip(STRIDES, counts, strict=True)])


def slots_of(asked: Tensor) -> Tensor:
    """(B, D, 6) of what is asked, (B, D * 6 + 1)."""
    return asked[:, :-1].reshape(len(asked), -1, SLOT)


def there(slots_BD6: Tensor) -> Tensor:
    """Mask (B, D) of slots with a box."""
    return slots_BD6[..., 5] >= 0


def into_window(asked: Tensor, window_B5: Tensor) -> Tensor:
    """Boxes of samples as boxes (B, D, 6) of what is seen of them, cut off at its rim.

    Those that hardly are seen lose their slot, but for boxes that a model gave itself.
    """
    slots_BD6 = slots_of(asked)
    start, size = window_B5[:, None, :2], window_B5[:, None, 2:4]
    corners = (slots_BD6[..., :4] - start.tile(2)) / size.tile(2)
    corners = torch.where(window_B5[:, None, 4:] > 0, _mirrored(corners), corners)
    inside = corners.clamp(0, 1)
    area, seen = _area(corners), _area(inside)
    kept = there(slots_BD6) & (((seen > 0) & (seen >= SEEN * area)) | (asked[:, -1:] == ANSWERS))
    moved = torch.cat([inside, slots_BD6[..., 4:]], dim=2)
    return torch.where(kept[..., None], moved, torch.full_like(moved, -1.0))


def out_of_window(boxes_BN4: Tensor, window_B5: Tensor) -> Tensor:
    """Boxes of what is seen (B, N, 4) as boxes of the samples."""
    boxes = torch.where(window_B5[:, None, 4:] > 0, _mirrored(boxes_BN4), boxes_BN4)
    return boxes * window_B5[:, None, 2:4].tile(2) + window_B5[:, None, :2].tile(2)


def _mirrored(boxes: Tensor) -> Tensor:
    left, top, right, bottom = boxes.unbind(-1)
    return torch.stack([1 - right, top, 1 - left, bottom], dim=-1)


def _area(boxes: Tensor) -> Tensor:
    return (boxes[..., 2:] - boxes[..., :2]).clamp(min=0).prod(dim=-1)


@dataclass(frozen=True)
class Match:
    """Which box each anchor lies on."""

    slots_BD6: Tensor
    """The boxes as they are seen."""
    on_BA: Tensor
    """Slot of the anchor's box, or -1."""
    chosen_BP: Tensor
    """Anchors on boxes that are items, P of them a picture at most; the best ones first."""
    count_B: Tensor
    """How many of them there are."""

    def items(self, hardness_BA: Tensor | None, size: int) -> Tensor:
        """Anchors of the M items (B, M): those on boxes, then those without one, the hardest first."""
        hardness = torch.zeros(self.on_BA.shape, device=self.on_BA.device) if hardness_BA is None else hardness_BA
        empty_BM = hardness.masked_fill(self.on_BA >= 0, -torch.inf).topk(size).indices
        place_BM = torch.arange(size, device=empty_BM.device)[None] - self.count_B[:, None]
        width = self.chosen_BP.shape[1]
        first_BM = self.chosen_BP.gather(1, (place_BM + self.count_B[:, None]).clamp(max=width - 1))
        return torch.where(place_BM < 0, first_BM, empty_BM.gather(1, place_BM.clamp(min=0)))

    def slots(self, size: int) -> Tensor:
        """Slot (B, M) that each item lies on, or -1."""
        width = self.chosen_BP.shape[1]
        place_BM = torch.arange(size, device=self.on_BA.device).expand(len(self.on_BA), size)
        slot_BM = self.on_BA.gather(1, self.chosen_BP).gather(1, place_BM.clamp(max=width - 1))
        return torch.where(place_BM < self.count_B[:, None], slot_BM, -1)


def match(slots_BD6: Tensor, anchors_A4: Tensor, size: int) -> Match:
    """Lay anchors on boxes that are seen: an anchor on the box that it overlaps most, if by half, and on each box the
    anchor that overlaps it most. Of M items up to half lie on boxes."""
    present = there(slots_BD6)
    rows, slots = present.shape
    overlap_BDA = box_iou(slots_BD6[..., :4].reshape(-1, 4), anchors_A4.to(slots_BD6.device)).reshape(rows, slots, -1)
    overlap_BDA = overlap_BDA.masked_fill(~present[..., None], -1.0)
    best_BA, slot_BA = overlap_BDA.max(dim=1)
    on_BA = torch.where(best_BA >= ON, slot_BA, -1)
    rank_BA = torch.where(best_BA >= ON, best_BA, -1.0)
    row, slot = present.nonzero(as_tuple=True)
    anchor = overlap_BDA.argmax(dim=2)[row, slot]
    on_BA[row, anchor], rank_BA[row, anchor] = slot, 2.0
    rank, chosen = rank_BA.topk(min(size // 2, rank_BA.shape[1]))
    return Match(slots_BD6, on_BA, chosen, (rank >= 0).sum(dim=1))


def stands_for(asked: Tensor, slots_BM: Tensor) -> Tensor:
    """Number (B * M) of the label that each item stands for, among those of all pictures: that of its box, or the last
    one of its picture, which is that of everywhere else."""
    boxes_B = there(slots_of(asked)).sum(dim=1)
    last_B = (boxes_B + 1).cumsum(0) - 1
    place = torch.where(slots_BM >= 0, (last_B - boxes_B)[:, None] + slots_BM, last_B[:, None])
    return place.reshape(-1)


def as_they_stand(asked: Tensor) -> bool:
    """Whether a model is asked about these very boxes, as it gave them."""
    return bool((asked[:, -1] == ANSWERS).any())
