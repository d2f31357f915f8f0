"""Stage `teachers`: a model that labels: trained on a source, taken as given, carried over, or once a student."""

from __future__ import annotations

from typing import assert_never

from schemas.artifacts import BudgetRef, ModelRef, SamplesRef, SplitRef
from schemas.base import Part
from schemas.errors import InternalError
from schemas.teachers import (
    AdaptTeacher,
    GivenTeacher,
    LabelledDomain,
    StudentTeacher,
    TeacherInputs,
    TeacherOutputs,
    TrainTeacher,
)
from schemas.training import Training
from stages.artifacts import outputs_of
from stages.base import Stage
from stages.context import Context
from stages.tasks import task_code
from stages.teachers.work import Work, finished_of

CHECKPOINTS = "checkpoints"
"""Folder of a training's checkpoints in the folder of its artifact, until the commit."""


class TeachersStage(Stage[TeacherInputs, TeacherOutputs]):
    """Makes one teacher: `model.json`, `model.safetensors`, and where it is known `seen.npy`."""

    name = "teachers"
    version = 1
    Inputs = TeacherInputs
    Outputs = TeacherOutputs

    def code(self, inputs: TeacherInputs) -> dict[str, str]:
        first = inputs.way.training.first_model if isinstance(inputs.way, TrainTeacher) else None
        return task_code(inputs.task, inputs.model, first)

    def run(self, context: Context, inputs: TeacherInputs) -> TeacherOutputs:
        """Make the teacher in a worker, or go on from its checkpoints, and commit what the worker left.

        Training takes a Ray Train worker group; the other ways take one Ray task. Raises DataError, before that, where
        it would learn from rows that are held out; ModelError, DataError or TrainingFailed.
        """
        if (found := self.find(context, inputs)) is not None:
            return found
        from stages.domains.seen import SEEN_FILE
        from stages.teachers.seen import learned_from
        from stages.training import checkpoints
        from stages.training.models import save_model

        seen = learned_from(context, inputs)
        fingerprint = self.fingerprint(inputs)
        folder = context.artifact_place(self.name, fingerprint)
        work = Work(
            inputs=inputs,
            checkpoints=folder / CHECKPOINTS,
            storage=context.storage,
            threads=max(1, int(context.resources.cpus_per_worker)),
            code=self.code(inputs),
            reporter=context.reporter(),
        )
        finished = finished_of(checkpoints.latest(work.checkpoints))
        if finished is None:
            self._make(context, work)
            finished = finished_of(checkpoints.latest(work.checkpoints))
        if finished is None:
            raise InternalError(f"{context.step}: the worker ended and left no teacher at {work.checkpoints.uri}")
        attempt = self.attempt(context, inputs)
        content = save_model(attempt, finished.card, finished.state)
        if seen is not None:
            attempt.put(SEEN_FILE, seen.to_bytes())
        outputs = TeacherOutputs(
            model=ModelRef(uri=folder.uri, fingerprint=fingerprint, digest=content),
            classes=finished.card.classes,
            history=finished.history,
            kept_epoch=finished.kept_epoch,
            seen=None if seen is None else seen.info(SEEN_FILE),
            ended_early=finished.ended_early,
            sizes=finished.sizes,
            statistics=any(name.endswith("running_mean") for name in finished.state),
        )
        winner = attempt.commit(outputs, content)
        folder.remove(CHECKPOINTS)
        return outputs_of(winner, folder, TeacherOutputs)

    def _make(self, context: Context, work: Work) -> None:
        match work.inputs.way:
            case TrainTeacher():
                from stages.teachers.train import loop
                from stages.training.launch import launch

                launch(context, loop, {"work": work}, workers=context.resources.workers)
            case GivenTeacher():
                from stages.teachers.given import take
                from stages.teachers.work import delegate

                delegate(context, take, work)
            case AdaptTeacher():
                from stages.teachers.adapt import carry
                from stages.teachers.work import delegate

                delegate(context, carry, work)
            case StudentTeacher():
                from stages.teachers.given import take_student
                from stages.teachers.work import delegate

                delegate(context, take_student, work)
            case _:
                assert_never(work.inputs.way)

    def example(self) -> TeacherInputs:
        """A small ResNet trained on one domain."""
        some = "0" * 32
        return TeacherInputs(
            task=Part.model_validate({"name": "image-classification", "image_size": 16, "channels": 1}),
            model=Part(name="resnet-tiny"),
            classes=tuple("0123456789"),
            way=TrainTeacher(
                domains=(
                    LabelledDomain(
                        samples=SamplesRef(
                            uri="WORKSPACE/artifacts/domains/FINGERPRINT", fingerprint=some, digest=some
                        ),
                        split=SplitRef(uri="WORKSPACE/artifacts/splits/FINGERPRINT", fingerprint=some, digest=some),
                        budget=BudgetRef(uri="WORKSPACE/artifacts/budgets/FINGERPRINT", fingerprint=some, digest=some),
                    ),
                ),
                training=Training(epochs=8),
            ),
        )


TEACHERS = TeachersStage()
