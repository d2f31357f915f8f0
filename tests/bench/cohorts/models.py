"""The named pairs of teacher and student, with random weights: what they cost does not depend on what they know."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torchvision
from torch import nn

CLASSES = 100


@dataclass(frozen=True)
class Pair:
    """A teacher and a student by their factories here."""

    name: str
    teacher: str
    student: str
    size: int
    """Side of their input in pixels."""


PAIRS = (
    Pair("ResNet-34 -> MobileNetV3-small, 64 px", "resnet34", "mobilenet_v3_small", 64),
    Pair("ResNet-18 -> CNN of 0.3M, 32 px", "resnet18", "cnn", 32),
    Pair("ResNet-32x4 -> ResNet-8x4, 32 px", "resnet32x4", "resnet8x4", 32),
)


def resnet34(num_classes: int) -> nn.Module:
    """21M weights."""
    model: nn.Module = torchvision.models.resnet34(num_classes=num_classes)
    return model


def resnet18(num_classes: int) -> nn.Module:
    """11M weights."""
    model: nn.Module = torchvision.models.resnet18(num_classes=num_classes)
    return model


def mobilenet_v3_small(num_classes: int) -> nn.Module:
    """1.6M weights."""
    model: nn.Module = torchvision.models.mobilenet_v3_small(num_classes=num_classes)
    return model


def cnn(num_classes: int) -> nn.Module:
    """Three convolutions with strides, 0.3M weights."""

    def block(inside: int, outside: int) -> list[nn.Module]:
        return [nn.Conv2d(inside, outside, 3, 2, 1, bias=False), nn.BatchNorm2d(outside), nn.ReLU()]

    body = [*block(3, 56), *block(56, 112), *block(112, 208), nn.AdaptiveAvgPool2d(1), nn.Flatten()]
    return nn.Sequential(*body, nn.Linear(208, num_classes))


def resnet32x4(num_classes: int) -> nn.Module:
    """7.4M weights: 5 blocks a stage, four times as wide."""
    return CifarResNet(5, num_classes)


def resnet8x4(num_classes: int) -> nn.Module:
    """1.2M weights: 1 block a stage, four times as wide."""
    return CifarResNet(1, num_classes)


class _Block(nn.Module):
    def __init__(self, inside: int, outside: int, stride: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(inside, outside, 3, stride, 1, bias=False),
            nn.BatchNorm2d(outside),
            nn.ReLU(),
            nn.Conv2d(outside, outside, 3, 1, 1, bias=False),
            nn.BatchNorm2d(outside),
        )
        same = inside == outside and stride == 1
        self.way = (
            nn.Identity()
            if same
            else nn.Sequential(nn.Conv2d(inside, outside, 1, stride, bias=False), nn.BatchNorm2d(outside))
        )

    def forward(self, batch: torch.Tensor) -> torch.Tensor:
        answer: torch.Tensor = torch.relu(self.body(batch) + self.way(batch))
        return answer


class CifarResNet(nn.Module):
    """The ResNet for 32 px of He et al. 2016 with stages of 64, 128 and 256 channels, as distillation papers use it."""

    def __init__(self, blocks: int, num_classes: int) -> None:
        super().__init__()
        layers: list[nn.Module] = [nn.Conv2d(3, 32, 3, 1, 1, bias=False), nn.BatchNorm2d(32), nn.ReLU()]
        inside = 32
        for number, width in enumerate((64, 128, 256)):
            for block in range(blocks):
                layers.append(_Block(inside, width, 2 if number and not block else 1))
                inside = width
        self.body = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(inside, num_classes))

    def forward(self, batch: torch.Tensor) -> torch.Tensor:
        answer: torch.Tensor = self.body(batch)
        return answer


def fastest(teacher: nn.Module) -> nn.Module:
    """The same teacher for inference alone: batch norm folded into the convolutions, channels last."""
    from stages.training.inference import for_inference

    return for_inference(teacher)
