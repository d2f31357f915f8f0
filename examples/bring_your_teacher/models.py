"""Somebody's own models: a factory takes `num_classes` and the settings of the spec, and returns a module."""

from __future__ import annotations

import timm
import torch

SIDE = 32
"""Pixels of a picture's side."""


def teacher(num_classes: int) -> torch.nn.Module:
    """The network whose weights are given; the spec names it as `timm/resnet18`."""
    return timm.create_model("resnet18", pretrained=False, num_classes=num_classes)


def student(num_classes: int, dropout: float = 0.0) -> torch.nn.Module:
    """timm's smallest MobileNetV3, its first stride taken out: pictures are small."""
    model = timm.create_model("mobilenetv3_small_050", pretrained=False, num_classes=num_classes, drop_rate=dropout)
    model.conv_stem.stride = (1, 1)
    return model
