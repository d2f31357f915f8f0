"""Outputs that answer several questions: of each one's classes their log-probabilities.

Shapes: B rows, C classes of all questions.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Sequence

import torch
from torch import nn

from stages.tasks.base import Question


class Answers(nn.Identity):
    """Logits (B, C) of all questions, those of each one moved so that the sum of their exponentials is 1 / Q.

    A constant a question, so its distribution stays as it is at every temperature. All of them together are one
    distribution then, in which the questions have equal shares. So whatever is measured or averaged of labels as of one
    question (fidelity at T = 1, fused probabilities) is the mean over the questions.
    """

    def __init__(self, questions: Sequence[Question]) -> None:
        super().__init__()
        self._columns = [question.columns for question in questions]
        self._share = math.log(len(self._columns))

    def forward(self, logits_BC: torch.Tensor) -> torch.Tensor:
        """(B, C) to (B, C), in float32."""
        parts = [logits_BC[:, columns].float() for columns in self._columns]
        return torch.cat([part.log_softmax(dim=1) - self._share for part in parts], dim=1)


def answering(network: nn.Module, answers: Answers) -> nn.Module:
    """A network and its answers behind it. Weights of a sequence keep their names, others' begin with `network.`."""
    if type(network) is not nn.Sequential:
        network = nn.Sequential(OrderedDict(network=network))
    network.add_module("answers", answers)
    return network
