"""Stage `screening`: whether a teacher is worth being listened to on a target, before its labels are paid for."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, NonNegativeInt, PositiveInt

from schemas.artifacts import BudgetRef, ModelRef, SamplesRef
from schemas.base import Contract, Document, Part


class ScreeningInputs(Document):
    """What is asked of `screening`: one teacher, on the rows that choices may be made by."""

    task: Part
    """Task with its settings."""
    teacher: ModelRef
    """The teacher."""
    samples: SamplesRef
    """The domain that it is to label."""
    classes: tuple[str, ...]
    """Classes of the domain, in the order of its truth."""
    budgets: Annotated[tuple[BudgetRef, ...], Field(min_length=1)]
    """Draws of the domain's label budget; it is judged on the validation rows of each."""
    metric: str
    """What decides."""
    batch_size: PositiveInt = 256
    """Rows per forward pass."""


class Screened(Contract):
    """One draw of the budget."""

    rows: NonNegativeInt
    """Its validation rows."""
    teacher: float
    """The teacher's figure on them."""
    constant: float | None = None
    """That of whoever always names the class that is most frequent in the draw; none where samples have no class."""


class ScreeningOutputs(Document):
    """What `screening` gives. Nothing that the teacher said is kept."""

    draws: tuple[Screened, ...]
    """By draw of the budget, those without validation rows left out."""
