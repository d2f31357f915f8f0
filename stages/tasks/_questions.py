"""What tasks that ask several questions of a sample have in common, whatever a sample is. No torch.

Each question has classes of its own. A model has one backbone and one head a question, which is one layer with an
output for each class of each question, as any model by name ends in: a part of it is a question's head. A label stands
for the sample and holds the classes of one question after another's, so a label set has no more numbers than heads.

Truth is bytes: the number of the class that answers each question, UNKNOWN where nobody does. A question without an
answer counts neither in a loss nor in a figure.

Shapes: B rows, Q questions, C classes of all questions, W re-weightings.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import AfterValidator, Discriminator, Field, Tag, model_validator

from schemas.base import Classes, Contract, Name, Part
from schemas.errors import ModelError, SpecError, did_you_mean
from schemas.training import Training
from stages.tasks._classification import Classification
from stages.tasks.base import BadRow, Question, is_empty
from stages.truth import UNKNOWN, Truth

if TYPE_CHECKING:
    import numpy as np
    import torch

NUMBER = "<i4"
"""Type of an answer in truth."""
BETWEEN = "/"
"""Stands between a question's name and a class's in the name of an output."""
OF_QUESTION = "accuracy_"
"""Begins the name of the metric of a single question."""
SHOWN = 5


def _form(value: Any) -> str:
    return "labels of each class" if isinstance(value, Mapping) else "classes"


def _several(classes: Any) -> Any:
    if len(classes) < 2:
        raise ValueError("a question has two classes or more")
    return classes


Named = Annotated[Classes, AfterValidator(_several), Tag("classes")]
Groups = Annotated[dict[str, Classes], AfterValidator(_several), Tag("labels of each class")]


class Questions(Contract):
    """Settings that such a task has beside those of its samples."""

    questions: Annotated[dict[Name, Annotated[Named | Groups, Discriminator(_form)]], Field(min_length=1)]
    """The questions by name, each with its classes: a list of them, or where several of a source's labels are one class
    a mapping, such as {even: ["0", "2"], odd: ["1", "3"]}. Answers stand in a source's column of a question's name, or
    in the one that a domain's `columns` name; one column may answer several questions."""

    @model_validator(mode="after")
    def _tell_apart(self) -> Questions:
        for name, classes in self.questions.items():
            if isinstance(classes, Mapping):
                labels = [label for group in classes.values() for label in group]
                if twice := sorted({label for label in labels if labels.count(label) > 1}):
                    raise ValueError(f"question '{name}': the label {', '.join(twice)} is of two classes")
        return self


