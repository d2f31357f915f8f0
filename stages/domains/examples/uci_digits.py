"""UCI optical recognition of handwritten digits: 1,797 digits of 8 x 8 pixels (0 to 16)."""

from __future__ import annotations

from functools import partial

from stages.domains.examples.base import Example, digit_images
from stages.domains.fetch import Member

EXAMPLE = Example(
    name="uci-digits",
    licence="Optical Recognition of Handwritten Digits (Alpaydin, Kaynak), UCI, CC BY 4.0; comes with scikit-learn",
    members=(
        Member(
            package="scikit-learn",
            version="1.9.1",
            path="sklearn/datasets/data/digits.csv.gz",
            sha256="09f66e6debdee2cd2b5ae59e0d6abbb73fc2b0e0185d2e1957e9ebb51e23aa22",
        ),
    ),
    parse=partial(digit_images, side=8),
)
