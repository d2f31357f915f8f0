"""What tasks that tell classes apart have in common: labels by name, and metrics of logits. No torch.

Shapes: B rows, C classes, W re-weightings.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from stages.tasks.base import BadRow, Task

if TYPE_CHECKING:
    import numpy as np


class Classification(Task):
    """One of C classes for each sample."""

    metrics: ClassVar[tuple[str, ...]] = ("accuracy", "macro_f1", "balanced_accuracy", "calibration_error", "nll")
    errors = frozenset({"calibration_error", "nll"})
    unbounded = frozenset({"nll"})

    def pack_truth(self, value: Any, classes: Sequence[str]) -> int:
        """A source label as the number of its class."""
        name = self.class_name(value)
        try:
            return classes.index(name)
        except ValueError:
            raise BadRow(f"the label '{name}' is none of the {len(classes)} classes") from None

    def class_name(self, value: Any) -> str:
        """Text as it is, a whole number as its digits."""
        if isinstance(value, str) and value:
            return value
        try:
            number = int(value)
        except (TypeError, ValueError, OverflowError):
            number = None
        if number is None or isinstance(value, bytes) or number != value:
            raise BadRow(f"the label {value!r} is neither text nor a whole number")
        return str(number)

    def score(self, logits: np.ndarray, truth: np.ndarray, metrics: Sequence[str]) -> dict[str, float]:
        """Metrics of logits (B, C) against class numbers (B,); without rows, nothing."""
        import numpy as np

        if not len(truth):
            return {}
        once = np.ones((1, len(truth)))
        return {metric: float(self.score_rows(logits, truth, metric, once)[0]) for metric in metrics}

    def score_rows(self, logits: np.ndarray, truth: np.ndarray, metric: str, weights: np.ndarray) -> np.ndarray:
        """A metric under each of W re-weightings of the rows: (W, B) to (W,)."""
        from stages.tasks._metrics import weighted_metric

        return weighted_metric(logits, truth, metric, weights)
