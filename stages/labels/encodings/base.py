"""What an encoding is: float32 logits to the arrays of a unit, and back.

Shapes: B rows, C classes.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping

import numpy as np

from schemas.labels import FieldSchema


class Codec(ABC):
    """One way to keep labels. Stateless and pure: equal logits give equal bytes, on any host."""

    @abstractmethod
    def fields(self, classes: int) -> tuple[FieldSchema, ...]:
        """The arrays that it makes, with their exact bytes per row."""

    @abstractmethod
    def encode(self, logits_BC: np.ndarray) -> dict[str, np.ndarray]:
        """Finite float32 logits (B, C) as arrays of B rows. Raises StoreError if a value does not fit."""

    @abstractmethod
    def decode(self, arrays: Mapping[str, np.ndarray]) -> np.ndarray:
        """Arrays of B rows as float32 logits (B, C)."""
