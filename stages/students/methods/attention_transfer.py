"""Attention transfer: where the teacher's features are active, the student's are too.

Zagoruyko and Komodakis, "Paying More Attention to Attention", ICLR 2017 (arXiv:1612.03928), equation 2. There a map
says how active each *position* of a picture is. Stored features are vectors without positions: here the map says how
active each *sample of the batch* is, which is the only place that two networks of other widths share. What it teaches
is which samples excite the teacher, not where it looks.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

from pydantic import Field

from schemas.labels import FEATURES
from stages.students.methods._graph import real
from stages.students.methods.base import EVERY_ENCODING, AlphaConfig, Method, Needs, SharedRows, beside, features

if TYPE_CHECKING:
    from torch import Tensor


class AttentionTransferConfig(AlphaConfig):
    """Settings of `attention-transfer`."""

    power: Annotated[float, Field(ge=1)] = 2.0
    """Exponent of an activation (the paper's p): larger ones look at the strongest alone."""


class AttentionTransfer(Method):
    """1/2 |Q_S / |Q_S| - Q_T / |Q_T||^2 over the batch, Q_i = mean over features of |f_i|^power for each row i."""

    Config = AttentionTransferConfig

    @property
    def needs(self) -> Needs:
        return Needs(fields=frozenset({FEATURES}), encodings=EVERY_ENCODING, features=True)

    def teacher_term(self, rows: SharedRows) -> Tensor:
        from torch.nn.functional import normalize

        ours, theirs = (
            normalize(values.abs().pow(self.config.power).mean(dim=1), dim=0)
            for values in real(rows.weights_B, features(rows), beside(rows, FEATURES))
        )
        loss: Tensor = (ours - theirs).square().sum() / 2
        return loss


METHOD = AttentionTransfer
