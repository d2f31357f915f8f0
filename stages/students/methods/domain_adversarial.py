"""Domain-adversarial: the student's features do not tell source from target.

Ganin et al., "Domain-Adversarial Training of Neural Networks", JMLR 2016 (arXiv:1505.07818), with the schedule of its
experiments. It teaches no classes: put it beside `soft` or another method. In the place of a gradient that is reversed
on its way, each player has a loss of its own, with the same gradients.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from pydantic import PositiveFloat, PositiveInt

from schemas.training import Training
from stages.students.methods.base import AlphaConfig, Method, Needs, SharedRows, Sizes, features, wide

if TYPE_CHECKING:
    from torch import Tensor

    from stages.students.learners import Learner

STEEPNESS = 10.0
"""How fast the domain's share of the loss rises over training (the paper's gamma)."""


class DomainAdversarialConfig(AlphaConfig):
    """Settings of `domain-adversarial`."""

    strength: PositiveFloat = 1.0
    """What the domain's loss counts at the end of training."""
    width: PositiveInt = 64
    """Hidden units of the discriminator, in two layers."""
    learning_rate: PositiveFloat = 1e-3
    """Learning rate of the discriminator (Adam)."""


class DomainAdversarial(Method):
    """With D a discriminator of penultimate features f, S the source's rows and B the shared rows of the target:

    D:        L = 1/2 mean over S of log(1 + exp(-D(f))) + 1/2 mean over B of log(1 + exp(D(f)))
    student:  -strength * (2 / (1 + exp(-10 p)) - 1) * L, with p the share of steps that are done

    The value is the student's side.
    """

    Config = DomainAdversarialConfig
    _discriminator: Any

    @property
    def needs(self) -> Needs:
        return Needs(features=True, source=True)

    def learners(self, sizes: Sizes, training: Training) -> dict[str, Learner]:
        import torch

        from stages.students.learners import Learner
        from stages.students.methods._game import discriminator

        self._discriminator = discriminator(sizes.student_features or 1, self.config.width, bounded=False)
        optimizer = torch.optim.Adam(self._discriminator.parameters(), lr=self.config.learning_rate)
        return {"discriminator": Learner(self._discriminator, optimizer)}

    def teacher_term(self, rows: SharedRows) -> Tensor:
        from stages.students.methods._game import frozen, told_apart

        if rows.source is None or rows.source.features_SF is None:
            raise ValueError("a step without source rows cannot tell domains apart")
        source, target = wide(rows.source.features_SF), features(rows)
        weights_B = rows.weights_B.to(target.dtype)
        own = told_apart(self._discriminator(source.detach()), self._discriminator(target.detach()), weights_B)
        apart = told_apart(frozen(self._discriminator, source), frozen(self._discriminator, target), weights_B)
        rise = 2.0 / (1.0 + math.exp(-STEEPNESS * rows.progress)) - 1.0
        loss: Tensor = -self.config.strength * rise * apart + own - own.detach()
        return loss


METHOD = DomainAdversarial
