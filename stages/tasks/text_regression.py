"""Text regression: one text, one number between `low` and `high`.

A model's head gives a distribution over evenly spaced bins, and the number it says is that distribution's expectation
(Imani and White, "Improving Regression Performance with Distributional Losses", ICML 2018; Farebrother et al., "Stop
Regressing", arXiv:2403.03950). So a label set, its encodings and all methods of logits are those of classes. Training
on truth asks for the bin nearest to a number, which is off by half a bin at most; metrics know the number itself,
which is kept as float64.

Shapes: B rows, C bins, W re-weightings.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import Field, FiniteFloat, model_validator

from stages.tasks.base import BadRow
from stages.tasks.text_classification import TextClassification, TextConfig

if TYPE_CHECKING:
    import numpy as np
    import torch

    from stages.truth import Truth


class TextRegressionConfig(TextConfig):
    """Settings of the task."""

    low: FiniteFloat
    """Least number that a label may be; the first bin's."""
    high: FiniteFloat
    """Greatest number that a label may be; the last bin's."""
    bins: Annotated[int, Field(ge=2)] = 33
    """Bins, evenly spaced from `low` to `high`, both included."""

    @model_validator(mode="after")
    def _ordered(self) -> TextRegressionConfig:
        if self.low >= self.high:
            raise ValueError(f"`low` is below `high`, and {self.low:g} is not below {self.high:g}")
        return self


class TextRegression(TextClassification):
    """Texts and a number of each."""

    Config = TextRegressionConfig
    coded = True
    metrics = ("mae", "rmse", "pearson")
    errors = frozenset({"mae", "rmse"})
    unbounded = frozenset({"mae", "rmse", "pearson"})

    def pack_truth(self, value: Any, classes: Sequence[str]) -> int:
        """A number is no class."""
        raise NotImplementedError

    def class_name(self, value: Any) -> str:
        """A number is no class."""
        raise NotImplementedError

    def code_truth(self, value: Any) -> bytes:
        """A number, or its digits as text, as float64. Raises BadRow, also for what lies outside of the bins."""
        import numpy as np

        if value is None or value == "":
            raise BadRow("the label is empty")
        try:
            number = float(value)
        except (TypeError, ValueError, OverflowError):
            raise BadRow(f"the label is {value!r}, not a number") from None
        low, high = self.config.low, self.config.high
        if not low <= number <= high:
            raise BadRow(f"the label is {number:g}, outside of `low` to `high` ({low:g} to {high:g})")
        return np.array(number, "<f8").tobytes()

    def vocabulary(self) -> tuple[str, ...]:
        """The bins, by their numbers."""
        return tuple(repr(number) for number in self._bins().tolist())

    def asked(self, truth: Truth) -> torch.Tensor:
        """The bin nearest to each number, int64 (B,); -1 where it is not known."""
        import numpy as np
        import torch

        known = np.array([isinstance(value, bytes) for value in truth], bool)
        asked = np.full(len(truth), -1, np.int64)
        share = (_numbers(truth[known]) - self.config.low) / (self.config.high - self.config.low)
        asked[known] = np.rint(share * (self.config.bins - 1))
        return torch.from_numpy(asked)

    def score_rows(self, logits: np.ndarray, truth: np.ndarray, metric: str, weights: np.ndarray) -> np.ndarray:
        """A metric under each of W re-weightings of the rows: (W, B) to (W,).

        `mae` and `rmse` are in the labels' unit; `pearson` is 0 where either side is constant.
        """
        import numpy as np

        said_B, true_B = self.expected(logits), _numbers(truth)
        share_WB = weights / weights.sum(axis=1, keepdims=True)
        if metric == "mae":
            return np.asarray(share_WB @ np.abs(said_B - true_B))
        if metric == "rmse":
            return np.asarray(np.sqrt(share_WB @ (said_B - true_B) ** 2))
        said_WB = said_B - (share_WB @ said_B)[:, None]
        true_WB = true_B - (share_WB @ true_B)[:, None]
        both_W, said_W, true_W = (
            (share_WB * one * other).sum(axis=1)
            for one, other in ((said_WB, true_WB), (said_WB, said_WB), (true_WB, true_WB))
        )
        flat = np.minimum(said_W, true_W) < 1e-24
        return np.asarray(np.where(flat, 0.0, both_W / np.sqrt(np.where(flat, 1.0, said_W * true_W))))

    def expected(self, logits: np.ndarray) -> np.ndarray:
        """The number that a model says: the expectation of its bins, (B, C) to float64 (B,)."""
        import numpy as np

        shares = np.exp(logits.astype(np.float64) - logits.max(axis=1, keepdims=True))
        return np.asarray(shares @ self._bins() / shares.sum(axis=1))

    def _bins(self) -> np.ndarray:
        import numpy as np

        return np.linspace(self.config.low, self.config.high, self.config.bins)


def _numbers(truth: Truth) -> np.ndarray:
    import numpy as np

    return np.frombuffer(b"".join(truth), "<f8")


TASK = TextRegression
