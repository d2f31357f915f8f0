"""Adversarial: a discriminator tells the teacher's outputs from the student's, and the student learns to pass for it.

Goodfellow et al. 2014 (arXiv:1406.2661), for distillation as in Xu, Hsu and Huang, "Training Shallow and Thin Networks
for Acceleration via Knowledge Distillation with Conditional Adversarial Networks", 2018 (arXiv:1709.00513), without
their labels. It is stable by construction: with spectral norm the hinge game (Miyato et al. 2018, arXiv:1802.05957),
with a gradient penalty the Wasserstein game (Gulrajani et al. 2017, arXiv:1704.00028).

What is matched is the whole of a batch, not row by row: it goes beside `soft`, not in its place.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

from pydantic import NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt

from schemas.labels import FEATURES
from schemas.training import Training
from stages.students.methods._graph import real
from stages.students.methods.base import (
    DISTRIBUTIONS,
    EVERY_ENCODING,
    AlphaConfig,
    Method,
    Needs,
    SharedRows,
    Sizes,
    beside,
    features,
    teacher_logits,
    wide,
)

if TYPE_CHECKING:
    from torch import Tensor

    from stages.students.learners import Learner


class AdversarialConfig(AlphaConfig):
    """Settings of `adversarial`."""

    of: Literal["outputs", "features"] = "outputs"
    """What is told apart: probabilities at `temperature`, or penultimate features."""
    temperature: PositiveFloat = 2.0
    """Divides the logits of teacher and student, with `of: outputs`."""
    stability: Literal["spectral-norm", "gradient-penalty"] = "spectral-norm"
    """What keeps the discriminator from running away: its weights' largest singular value is 1, or its slope is drawn
    to 1."""
    penalty: NonNegativeFloat = 10.0
    """Weight of the gradient penalty."""
    width: PositiveInt = 64
    """Hidden units of the discriminator, in two layers."""
    generator: NonNegativeInt = 0
    """Hidden units of a generator between the student's output and the discriminator; 0: the student is the generator
    itself. Of features a linear map always stands between, since the widths may differ."""
    learning_rate: PositiveFloat = 1e-3
    """Learning rate of the discriminator (Adam with betas 0.5 and 0.9)."""


class Adversarial(Method):
    """With D the discriminator, t what the teacher gives, s what the student (through the generator) gives:

    spectral-norm      D: mean max(0, 1 - D(t)) + mean max(0, 1 + D(s));  student: -mean D(s)
    gradient-penalty   D: mean D(s) - mean D(t) + penalty * mean (|grad D(x)| - 1)^2, x anywhere between t and s;
                       student: -mean D(s)

    The value is the student's side. The generator learns with the student, the discriminator from its own loss.
    """

    Config = AdversarialConfig
    _discriminator: Any
    _generator: Any

    @property
    def needs(self) -> Needs:
        if self.config.of == "features":
            return Needs(fields=frozenset({FEATURES}), encodings=EVERY_ENCODING, features=True)
        return Needs(encodings=DISTRIBUTIONS, temperatures=(float(self.config.temperature),))

    def learners(self, sizes: Sizes, training: Training) -> dict[str, Learner]:
        import torch
        from torch import nn

        from stages.students.learners import Learner
        from stages.students.methods._game import Residual, discriminator

        inside = sizes.classes
        self._generator = nn.Identity()
        if self.config.of == "features":
            inside = sizes.fields[FEATURES] or 1
            self._generator = nn.Linear(sizes.student_features or 1, inside)
        elif self.config.generator:
            self._generator = Residual(inside, self.config.generator)
        self._discriminator = discriminator(inside, self.config.width, self.config.stability == "spectral-norm")
        rate, weights = self.config.learning_rate, self._discriminator.parameters()
        made = {"discriminator": Learner(self._discriminator, torch.optim.Adam(weights, lr=rate, betas=(0.5, 0.9)))}
        if list(self._generator.parameters()):
            made["generator"] = Learner.as_student(self._generator, training)
        return made

    def teacher_term(self, rows: SharedRows) -> Tensor:
        import torch

        from stages.students.methods._game import frozen

        if self.config.of == "features":
            s, t = self._generator(features(rows)), beside(rows, FEATURES)
        else:
            tau = self.config.temperature
            s = torch.softmax(self._generator(wide(rows.student_BC)) / tau, dim=1)
            t = torch.softmax(teacher_logits(rows, tau) / tau, dim=1)
        s, t = real(rows.weights_B, s, t)
        apart = self._apart(s.detach(), t)
        student = -frozen(self._discriminator, s).mean()
        return student + apart - apart.detach()

    def _apart(self, s: Tensor, t: Tensor) -> Tensor:
        """The discriminator's loss."""
        import torch

        told_s, told_t = self._discriminator(s), self._discriminator(t)
        if self.config.stability == "spectral-norm":
            return torch.relu(1.0 - told_t).mean() + torch.relu(1.0 + told_s).mean()
        share = torch.rand(len(s), 1, dtype=s.dtype, device=s.device)
        between = (share * t + (1.0 - share) * s).requires_grad_()
        (slope,) = torch.autograd.grad(self._discriminator(between).sum(), between, create_graph=True)
        # the root of 0 has no gradient
        steep = (slope.square().sum(dim=1) + 1e-12).sqrt()
        loss: Tensor = told_s.mean() - told_t.mean() + self.config.penalty * (steep - 1.0).square().mean()
        return loss


METHOD = Adversarial
