"""Soft labels: the student matches the teacher's distribution, softened by a temperature.

Hinton, Vinyals and Dean, "Distilling the Knowledge in a Neural Network", 2015 (arXiv:1503.02531).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from pydantic import PositiveFloat

from stages.students.methods.base import AlphaConfig, Method, Needs, SharedRows, weighted_mean, wide

if TYPE_CHECKING:
    from torch import Tensor


class SoftConfig(AlphaConfig):
    """Settings of `soft`."""

    temperature: PositiveFloat = 2.0
    """Divides the logits of teacher and student; larger values show more of the small classes."""
    tail: Literal["bucket", "spread"] = "bucket"
    """With labels that keep some classes only: all others count as one, or share what is left evenly."""


class Soft(Method):
    """T^2 * mean over rows of KL(teacher || student), both softened by T.

    T^2 keeps the size of the gradient as T changes. Sparse labels are read as they are (`stages.students.sparse`).
    """

    Config = SoftConfig

    @property
    def needs(self) -> Needs:
        return Needs(temperatures=(float(self.config.temperature),))

    def teacher_term(self, rows: SharedRows) -> Tensor:
        from stages.students.sparse import divergence

        tau, spread = self.config.temperature, self.config.tail == "spread"
        return weighted_mean(divergence(wide(rows.student_BC), rows.teacher, tau, spread), rows.weights_B)


METHOD = Soft
