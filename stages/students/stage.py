"""Stage `students`: a cohort of students from one shared stream, each an artifact of its own.

A worker group costs 11 to 18 s to start, a cohort one; in local mode there is none. Students that exist are
not trained again, and equal students of a cohort (arms that ask for the same) are trained once.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from schemas.artifacts import BudgetRef, LabelSetRef, SamplesRef, SplitRef
from schemas.base import Contract, Part
from schemas.errors import ContractError, InternalError
from schemas.students import CohortInputs, CohortOutputs, Stream, StudentInputs, StudentOutputs
from schemas.training import Training
from stages.artifacts import find_artifact, outputs_of
from stages.base import Stage
from stages.context import Context
from stages.places import new_attempt
from stages.students.methods import method_code
from stages.tasks import task_code
from stages.training.launch import launch


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
        return task_code(inputs.task, student.model) | method_code(student.method)

    def find(self, context: Context, inputs: CohortInputs) -> CohortOutputs | None:
        """The outputs if every student exists. One small read per student."""
        found = [self._found(context, inputs, student) for student in inputs.students]
        students = tuple(item for item in found if item is not None)
        return CohortOutputs(students=students) if len(students) == len(found) else None

    def run(self, context: Context, inputs: CohortInputs) -> CohortOutputs:
        """Train the students that are missing. A student that fails is reported, and harms no other.

        Raises UserError, before training, if the inputs cannot be read or do not fit together.
        """
        if (done := self.find(context, inputs)) is not None:
            return done
        from stages.students.checks import check_students
        from stages.students.cohort import Job, failure_of, forget_failure, loop
        from stages.students.fit import Order

        fingerprints = self.fingerprints(inputs)
        orders = {
            fingerprints[part_of(student)]: Order(
                asked=_alone(inputs, student),
                fingerprint=fingerprints[part_of(student)],
                folder=context.artifact_place(self.name, fingerprints[part_of(student)]),
                code=self.part_code(inputs, part_of(student)),
                stage=self.name,
                stage_version=self.version,
            )
            for student in inputs.students
        }
        missing = tuple(order for order in orders.values() if find_artifact(order.folder) is None)
        check_students(context, inputs, [order.student for order in missing])
        resources = context.resources
        job = Job(
            orders=missing,
            storage=context.storage,
            launch=new_attempt(),
            threads=max(1, int(resources.cpus_per_worker)),
            reporter=context.reporter(),
        )
        launch(context, loop, {"job": job}, workers=min(len(missing), room(context)))
        failures = {order.fingerprint: failure_of(order, job.launch) for order in missing}
        for order in missing:
            forget_failure(order, job.launch)
        answers: list[StudentOutputs] = []
        for student in inputs.students:
            fingerprint = fingerprints[part_of(student)]
            answer = self._found(context, inputs, student)
            if answer is None:
                if (failure := failures.get(fingerprint)) is None:
                    raise InternalError(f"the student {part_of(student)} ended without a result or a reason")
                answer = StudentOutputs(
                    name=student.name, arm=student.arm, seed=student.seed, model=None, failure=failure
                )
            answers.append(answer)
        return CohortOutputs(students=tuple(answers))

    def run_together(self, context: Context, inputs: Sequence[CohortInputs]) -> list[CohortOutputs]:
        """One cohort of the students of several askings. Raises ContractError if their streams differ."""
        first = inputs[0]
        if any(
            (asked.task, asked.classes, asked.stream) != (first.task, first.classes, first.stream) for asked in inputs
        ):
            raise ContractError("students of one cohort read one stream: their samples or batches differ")
        everyone = tuple(student for asked in inputs for student in asked.students)
        answers = iter(self.run(context, first.model_copy(update={"students": everyone})).students)
        return [CohortOutputs(students=tuple(next(answers) for _ in asked.students)) for asked in inputs]

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

    def _found(self, context: Context, inputs: CohortInputs, student: StudentInputs) -> StudentOutputs | None:
        """A student that exists, under the name and arm that are asked for now."""
        fingerprint = self.fingerprints(_alone(inputs, student))[part_of(student)]
        folder = context.artifact_place(self.name, fingerprint)
        if (artifact := find_artifact(folder)) is None:
            return None
        outputs = outputs_of(artifact, folder, StudentOutputs)
        return outputs.model_copy(update={"name": student.name, "arm": student.arm})


def part_of(student: StudentInputs) -> str:
    """Name of a student's part in its cohort."""
    return f"{student.name}/{student.arm}/{student.seed}"


def _alone(inputs: CohortInputs, student: StudentInputs) -> CohortInputs:
    return inputs.model_copy(update={"students": (student,)})


def room(context: Context) -> int:
    """Ranks that the cluster has room for now, beside the steps that start with this one; 1 in this process."""
    if context.local:
        return 1
    import ray

    from stages.cluster import gpus_per_worker

    free, resources = ray.available_resources(), context.resources
    cores = free.get("CPU", 0) if context.width is None else min(free.get("CPU", 0), context.width)
    room = int(cores // resources.cpus_per_worker)
    if gpus := gpus_per_worker(resources):
        room = min(room, int(free.get("GPU", 0) // gpus))
    return max(1, room)


STUDENTS = Students()
