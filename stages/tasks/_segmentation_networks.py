"""Networks that tell the class of each pixel: a U-Net for teachers, a light DeepLabV3+ for students, others by name.

Any of them maps pictures (B, K, S, S) to logits (B, C, s, s) of some size; `Segmenter` makes a model of the task of it.

Shapes: B pictures, K channels, S side, M items of a picture, N items of all, C classes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torchvision.models.segmentation.deeplabv3 import ASPP

from schemas.base import Part
from schemas.errors import ModelError, did_you_mean
from stages.tasks._factories import from_factory
from stages.tasks._networks import _convolution, with_normalisation
from stages.tasks._segmentation_items import WINDOW, Grid

NARROWEST = 16
"""Channels of a layer, at least, and in multiples of it: narrower ones crash oneDNN's backward passes of channels-last
layers (torch 2.14.1, pictures of 160 px)."""
RATES = (2, 4, 6)
"""Dilations of the light DeepLab's pyramid: an eighth of a small picture is less than DeepLab's 6, 12 and 18 span."""
DECODER = 32


class Segmenter(nn.Module):
    """Says the class of each pixel, or answers for the items that are asked for."""

    def __init__(self, network: nn.Module, channels: int, grid: Grid) -> None:
        super().__init__()
        self.network, self.channels, self.grid = network, channels, grid

    def forward(self, batch: Tensor) -> Tensor:
        """(B, K S S + 10) to class numbers (B, S S); with what is asked behind it, (B, M) more, to logits (N, C)."""
        side, pixels = self.grid.side, self.channels * self.grid.side**2
        pictures = batch[:, :pixels].reshape(len(batch), self.channels, side, side)
        said = self.network(pictures.contiguous(memory_format=torch.channels_last))
        logits: Tensor = said["out"] if isinstance(said, dict) else said
        if logits.dim() != 4:
            raise ModelError(f"a network of segmentation gives logits (B, C, h, w), not {tuple(logits.shape)}")
        items = resized(logits, self.grid.cells)
        asked = batch[:, pixels + WINDOW :]
        if not asked.shape[1]:  # between items nobody taught it anything
            return resized(items, side).argmax(dim=1).flatten(1).to(batch.dtype)
        return items.permute(0, 2, 3, 1).flatten(0, 2)[asked.flatten() >= 0]


def resized(logits: Tensor, side: int) -> Tensor:
    """Logits (B, C, s, s) at the middles of a grid's cells (B, C, side, side), bilinear between theirs."""
    if logits.shape[2:] == (side, side):
        return logits
    return functional.interpolate(logits, (side, side), mode="bilinear", align_corners=False)


class UNet(nn.Module):
    """Ronneberger et al., "U-Net", 2015 (arXiv:1505.04597), padded and with batch norm, three halvings deep.

    Its finest level has half the side of the picture: a quarter of the cost, and labels seldom lie denser.
    """

    def __init__(self, channels: int, outputs: int, width: int) -> None:
        super().__init__()
        widths = [width, 2 * width, 4 * width, 8 * width]
        self.stem = _convolution(channels, width, 2)
        self.down = nn.ModuleList(
            [_twice(inside, outside) for inside, outside in zip([width, *widths], widths, strict=False)]
        )
        pairs = list(pairwise(widths))[::-1]
        self.up = nn.ModuleList([nn.ConvTranspose2d(wide, narrow, 2, 2) for narrow, wide in pairs])
        self.merge = nn.ModuleList([_twice(2 * narrow, narrow) for narrow, _ in pairs])
        self.head = nn.Conv2d(width, outputs, 1)

    def forward(self, pictures: Tensor) -> Tensor:
        """(B, K, S, S) to (B, outputs, S / 2, S / 2)."""
        kept: list[Tensor] = []
        level = self.stem(pictures)
        for number, step in enumerate(self.down):
            level = step(functional.max_pool2d(level, 2) if number else level)
            kept.append(level)
        for up, merge, beside in zip(self.up, self.merge, kept[-2::-1], strict=True):
            level = merge(torch.cat([beside, up(level)], dim=1))
        answer: Tensor = self.head(level)
        return answer


