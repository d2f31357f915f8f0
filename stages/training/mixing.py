"""Mixed pictures: two rows of a batch become one, and its loss is that of both targets.

mixup:   x' = lam x_i + (1 - lam) x_j                         (Zhang et al. 2018, arXiv:1710.09412)
cutmix:  x' = x_i with a box cut from x_j, lam what is left   (Yun et al. 2019, arXiv:1905.04899)
loss:    lam * loss(x', target of i) + (1 - lam) * loss(x', target of j)

Losses are mixed and not targets. For a cross-entropy that is the same; for a divergence from a teacher it is the same
but for what does not depend on the student:

    lam KL(p_i || q) + (1 - lam) KL(p_j || q) = KL(lam p_i + (1 - lam) p_j || q) + const

So it needs no dense labels, and serves every method. One lam a step, drawn from Beta(a, a); rows are paired by a
permutation of their own lot.

Shapes: R rows of a lot, H height, W width.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from schemas.training import Mixing


@dataclass(frozen=True)
class Mix:
    """How pairs are mixed in one step."""

    lam: float
    """What the row itself counts; its partner counts 1 - lam."""
    box: tuple[slice, slice] | None
    """Rows and columns of the picture that come from the partner; none: all is blended."""

    def __call__(self, batch: Tensor, partner_R: Tensor) -> Tensor:
        """A batch (R, ...) of which each row is mixed with its partner."""
        if self.box is None:
            return self.lam * batch + (1.0 - self.lam) * batch[partner_R]
        mixed = batch.clone()
        mixed[(..., *self.box)] = batch[partner_R][(..., *self.box)]
        return mixed


def draw_mix(mixing: Mixing, side_2: Sequence[int], random: np.random.Generator) -> Mix | None:
    """How a step is mixed, from the step's own generator; None for one that is not. `side_2`: H and W of pictures."""
    chosen, cut, place_2 = random.random(), random.random(), random.random(2)
    if chosen >= mixing.share:
        return None
    by_box = mixing.cutmix > 0 and (not mixing.mixup or cut < 0.5)
    strength = mixing.cutmix if by_box else mixing.mixup
    lam = float(random.beta(strength, strength))
    if not by_box:
        return Mix(lam, None)
    # As in torchvision's CutMix: half a side to each side of a point, and what falls outside is cut off.
    box = []
    for side, place in zip(side_2, place_2, strict=True):
        middle, half = int(place * side), int(0.5 * math.sqrt(1.0 - lam) * side)
        box.append(slice(max(middle - half, 0), min(middle + half, side)))
    inside = math.prod(part.stop - part.start for part in box)
    return Mix(1.0 - inside / math.prod(side_2), (box[0], box[1]))


def draw_partners(rows: int, random: np.random.Generator) -> Tensor:
    """(R,) the partner of each row, each row being the partner of one."""
    return torch.from_numpy(random.permutation(rows))


def of_partners(outputs: Tensor, partner_R: Tensor) -> Tensor:
    """Outputs (R, ...) in the order of the rows that were mixed into them: row j is that of the mix with j."""
    return outputs[torch.argsort(partner_R)]
