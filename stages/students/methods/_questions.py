"""A method where several questions are asked of each sample: it learns each of them as if it were all that is asked.

Of each question a method of its own sees that part of the logits which are the question's classes, of student and
teacher, and the truth of the rows that answer it. So each method means what it means elsewhere, whatever it makes of a
distribution over the classes, and what it trains itself (a discriminator) is made once a question.

Shapes: B shared rows, L labelled rows, Q questions, C classes of all questions.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import reduce
from operator import add
from typing import TYPE_CHECKING

from schemas.base import Part
from schemas.labels import VIEWS
from schemas.training import Training
from stages.students.methods.base import LOGITS, LabelledRows, Method, Needs, SharedRows, Sizes
from stages.tasks.base import Question
from stages.truth import UNKNOWN

if TYPE_CHECKING:
    from torch import Tensor

    from stages.students.learners import Learner
    from stages.students.teacher import TeacherRows

OF_CLASSES = frozenset({VIEWS})
"""Fields beside labels whose last axis is the classes."""
Cut = tuple[float, Method, SharedRows | None, LabelledRows | None]
"""A question's share of the loss, its method, and what that sees."""


class EachQuestion(Method):
    """Sum over questions of share * loss, the shares adding up to 1.

    A question's truth is the mean over all answers of the labelled rows, so one that is answered less counts less:
    sum over rows and the questions that they answer of share * cross-entropy / sum of these shares. What a method asks
    that looks at features alone is asked once a question, and comes to the same.
    """

    def __init__(self, methods: Sequence[Method], questions: Sequence[Question], shares: Sequence[float]) -> None:
        """`methods`: one a question, configured alike."""
        super().__init__(methods[0].config)
        self._methods, self._questions, self._shares = methods, questions, shares

    @property
    def alpha(self) -> float:
        return self._methods[0].alpha

    @property
    def needs(self) -> Needs:
        """A label's classes are told apart by question where each has its own number: no classes left out, no tail."""
        needs = self._methods[0].needs
        return replace(needs, encodings=needs.encodings & LOGITS)

    @property
    def rests_on(self) -> tuple[str, ...]:
        return self._methods[0].rests_on

    @property
    def models(self) -> tuple[Part, ...]:
        return self._methods[0].models

    def learners(self, sizes: Sizes, training: Training) -> dict[str, Learner]:
        return {
            f"{question.name}.{name}": learner
            for method, question in zip(self._methods, self._questions, strict=True)
            for name, learner in method.learners(replace(sizes, classes=_count(question)), training).items()
        }

    def end_epoch(self, student: float, teacher: float) -> None:
        for method in self._methods:
            method.end_epoch(student, teacher)

    def teacher_term(self, rows: SharedRows) -> Tensor:
        return reduce(add, (share * method.teacher_term(cut) for share, method, cut, _ in self._cut(rows, None) if cut))

    def truth_term(self, rows: LabelledRows, label_smoothing: float) -> Tensor:
        cuts = self._cut(None, rows)
        return reduce(add, (share * method.truth_term(cut, label_smoothing) for share, method, _, cut in cuts if cut))

    def loss(self, shared: SharedRows | None, labelled: LabelledRows | None, label_smoothing: float) -> Tensor:
        cuts = self._cut(shared, labelled)
        return reduce(add, (share * method.loss(ours, true, label_smoothing) for share, method, ours, true in cuts))

    def _cut(self, shared: SharedRows | None, labelled: LabelledRows | None) -> Iterator[Cut]:
        for place, (method, question) in enumerate(zip(self._methods, self._questions, strict=True)):
            ours = None if shared is None else _shared(shared, question)
            true = None if labelled is None else self._labelled(labelled, question, place)
            yield self._shares[place], method, ours, true

    def _labelled(self, rows: LabelledRows, question: Question, place: int) -> LabelledRows:
        """What a question's method sees; rows that do not answer it weigh nothing, and the others the more for it."""
        answered_LQ = rows.truth_L != UNKNOWN
        shares_Q = rows.student_LC.new_tensor(self._shares)
        whole = (answered_LQ * shares_Q).sum().clamp(min=shares_Q.min())
        weights_L = answered_LQ[:, place] * len(answered_LQ) / whole
        return replace(
            rows,
            student_LC=rows.student_LC[:, question.columns],
            truth_L=rows.truth_L[:, place].clamp(min=0),
            teacher=None if rows.teacher is None else _of(rows.teacher, question),
            weights_L=weights_L if rows.weights_L is None else weights_L * rows.weights_L,
        )


def _shared(rows: SharedRows, question: Question) -> SharedRows:
    source = rows.source
    if source is not None:
        source = replace(source, student_SC=source.student_SC[:, question.columns])
    student, teacher = rows.student_BC[:, question.columns], _of(rows.teacher, question)
    return replace(rows, student_BC=student, teacher=teacher, source=source)


def _of(teacher: TeacherRows, question: Question) -> TeacherRows:
    """What a teacher says to one question."""
    from stages.students.teacher import DenseTeacher

    if not isinstance(teacher, DenseTeacher):
        raise ValueError("labels that keep some classes only do not tell questions apart")
    fields = {
        name: values[..., question.columns] if name in OF_CLASSES else values for name, values in teacher.fields.items()
    }
    return replace(teacher, logits_BC=teacher.logits_BC[:, question.columns], fields=fields)


def _count(question: Question) -> int:
    return int(question.columns.stop) - int(question.columns.start)