class DeepLab(nn.Module):
    """Chen et al., "Encoder-Decoder with Atrous Separable Convolution", 2018 (DeepLabV3+, arXiv:1802.02611), light.

    A backbone of depthwise-separable convolutions down to an eighth of the side, torchvision's atrous pyramid, and a
    decoder that reads features of half the side (the paper: a quarter), as small pictures want.
    """

    def __init__(self, channels: int, outputs: int, width: int) -> None:
        super().__init__()
        self.stem = nn.Sequential(_convolution(channels, width, 2), _separable(width, width))
        self.backbone = nn.Sequential(
            _separable(width, 2 * width, 2),
            _separable(2 * width, 2 * width),
            _separable(2 * width, 4 * width, 2),
            _separable(4 * width, 4 * width),
        )
        self.pyramid = ASPP(4 * width, list(RATES), 2 * width)
        self.pyramid.project[-1] = nn.Identity()  # its dropout of a half: a light student has nothing to spare
        self.beside = _convolution(width, NARROWEST, kernel=1)
        self.decoder = nn.Sequential(_separable(2 * width + NARROWEST, DECODER), _separable(DECODER, DECODER))
        self.head = nn.Conv2d(DECODER, outputs, 1)

    def forward(self, pictures: Tensor) -> Tensor:
        """(B, K, S, S) to (B, outputs, S / 2, S / 2)."""
        fine = self.stem(pictures)
        coarse = self.pyramid(self.backbone(fine))
        coarse = functional.interpolate(coarse, fine.shape[2:], mode="bilinear", align_corners=False)
        answer: Tensor = self.head(self.decoder(torch.cat([coarse, self.beside(fine)], dim=1)))
        return answer


def _twice(inside: int, outside: int) -> nn.Sequential:
    return nn.Sequential(_convolution(inside, outside), _convolution(outside, outside))


def _separable(inside: int, outside: int, stride: int = 1) -> nn.Sequential:
    """A 3x3 convolution, channel by channel, and a 1x1 over them (Howard et al. 2017)."""
    return nn.Sequential(_convolution(inside, inside, stride, groups=inside), _convolution(inside, outside, kernel=1))


NETWORKS: dict[str, tuple[Callable[[int, int, int], nn.Module], int]] = {
    "unet-small": (UNet, 16),
    "deeplab-light": (DeepLab, 32),
}
"""Networks by short name, called with (channels, outputs, width), and their width where none is given."""


def segmenter(
    model: Part, channels: int, outputs: int, grid: Grid, mean: Sequence[float], std: Sequence[float]
) -> Segmenter:
    """A model by name, freshly initialised, behind its normalisation. Raises ModelError."""
    return Segmenter(with_normalisation(_network(model, channels, outputs), channels, mean, std), channels, grid)


def _network(model: Part, channels: int, outputs: int) -> nn.Module:
    library, slash, name = model.name.partition("/")
    if ":" in model.name:
        return from_factory(model, outputs)
    if slash and library == "torchvision":
        return _torchvision(name, model, channels, outputs)
    if model.name not in NETWORKS:
        known = [*NETWORKS, "torchvision/NAME", "package.module:factory"]
        raise ModelError(f"no model is called '{model.name}'{did_you_mean(model.name, known)}")
    make, usual = NETWORKS[model.name]
    width = model.settings.get("width", usual)
    if set(model.settings) - {"width"} or type(width) is not int or not NARROWEST <= width <= 512 or width % NARROWEST:
        found = ", ".join(f"{key}: {value}" for key, value in model.settings.items())
        raise ModelError(f"model '{model.name}' takes a `width` (channels, a multiple of 16 up to 512), found {found}")
    return make(channels, outputs, width)


def _torchvision(name: str, model: Part, channels: int, outputs: int) -> nn.Module:
    from torchvision import models as zoo

    names = zoo.list_models(module=zoo.segmentation)
    if name not in names:
        raise ModelError(f"torchvision has no network of segmentation '{name}'{did_you_mean(name, names)}")
    if channels != 3:
        raise ModelError(f"model '{model.name}' takes pictures with 3 channels: set `channels: 3` in the task")
    settings: dict[str, Any] = {"weights": None, "weights_backbone": None, **model.settings}
    try:
        built: nn.Module = zoo.get_model(name, num_classes=outputs, **settings)
    except Exception as error:
        raise ModelError(f"model '{model.name}' cannot be built: {error!r}") from error
    return built
