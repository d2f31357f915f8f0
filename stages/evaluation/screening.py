"""Stage `screening`: a teacher is judged on the validation rows of the label budget before it labels a whole domain.

A teacher that is no better than the most frequent class does harm to its students, and its labels may cost hours.
Looks at no other rows and keeps nothing of what was said.

Shapes: V validation rows, C classes of the domain.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from schemas.errors import SpecError
from schemas.screening import Screened, ScreeningInputs, ScreeningOutputs
from schemas.spec import Storage
from stages.artifacts import outputs_of
from stages.base import Stage
from stages.context import Context
from stages.places import Place
from stages.tasks import get_task, task_code
from stages.tasks.base import Task
from stages.truth import Truth


class ScreeningStage(Stage[ScreeningInputs, ScreeningOutputs]):
    """One teacher on the validation rows of one domain."""

    name = "screening"
    version = 2
    Inputs = ScreeningInputs
    Outputs = ScreeningOutputs

    def code(self, inputs: ScreeningInputs) -> dict[str, str]:
        """The task scores, so its source counts."""
        return task_code(inputs.task)

    def run(self, context: Context, inputs: ScreeningInputs) -> ScreeningOutputs:
        """Ask the teacher, here or as one Ray task. Raises DataError where it does not know the domain's classes."""
        if (found := self.find(context, inputs)) is not None:
            return found
        task = get_task(inputs.task)
        if inputs.metric not in (*task.metrics, *task.of_classes):
            raise SpecError(f"task '{inputs.task.name}' has no metric '{inputs.metric}'")
        if context.local:
            draws = screen(inputs, context.storage)
        else:
            from stages.cluster import on_ray

            draws = on_ray(context.step, context.resources, screen, inputs, context.storage)
        attempt = self.attempt(context, inputs)
        artifact = attempt.commit(ScreeningOutputs(draws=draws))
        return outputs_of(artifact, attempt.folder, ScreeningOutputs)

    def example(self) -> ScreeningInputs:
        """A teacher of digits on one draw."""
        ref = {"uri": "WORKSPACE/artifacts/STAGE/FINGERPRINT", "fingerprint": "0" * 32, "digest": "0" * 32}
        return ScreeningInputs.model_validate(
            {
                "task": {"name": "image-classification", "image_size": 16, "channels": 1},
                "teacher": ref,
                "samples": ref,
                "classes": list("0123456789"),
                "budgets": [ref],
                "metric": "accuracy",
            }
        )


def screen(inputs: ScreeningInputs, storage: Storage) -> tuple[Screened, ...]:
    """The figures by draw; runs wherever it was sent."""
    from stages.domains.reader import Samples, read_budget
    from stages.evaluation.predict import arranged, class_order, model_logits
    from stages.training.models import load_model

    budgets = [read_budget(Place(ref.uri, storage), ref) for ref in inputs.budgets]
    budgets = [budget for budget in budgets if len(budget.validation_positions)]
    if not budgets:
        return ()
    teacher = load_model(Place(inputs.teacher.uri, storage), inputs.teacher)
    order = class_order(teacher.card.classes, inputs.classes, "the teacher")
    samples = Samples.open(Place(inputs.samples.uri, storage), inputs.samples)
    task, found = get_task(inputs.task), []
    for budget in budgets:
        truth = budget.validation_truth
        said = arranged(task, model_logits(teacher, samples, budget.validation_positions, inputs.batch_size), order)
        floor = None
        if not task.coded:
            every = np.r_[budget.train_truth, truth]
            constant = always(int(np.bincount(every).argmax()), len(truth), len(inputs.classes))
            floor = _figure(task, constant, truth, inputs.metric)
        found.append(Screened(rows=len(truth), teacher=_figure(task, said, truth, inputs.metric), constant=floor))
    return tuple(found)


def always(number: int, rows: int, classes: int) -> NDArray[np.float32]:
    """Logits (V, C) of whoever names one class, whatever it sees."""
    logits = np.zeros((rows, classes), np.float32)
    logits[:, number] = 1.0
    return logits


def _figure(task: Task, logits: NDArray[np.float32], truth: Truth, metric: str) -> float:
    return task.score(np.ascontiguousarray(logits, np.float32), truth, (metric,))[metric]


SCREENING = ScreeningStage()
