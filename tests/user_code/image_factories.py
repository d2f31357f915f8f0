"""Models as a user would bring them: good ones, and one for every way to be wrong."""

from collections import OrderedDict
from typing import Any

import numpy as np
import torch
from torch import nn


def group_norm(num_classes: int, width: int = 8) -> nn.Module:
    """A small network without batch norm, for pictures with one channel."""
    return nn.Sequential(
        OrderedDict(
            conv=nn.Conv2d(1, width, 3, padding=1),
            norm=nn.GroupNorm(2, width),
            relu=nn.ReLU(),
            drop=nn.Dropout(0.1),
            pool=nn.AdaptiveAvgPool2d(2),
            flat=nn.Flatten(),
            head=nn.Linear(4 * width, num_classes),
        )
    )


def plain(num_classes: int) -> nn.Module:
    """Without noise of its own, so that one rank and two agree."""
    network = group_norm(num_classes)
    network.drop = nn.Identity()
    return network


def deadly(num_classes: int) -> nn.Module:
    """Ends its process in its third training step, as the kernel does when memory is over."""
    import os
    import signal

    def end(module: nn.Module, args: Any) -> None:
        network.steps += module.training
        if network.steps == 3:
            os.kill(os.getpid(), signal.SIGKILL)

    network: Any = group_norm(num_classes)
    network.steps = 0
    network.register_forward_pre_hook(end)
    model: nn.Module = network
    return model


def brightness(num_classes: int) -> Any:
    """No Module: a callable from a numpy batch to logits, as a served model is."""

    def answer(batch: np.ndarray) -> np.ndarray:
        assert isinstance(batch, np.ndarray)
        means = batch.mean(axis=(1, 2, 3))
        return np.stack([means * (number + 1) for number in range(num_classes)], axis=1)

    return answer


def own_weights(num_classes: int) -> nn.Module:
    """Brings its weights with it."""
    network = plain(num_classes)
    with torch.no_grad():
        for weight in network.parameters():
            weight.fill_(0.25)
    return network


def tied(num_classes: int) -> nn.Module:
    """Two layers that share one weight."""
    first, second = nn.Linear(64, 64, bias=False), nn.Linear(64, 64, bias=False)
    second.weight = first.weight
    head = nn.Linear(64, num_classes)
    return nn.Sequential(OrderedDict(flat=nn.Flatten(), first=first, second=second, head=head))


def one_too_many(num_classes: int) -> nn.Module:
    return plain(num_classes + 1)


def not_finite(num_classes: int) -> nn.Module:
    network = plain(num_classes)
    with torch.no_grad():
        next(network.parameters()).fill_(float("nan"))
    return network


def pair(num_classes: int) -> nn.Module:
    class Pair(nn.Module):
        def forward(self, batch: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            return batch, batch

    return Pair()


def broken(num_classes: int) -> nn.Module:
    raise RuntimeError("no weights on this machine")


def quits(num_classes: int) -> nn.Module:
    raise SystemExit(3)


def talks(num_classes: int) -> nn.Module:
    print("loading")  # noqa: T201
    return plain(num_classes)


def number(num_classes: int) -> int:
    return num_classes


def pixels(num_classes: int) -> nn.Module:
    """Logits of a quarter of the side, as torchvision's networks give them: by name."""

    class Pixels(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.head = nn.Conv2d(3, num_classes, 4, 4)

        def forward(self, pictures: torch.Tensor) -> dict[str, torch.Tensor]:
            return {"out": self.head(pictures)}

    return Pixels()
