"""Two players: networks that tell two sides apart, and how the other side learns from one that stands still.

Shapes: N rows of either side, F numbers of a row.
"""

from __future__ import annotations

from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.utils.parametrizations import spectral_norm


def discriminator(inside: int, width: int, bounded: bool) -> nn.Module:
    """(N, inside) to one score a row (N,): a perceptron of two hidden layers.

    `bounded`: every weight has spectral norm 1, so that no score changes faster than what it is told.
    """
    layers = [nn.Linear(inside, width), nn.Linear(width, width), nn.Linear(width, 1)]
    first, second, last = (spectral_norm(layer) if bounded else layer for layer in layers)
    return nn.Sequential(first, nn.LeakyReLU(0.2), second, nn.LeakyReLU(0.2), last, nn.Flatten(0))


def frozen(player: nn.Module, rows: Tensor) -> Tensor:
    """What a player says, with a gradient for the rows and none for its own weights."""
    still = {name: value.detach() for name, value in player.named_parameters()}
    said: Tensor = functional_call(player, still, (rows,))
    return said


class Residual(nn.Module):
    """x and a small change of it, none at first."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(width, hidden), nn.Linear(hidden, width)
        nn.init.zeros_(self.last.weight)
        nn.init.zeros_(self.last.bias)

    def forward(self, rows_NF: Tensor) -> Tensor:
        """(N, F) to (N, F)."""
        changed: Tensor = rows_NF + self.last(nn.functional.relu(self.first(rows_NF)))
        return changed


def told_apart(scores_one: Tensor, scores_other: Tensor, weights_other: Tensor) -> Tensor:
    """Cross-entropy of a player that should score one side above 0 and the other below; each side counts half."""
    one = nn.functional.softplus(-scores_one).mean()
    other = (nn.functional.softplus(scores_other) * weights_other).sum() / weights_other.sum()
    both: Tensor = (one + other) / 2
    return both
