"""What a teacher says about the shared rows of a step, as methods read it: logits, or kept classes and tails.

Made once per label set and batch from decoded labels; nothing of the size of rows times classes is made of sparse ones
unless a method asks for it (`dense`).

Shapes: B rows, C classes, K kept classes. tau: temperature, no unit.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, assert_never

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from schemas.labels import VIEWS
from stages.labels.decoded import ABSENT, Decoded, DenseLabels, SparseLabels


@dataclass(frozen=True)
class DenseTeacher:
    """A logit for every class, whatever the temperature."""

    logits_BC: Tensor
    """Float32."""
    fields: Mapping[str, Tensor] = field(default_factory=dict)
    """What stands beside the labels, by name, as far as it was asked for: (B,) or (B, F), float32; VIEWS is
    (B, views, C)."""

    def calibrated(self, t: float) -> DenseTeacher:
        """The same teacher, read at t times each temperature."""
        return replace(self, logits_BC=self.logits_BC / t, fields=_calibrated(self.fields, t))

    def dense(self, tau: float = 1.0) -> Tensor:
        """Logits (B, C) whose softmax at tau is the teacher's distribution."""
        return self.logits_BC

    def top1(self) -> Tensor:
        """Most likely class (B,), the first of equal ones."""
        return self.logits_BC.argmax(dim=1)


@dataclass(frozen=True)
class SparseTeacher:
    """Kept classes with their logits, and one number a row and temperature for all others."""

    labels: SparseLabels
    """As decoded."""
    ids_BK: Tensor
    """Kept classes, int64; where absent, the row's first one again."""
    absent_BK: Tensor | None
    """Mask of places that only fill up a row; none where there are no such."""
    logits_BK: Tensor
    """Their logits, minus infinity where absent."""
    fields: Mapping[str, Tensor] = field(default_factory=dict)
    """What stands beside the labels, by name, as far as it was asked for: (B,) or (B, F), float32; VIEWS is
    (B, views, C)."""
    _known: dict[float, tuple[Tensor, Tensor]] = field(default_factory=dict, repr=False, compare=False)

    def calibrated(self, t: float) -> SparseTeacher:
        """The same teacher, read at t times each temperature."""
        fields = _calibrated(self.fields, t)
        return replace(self, labels=self.labels.calibrated(t), logits_BK=self.logits_BK / t, fields=fields, _known={})

    def log_probabilities(self, tau: float) -> tuple[Tensor, Tensor]:
        """(of the kept classes (B, K), of all others together (B,)) in float64: what a loss is to match.

        Worked out once per temperature. Raises StoreError for a temperature that the labels cannot be read at.
        """
        if tau not in self._known:
            kept, tail = self.labels.target_log_probabilities(tau)
            place = self.logits_BK.device
            self._known[tau] = (torch.from_numpy(kept).to(place), torch.from_numpy(tail).to(place))
        return self._known[tau]

    @property
    def rest_B(self) -> Tensor:
        """Number of classes that are not kept (B,), float32."""
        rest = self.labels.classes - self.labels.kept
        return torch.from_numpy(rest.astype(np.float32)).to(self.logits_BK.device)

    def dense(self, tau: float = 1.0) -> Tensor:
        """Logits (B, C) whose softmax at tau is the decoded distribution, the tail spread evenly.

        Makes B * C numbers: what a method costs that cannot read sparse labels.
        """
        whole = self.labels.log_probabilities(tau) * tau
        return torch.from_numpy(whole).float().to(self.logits_BK.device)

    def top1(self) -> Tensor:
        """Most likely class (B,)."""
        return self.ids_BK[:, 0]


TeacherRows = DenseTeacher | SparseTeacher


def teacher_rows(
    decoded: Decoded,
    columns: NDArray[np.int64] | None,
    device: torch.device,
    beside: Mapping[str, NDArray[Any]] | None = None,
) -> TeacherRows:
    """Decoded labels on a device; `columns` holds the place of each of our classes among theirs, none for the same.

    `beside`: fields that stand beside the labels, as stored.
    """
    fields = {name: torch.from_numpy(values.astype(np.float32)).to(device) for name, values in (beside or {}).items()}
    match decoded:
        case DenseLabels(logits=logits):
            return DenseTeacher(torch.from_numpy(logits if columns is None else logits[:, columns]).to(device), fields)
        case SparseLabels():
            labels = decoded if columns is None else _remapped(decoded, columns)
            absent = labels.ids == ABSENT
            ids = np.where(absent, labels.ids[:, :1], labels.ids)
            return SparseTeacher(
                labels,
                torch.from_numpy(ids).to(device),
                torch.from_numpy(absent).to(device) if absent.any() else None,
                torch.from_numpy(labels.logits).to(device),
                fields,
            )
    assert_never(decoded)


def _calibrated(fields: Mapping[str, Tensor], t: float) -> Mapping[str, Tensor]:
    """Logits of all views go along."""
    return {name: values / t if name == VIEWS else values for name, values in fields.items()}


def _remapped(labels: SparseLabels, columns: NDArray[np.int64]) -> SparseLabels:
    """The same labels with ids in our order of the classes."""
    ours = np.empty_like(columns)
    ours[columns] = np.arange(len(columns))
    return replace(labels, ids=np.where(labels.ids == ABSENT, ABSENT, ours[labels.ids]))
