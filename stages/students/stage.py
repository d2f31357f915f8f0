"""Stage `students`: a cohort of students from one shared stream, each an artifact of its own.

Students that exist are not trained again, and equal students of a cohort (arms that ask for the same) are trained once.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from schemas.artifacts import BudgetRef, LabelSetRef, SamplesRef, SplitRef
from schemas.base import Contract, Part
from schemas.errors import ContractError, InternalError
from schemas.students import CohortInputs, CohortOutputs, Stopped, Stream, StudentInputs, StudentOutputs
from schemas.training import Training
from stages.artifacts import find_artifact, outputs_of
from stages.base import Stage
from stages.context import Context
from stages.students.methods import get_method, method_code
from stages.tasks import task_code

if TYPE_CHECKING:
    from stages.students.order import Order


class Students(Stage[CohortInputs, CohortOutputs]):
    """Trains what is missing of a cohort."""

    name = "students"
    Inputs = CohortInputs
    Outputs = CohortOutputs

    def parts(self, inputs: CohortInputs) -> dict[str, Contract]:
        """One part per student: a cohort of it alone. Raises ContractError if two go by one name."""
        parts: dict[str, Contract] = {}
        for student in inputs.students:
            if (part := part_of(student)) in parts:
                raise ContractError(f"two students of the cohort are called {part}: give one another name")
            parts[part] = _alone(inputs, student)
        return parts

    def part_code(self, inputs: CohortInputs, part: str) -> dict[str, str]:
        """The task's, the method's, and a user's own model factory."""
        student = next(student for student in inputs.students if part_of(student) == part)
        models = (student.model, student.training.first_model, *get_method(student.method).models)
        return task_code(inputs.task, *models) | method_code(student.method)

    def find(self, context: Context, inputs: CohortInputs) -> CohortOutputs | None:
        """The outputs if every student exists. One small read per student."""
        fingerprints = self.fingerprints(inputs)
        found = [self._found(context, student, fingerprints[part_of(student)]) for student in inputs.students]
        students = tuple(item for item in found if item is not None)
        return CohortOutputs(students=students) if len(students) == len(found) else None

    def run(self, context: Context, inputs: CohortInputs) -> CohortOutputs:
        """Train the students that are missing. A student that fails is reported, and harms no other.

        Raises UserError, before training, if the inputs cannot be read or do not fit together.
        """
        if (done := self.find(context, inputs)) is not None:
            return done
        return self.run_together(context, [inputs])[0]

    def run_together(self, context: Context, inputs: Sequence[CohortInputs]) -> list[CohortOutputs]:
        """The students of several askings, those that read one stream as one cohort."""
        from stages.students.group import train_all

        missing: dict[str, Order] = {}
        for asked in inputs:
            for student, order in zip(asked.students, self.orders(context, asked), strict=True):
                if student.stopped is None and find_artifact(order.folder) is None:
                    missing[order.fingerprint] = order
        failures = train_all(context, list(missing.values()))
        return [self._answers(context, asked, failures) for asked in inputs]

    def orders(self, context: Context, inputs: CohortInputs) -> list[Order]:
        """What a worker is told of each student."""
        from stages.students.order import Order

        fingerprints = self.fingerprints(inputs)
        return [
            Order(
                asked=_alone(inputs, student),
                fingerprint=fingerprints[part_of(student)],
                folder=context.artifact_place(self.name, fingerprints[part_of(student)]),
                code=self.part_code(inputs, part_of(student)),
                stage=self.name,
                stage_version=self.version,
            )
            for student in inputs.students
        ]

    def _answers(self, context: Context, inputs: CohortInputs, failures: Mapping[str, str]) -> CohortOutputs:
        """What became of each student. Raises InternalError if one ended without a result or a reason."""
        answers, fingerprints = [], self.fingerprints(inputs)
        for student in inputs.students:
            fingerprint = fingerprints[part_of(student)]
            answer = self._found(context, student, fingerprint)
            if answer is None and fingerprint not in failures:
                raise InternalError(f"the student {part_of(student)} ended without a result or a reason")
            answers.append(answer or _without_model(student, failure=failures[fingerprint]))
        return CohortOutputs(students=tuple(answers))

    def example(self) -> CohortInputs:
        """One student with a teacher, and the same without."""
        none: Any = {
            "uri": "workspace/artifacts/STAGE/FINGERPRINT",
            "fingerprint": "0" * 32,
            "digest": "0" * 32,
        }
        common: dict[str, Any] = {
            "model": Part(name="mobile-tiny"),
            "training": Training(steps=500),
            "steps": 500,
            "budget": BudgetRef(**none),
        }
        soft = Part.model_validate({"name": "soft", "temperature": 2.0, "alpha": 0.7})
        return CohortInputs(
            task=Part.model_validate({"name": "image-classification", "image_size": 16, "channels": 1}),
            classes=tuple("0123456789"),
            stream=Stream(samples=SamplesRef(**none), split=SplitRef(**none), batch_size=64, labelled_batch_size=64),
            students=(
                StudentInputs(name="mobile", method=soft, labels=LabelSetRef(**none), **common),
                StudentInputs(name="mobile", arm="no-teacher", method=Part(name="none"), **common),
            ),
        )

    def _found(self, context: Context, student: StudentInputs, fingerprint: str) -> StudentOutputs | None:
        """A student that exists, under the name and arm that are asked for now; of one that was stopped, where."""
        if student.stopped is not None:
            return _without_model(student, stopped=student.stopped)
        folder = context.artifact_place(self.name, fingerprint)
        if (artifact := find_artifact(folder)) is None:
            return None
        outputs = outputs_of(artifact, folder, StudentOutputs)
        return outputs.model_copy(update={"name": student.name, "arm": student.arm})


def _without_model(
    student: StudentInputs, failure: str | None = None, stopped: Stopped | None = None
) -> StudentOutputs:
    return StudentOutputs(
        name=student.name, arm=student.arm, seed=student.seed, model=None, failure=failure, stopped=stopped
    )


def part_of(student: StudentInputs) -> str:
    """Name of a student's part in its cohort."""
    return f"{student.name}/{student.arm}/{student.seed}"


def _alone(inputs: CohortInputs, student: StudentInputs) -> CohortInputs:
    return inputs.model_copy(update={"students": (student,)})


STUDENTS = Students()
