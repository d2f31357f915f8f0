"""From a given model's own classes to the target's, many to one.

Shapes: B rows, O own classes, C classes, M largest number of members of a class.
"""

from __future__ import annotations

import torch


class ClassMap(torch.nn.Module):
    """A class's logit is the logsumexp of its members' logits: its probability among the mapped classes.

    Own classes that are no member are left out. No weights; computed in float32.
    """

    index_CM: torch.Tensor

    def __init__(self, members: list[list[int]]) -> None:
        """`members`: numbers of the own classes of each class, at least one each."""
        super().__init__()
        most = max(map(len, members))
        # -1 stands for the column of minus infinity that `forward` appends.
        rows = [group + [-1] * (most - len(group)) for group in members]
        self.register_buffer("index_CM", torch.tensor(rows), persistent=False)
        self._used = sorted(number for group in members for number in group)

    def forward(self, raw_BO: torch.Tensor) -> torch.Tensor:
        """Raw outputs (B, O) to logits (B, C)."""
        nothing = raw_BO.new_full((len(raw_BO), 1), -torch.inf, dtype=torch.float32)
        return torch.cat([raw_BO.float(), nothing], dim=1)[:, self.index_CM].logsumexp(dim=2)

    def unmapped_mass(self, raw_BO: torch.Tensor) -> torch.Tensor:
        """Probability (B,) on the own classes that are left out, at temperature 1."""
        probabilities = raw_BO.float().softmax(dim=1)
        probabilities[:, self._used] = 0.0
        return probabilities.sum(dim=1)
