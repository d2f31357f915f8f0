"""Small image networks of our own, and `timm/NAME`, `torchvision/NAME`, `package.module:factory`.

Shapes: B rows, K channels, S side of the picture, O outputs.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import nn

from schemas.base import Part
from schemas.errors import ModelError, did_you_mean
from stages.tasks._factories import from_factory


class Normalise(nn.Module):
    """(x - mean) / std per channel. Holds no weights: both come from the model's preprocessing."""

    mean: torch.Tensor
    std: torch.Tensor

    def __init__(self, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor(mean).view(-1, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(-1, 1, 1), persistent=False)

    def forward(self, batch_BKSS: torch.Tensor) -> torch.Tensor:
        """The batch, normalised."""
        return (batch_BKSS - self.mean) / self.std


class Residual(nn.Module):
    """Two 3x3 convolutions beside a short cut (He et al. 2015, basic block)."""

    def __init__(self, inside: int, outside: int, stride: int) -> None:
        super().__init__()
        self.first = _convolution(inside, outside, stride)
        self.second = nn.Sequential(nn.Conv2d(outside, outside, 3, padding=1, bias=False), nn.BatchNorm2d(outside))
        same = stride == 1 and inside == outside
        self.shortcut = (
            nn.Identity()
            if same
            else nn.Sequential(nn.Conv2d(inside, outside, 1, stride, bias=False), nn.BatchNorm2d(outside))
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(B, inside, S, S) to (B, outside, S / stride, S / stride)."""
        return torch.relu(self.second(self.first(x)) + self.shortcut(x))


def _convolution(inside: int, outside: int, stride: int = 1, kernel: int = 3, groups: int = 1) -> nn.Sequential:
    convolution = nn.Conv2d(inside, outside, kernel, stride, kernel // 2, groups=groups, bias=False)
    return nn.Sequential(convolution, nn.BatchNorm2d(outside), nn.ReLU(inplace=True))


def _head(features: int, outputs: int) -> list[nn.Module]:
    return [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(features, outputs)]


def _resnet(channels: int, outputs: int, factor: float, width: int, depths: tuple[int, int, int]) -> nn.Module:
    """A ResNet in three stages, as He et al. built for CIFAR; each stage doubles the width and halves the side."""
    width = _times(width, factor)
    layers: list[nn.Module] = [_convolution(channels, width)]
    inside = width
    for stage, depth in enumerate(depths):
        outside = width * 2**stage
        for block in range(depth):
            layers.append(Residual(inside, outside, 2 if stage and not block else 1))
            inside = outside
    return nn.Sequential(*layers, *_head(inside, outputs))


def _mobile(channels: int, outputs: int, factor: float, widths: tuple[int, ...], strides: tuple[int, ...]) -> nn.Module:
    """Depthwise-separable convolutions (Howard et al. 2017)."""
    widths = tuple(_times(width, factor) for width in widths)
    inside = widths[0]
    layers: list[nn.Module] = [_convolution(channels, inside)]
    for outside, stride in zip(widths[1:], strides, strict=True):
        layers += [_convolution(inside, inside, stride, groups=inside), _convolution(inside, outside, kernel=1)]
        inside = outside
    return nn.Sequential(*layers, *_head(inside, outputs))


def _times(width: int, factor: float) -> int:
    return max(1, round(width * factor))


NETWORKS: dict[str, Callable[[int, int, float], nn.Module]] = {
    "mobile-tiny": partial(_mobile, widths=(16, 32, 64, 64), strides=(2, 2, 1)),
    "resnet-tiny": partial(_resnet, width=16, depths=(1, 1, 2)),
    "resnet-small": partial(_resnet, width=32, depths=(2, 2, 2)),
}
"""Networks by short name, called with (channels, outputs, factor of all widths)."""


def image_network(model: Part, channels: int, outputs: int) -> nn.Module:
    """A network by name, freshly initialised: (B, K, S, S) to raw outputs (B, O). Raises ModelError."""
    library, slash, name = model.name.partition("/")
    if ":" in model.name:
        return from_factory(model, outputs)
    if slash and library == "timm":
        return _timm(name, model, channels, outputs)
    if slash and library == "torchvision":
        return _torchvision(name, model, channels, outputs)
    if model.name not in NETWORKS:
        known = [*NETWORKS, "timm/NAME", "torchvision/NAME", "package.module:factory"]
        raise ModelError(f"no model is called '{model.name}'{did_you_mean(model.name, known)}")
    width = model.settings.get("width", 1.0)
    if set(model.settings) - {"width"} or not isinstance(width, int | float) or not 0 < width <= 16:
        found = ", ".join(f"{key}: {value}" for key, value in model.settings.items())
        raise ModelError(f"model '{model.name}' takes a `width` (a factor of all widths, up to 16), found {found}")
    return NETWORKS[model.name](channels, outputs, width)


def with_normalisation(network: nn.Module, channels: int, mean: Sequence[float], std: Sequence[float]) -> nn.Module:
    """The network behind its normalisation; its weights are called `network.…`, whatever the preprocessing."""
    if any(len(values) not in (0, channels) for values in (mean, std)):
        raise ModelError(f"preprocessing: `mean` and `std` have {channels} numbers each, one a channel")
    first = Normalise(mean or [0.0] * channels, std or [1.0] * channels) if mean or std else nn.Identity()
    return nn.Sequential(OrderedDict(normalise=first, network=network))


def _timm(name: str, model: Part, channels: int, outputs: int) -> nn.Module:
    import timm

    if not timm.is_model(name):
        raise ModelError(f"timm has no model '{name}'{did_you_mean(name, timm.list_models())}")
    try:
        built: nn.Module = timm.create_model(
            name, pretrained=False, num_classes=outputs, in_chans=channels, **model.settings
        )
    except Exception as error:
        raise ModelError(f"model '{model.name}' cannot be built: {error!r}") from error
    return built


def _torchvision(name: str, model: Part, channels: int, outputs: int) -> nn.Module:
    from torchvision import models as zoo

    if name not in zoo.list_models(module=zoo):
        raise ModelError(f"torchvision has no model '{name}'{did_you_mean(name, zoo.list_models(module=zoo))}")
    if channels != 3:
        raise ModelError(f"model '{model.name}' takes pictures with 3 channels: set `channels: 3` in the task")
    try:
        built: nn.Module = zoo.get_model(name, weights=None, num_classes=outputs, **model.settings)
    except Exception as error:
        raise ModelError(f"model '{model.name}' cannot be built: {error!r}") from error
    return built
