"""What a worker is told of one student that is to be trained."""

from __future__ import annotations

from dataclasses import dataclass

from schemas.students import CohortInputs, StudentInputs
from stages.places import Place

CHECKPOINTS = "checkpoints"
"""Folder of a student's checkpoints in the folder of its artifact."""


@dataclass(frozen=True)
class Order:
    """One student to be trained; crosses to workers."""

    asked: CohortInputs
    """A cohort of this student alone: what its fingerprint is taken of."""
    fingerprint: str
    folder: Place
    """Folder of its artifact."""
    code: dict[str, str]
    """Digests of the plug-ins that it rests on."""
    stage: str
    stage_version: int
    until: int | None = None
    """Steps after which it is measured and waits; none: it is trained to its end, and committed."""

    @property
    def student(self) -> StudentInputs:
        """The student."""
        return self.asked.students[0]
