"""Several questions about one picture, each with classes of its own: which digit it is, odd or even, from what source.

Pictures are packed, changed and read as those of image classification, and the same networks answer, with a head a
question (`stages.tasks._questions`). A source may answer some of the questions only, and a row of it fewer still.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from schemas.base import Part
from stages.tasks._questions import Questions, SeveralQuestions
from stages.tasks.image_classification import ImageClassification, ImageConfig, ImagePreprocessing

if TYPE_CHECKING:
    import torch


class ImageQuestionsConfig(ImageConfig, Questions):
    """Settings of the task."""


class ImageQuestions(SeveralQuestions, ImageClassification):
    """Pictures and the answers to several questions."""

    Config = ImageQuestionsConfig

    def build(self, model: Part, outputs: int, preprocessing: ImagePreprocessing) -> torch.nn.Module:
        """A network behind its normalisation: (B, K, S, S) to each question's log-probabilities (B, outputs)."""
        return self.answering(super().build(model, outputs, preprocessing), model, outputs)


TASK = ImageQuestions