class SeveralQuestions(Classification):
    """A task of classification that asks several questions of a sample; goes before the one whose samples they are."""

    coded = True

    def __init__(self, config: Any) -> None:
        super().__init__(config)
        self._answers: dict[str, dict[str, int]] = {}
        """By question, the number of the class that each label stands for."""
        columns, start = [], 0
        for name, classes in sorted(config.questions.items()):
            if name in (*self.roles, "sample_id"):
                raise SpecError(f"task: a question cannot be called '{name}', which is another column of a sample")
            groups = (
                {key: classes[key] for key in sorted(classes)}
                if isinstance(classes, Mapping)
                else {key: (key,) for key in classes}
            )
            self._answers[name] = {label: number for number, group in enumerate(groups.values()) for label in group}
            columns.append((Question(name, slice(start, start + len(groups))), tuple(groups)))
            start += len(groups)
        self._questions = tuple(question for question, _ in columns)
        self._vocabulary = tuple(question.name + BETWEEN + key for question, keys in columns for key in keys)
        self.labels = tuple(self._answers)

    @property
    def questions(self) -> tuple[Question, ...]:
        """Those of the settings, in the order of their names."""
        return self._questions

    def vocabulary(self) -> tuple[str, ...]:
        """`QUESTION/CLASS` of all classes."""
        return self._vocabulary

    @property
    def of_classes(self) -> tuple[str, ...]:
        """`accuracy_QUESTION` of each question."""
        return tuple(OF_QUESTION + name for name in self.labels)

    # --- truth -----------------------------------------------------------------------------------------------

    def label(self, row: Mapping[str, Any]) -> dict[str, Any] | None:
        """The answers of a source row by question; none without any."""
        return {name: row[name] for name in self.labels if not is_empty(row.get(name))} or None

    def code_truth(self, value: Any) -> bytes:
        """Answers by question as the number of each one's class. Raises BadRow for one that is no class."""
        import numpy as np

        if not isinstance(value, Mapping) or not value:
            raise BadRow(f"the label is {value!r}, not answers by question")
        numbers = np.full(len(self.labels), UNKNOWN, NUMBER)
        for place, (question, known) in enumerate(self._answers.items()):
            if question in value:
                label = self.class_name(value[question])
                if label not in known:
                    shown = ", ".join([*list(known)[:SHOWN], *(["…"] if len(known) > SHOWN else [])])
                    raise BadRow(f"'{label}' is no answer to '{question}', whose labels are {shown}")
                numbers[place] = known[label]
        return numbers.tobytes()

    def asked(self, truth: Truth) -> torch.Tensor:
        """Class numbers of what rows answer, int64 (B, Q), UNKNOWN where they do not."""
        import torch

        return torch.from_numpy(self._numbers(truth))

    def _numbers(self, truth: Truth) -> np.ndarray:
        import numpy as np

        numbers = np.full((len(truth), len(self.labels)), UNKNOWN, np.int64)
        for row, coded in enumerate(truth):
            if isinstance(coded, bytes):
                numbers[row] = np.frombuffer(coded, NUMBER)
        return numbers

    # --- losses ----------------------------------------------------------------------------------------------

    def losses(self, logits: torch.Tensor, targets: torch.Tensor, training: Training) -> torch.Tensor:
        """Sum over the questions that a row answers (B,) of share * cross-entropy."""
        from torch.nn.functional import cross_entropy

        losses_B = logits.new_zeros(len(logits))
        for place, (question, share) in enumerate(zip(self.questions, training.shares(self.labels), strict=True)):
            losses_B = losses_B + share * cross_entropy(
                logits[:, question.columns],
                targets[:, place],
                ignore_index=UNKNOWN,
                reduction="none",
                label_smoothing=training.label_smoothing,
            )
        return losses_B

    def counted(self, targets: torch.Tensor, training: Training) -> torch.Tensor:
        """Sum of the shares of the questions that a row answers (B,): 1 where it answers all."""
        import torch

        shares_Q = torch.tensor(training.shares(self.labels), dtype=torch.float64, device=targets.device)
        return (targets != UNKNOWN).double() @ shares_Q

    # --- models ----------------------------------------------------------------------------------------------

    def answering(self, network: torch.nn.Module, model: Part, outputs: int) -> torch.nn.Module:
        """A network to logits (B, outputs) as one to the log-probabilities of each question (`Answers`)."""
        from stages.tasks._answers import Answers, answering

        if outputs != len(self._vocabulary):
            raise ModelError(
                f"model '{model.name}' is to give {outputs} outputs, and the classes of the task's {len(self.labels)} "
                f"questions are {len(self._vocabulary)}"
            )
        return answering(network, Answers(self.questions))

    # --- figures ---------------------------------------------------------------------------------------------

    def compared(self, said: np.ndarray) -> np.ndarray:
        """The likeliest class of each question (B, Q)."""
        import numpy as np

        return np.stack([said[:, question.columns].argmax(axis=1) for question in self.questions], axis=1)

    def alike(self, one: np.ndarray, other: np.ndarray) -> np.ndarray:
        """Share of the questions that are answered alike."""
        shares: np.ndarray = (one == other).mean(axis=1)
        return shares

    def score_rows(self, logits: np.ndarray, truth: np.ndarray, metric: str, weights: np.ndarray) -> np.ndarray:
        """A metric under each of W re-weightings of the rows, (W, B) to (W,): the plain mean over the questions.

        Of each question the rows count that answer it; where a re-weighting holds none of them, each of them once. A
        question that no row answers is left out, and without any other the figure is 0. Raises as `weighted_metric`.
        """
        import numpy as np

        from stages.tasks._metrics import weighted_metric

        known = (*self.metrics, *self.of_classes)
        if metric not in known:
            raise SpecError(f"no metric is called '{metric}'{did_you_mean(metric, known)}")
        one = metric.removeprefix(OF_QUESTION) if metric in self.of_classes else None
        numbers_BQ, figures = self._numbers(truth), []
        for place, question in enumerate(self.questions):
            rows = np.flatnonzero(numbers_BQ[:, place] != UNKNOWN)
            if len(rows) and one in (None, question.name):
                counts = weights[:, rows]
                counts = np.where(counts.any(axis=1, keepdims=True), counts, 1)
                said, true = logits[rows, question.columns], numbers_BQ[rows, place].astype(np.int32)
                figures.append(weighted_metric(said, true, "accuracy" if one else metric, counts))
        return np.mean(figures, axis=0) if figures else np.zeros(len(weights))
