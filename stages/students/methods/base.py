"""What a method is: how one training step uses the labels of a teacher. One file each.

A method is built with its validated `Config` and holds no other state. The whole loss of a step is

    alpha * teacher_term(shared rows) + (1 - alpha) * truth_term(labelled rows)

where `alpha` is the teacher's share. A missing side gives its share to the other: without labelled rows (a
label budget of 0) the teacher counts 1, and a method without a teacher takes the truth alone.

Method modules import torch inside functions only. Losses are in nats, computed in float32 (or wider).

Shapes: B shared rows, L labelled rows, C classes.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from schemas.base import Contract

if TYPE_CHECKING:
    from torch import Tensor

    from stages.students.teacher import TeacherRows


@dataclass(frozen=True)
class SharedRows:
    """What is known of the shared rows after the student's forward pass."""

    student_BC: Tensor
    """The student's logits, with gradient."""
    teacher: TeacherRows
    """What the teacher says: logits, or kept classes and tails. `teacher.dense(tau)` makes logits of both."""
    weights_B: Tensor
    """1, or 0 for rows that only fill up a batch."""


@dataclass(frozen=True)
class LabelledRows:
    """What is known of the labelled rows after the student's forward pass."""

    student_LC: Tensor
    """The student's logits, with gradient."""
    truth_L: Tensor
    """Class numbers, int64."""


class Method(ABC):
    """One way to learn from a label set."""

    Config: ClassVar[type[Contract]]
    """Settings of the spec's `method`."""
    needs_labels: ClassVar[bool] = True
    """Whether it reads a label set; without one no shared rows are read."""

    def __init__(self, config: Any) -> None:
        self.config = config

    @property
    @abstractmethod
    def alpha(self) -> float:
        """The teacher's share of the loss, between 0 and 1."""

    @property
    def temperatures(self) -> tuple[float, ...]:
        """Temperatures at which it reads labels: those that a label set does not hold are refused before training."""
        return ()

    @abstractmethod
    def teacher_term(self, student_BC: Tensor, teacher: TeacherRows, weights_B: Tensor) -> Tensor:
        """What the teacher asks of the shared rows: a scalar, the weighted mean over rows."""

    def truth_term(self, student_LC: Tensor, truth_L: Tensor, label_smoothing: float) -> Tensor:
        """Mean cross-entropy of the labelled rows with smoothed truth (Szegedy et al. 2016): a scalar."""
        from torch.nn.functional import cross_entropy

        return cross_entropy(wide(student_LC), truth_L, label_smoothing=label_smoothing)

    def loss(self, shared: SharedRows | None, labelled: LabelledRows | None, label_smoothing: float) -> Tensor:
        """The whole loss of one step: a scalar. At least one side must be there."""
        truth = None if labelled is None else self.truth_term(labelled.student_LC, labelled.truth_L, label_smoothing)
        if shared is None:
            if truth is None:
                raise ValueError("a step without shared and without labelled rows has no loss")
            return truth
        teacher = self.teacher_term(shared.student_BC, shared.teacher, shared.weights_B)
        return teacher if truth is None else self.alpha * teacher + (1.0 - self.alpha) * truth


def wide(logits: Tensor) -> Tensor:
    """Logits in float32; float64 stays."""
    import torch

    return logits.to(torch.promote_types(logits.dtype, torch.float32))


def weighted_mean(values_B: Tensor, weights_B: Tensor) -> Tensor:
    """Mean over rows by weight: a scalar. The weights must not all be 0."""
    weights = weights_B.to(values_B.dtype)
    return (values_B * weights).sum() / weights.sum()
