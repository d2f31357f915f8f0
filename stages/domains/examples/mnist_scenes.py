"""Scenes of MNIST's digits, several on a canvas of 160 px, with exact boxes and masks."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from stages.domains.examples._scenes import scenes
from stages.domains.examples.base import Example, digit_images
from stages.domains.examples.mnist_5k import EXAMPLE as DIGITS

if TYPE_CHECKING:
    import numpy as np


def _parse(data: bytes) -> Mapping[str, np.ndarray]:
    digits = digit_images(data, side=28)
    return scenes(digits["image"], digits["label"])


EXAMPLE = Example(
    name="mnist-scenes",
    licence=DIGITS.licence,
    members=DIGITS.members,
    parse=_parse,
    columns=("image", "boxes", "mask"),
)
