"""Stage `evaluation`: what every model of one subject is worth on one domain, and what distillation gained.

One forward pass per model over the test rows and its own validation budget; a teacher that left labels is read,
not run. Predictions are kept beside `quality.json`, so that every figure can be computed again.
"""

from __future__ import annotations

from schemas.errors import DataError, SpecError, did_you_mean
from schemas.evaluation import EvaluationInputs, EvaluationOutputs, QualityRef
from stages.artifacts import objects_digest, outputs_of
from stages.base import Stage
from stages.context import Context
from stages.evaluation.reader import QUALITY
from stages.tasks import get_task, task_code
from stages.tasks.base import Task


class EvaluationStage(Stage[EvaluationInputs, EvaluationOutputs]):
    """Quality of one subject on one domain."""

    name = "evaluation"
    version = 1
    Inputs = EvaluationInputs
    Outputs = EvaluationOutputs

    def code(self, inputs: EvaluationInputs) -> dict[str, str]:
        """The task scores, so its source counts."""
        return task_code(inputs.task)

    def run(self, context: Context, inputs: EvaluationInputs) -> EvaluationOutputs:
        """Predict with every candidate, judge, compare.

        Raises SpecError for an unknown metric, DataError where a model does not know the domain's classes. Without
        truth and reference the table has no figures.
        """
        task = get_task(inputs.task)
        metrics = chosen_metrics(task, inputs.settings.metrics)
        _check_candidates(inputs)
        if (found := self.find(context, inputs)) is not None:
            return found

        from stages.evaluation.predict import predict_all
        from stages.evaluation.quality import table_of

        attempt = self.attempt(context, inputs)
        evidence = predict_all(context, inputs, attempt, metrics)
        table = table_of(task, metrics, inputs, evidence)
        attempt.put(QUALITY, table.to_json())
        quality = QualityRef(
            uri=attempt.folder.uri, fingerprint=attempt.fingerprint, digest=objects_digest(attempt.objects)
        )
        artifact = attempt.commit(EvaluationOutputs(quality=quality, table=table))
        return outputs_of(artifact, attempt.folder, EvaluationOutputs)

    def example(self) -> EvaluationInputs:
        """One student of one seed against its own start."""
        ref = {"uri": "WORKSPACE/artifacts/STAGE/FINGERPRINT", "fingerprint": "0" * 32, "digest": "0" * 32}
        return EvaluationInputs.model_validate(
            {
                "subject": "mobile",
                "domain": "digits",
                "task": {"name": "image-classification", "image_size": 16, "channels": 1},
                "candidates": [
                    {"arm": arm, "seed": 0, "model": ref, "budget": ref} for arm in ("distilled", "no-teacher")
                ],
                "samples": ref,
                "split": ref,
                "truth": ref,
            }
        )


def chosen_metrics(task: Task, asked: tuple[str, ...]) -> tuple[str, ...]:
    """The metrics asked for, each once, or all that the task has, but for those of single classes.

    Raises SpecError for an unknown one.
    """
    known = (*task.metrics, *task.of_classes, *([task.forced_metric] if task.forced_metric else []))
    unknown = [name for name in asked if name not in known]
    if unknown:
        raise SpecError(
            *(f"evaluation.metrics: no metric is called '{name}'{did_you_mean(name, known)}" for name in unknown)
        )
    return tuple(dict.fromkeys(asked)) or task.metrics


def _check_candidates(inputs: EvaluationInputs) -> None:
    pairs = [(candidate.arm, candidate.seed) for candidate in inputs.candidates]
    for arm, seed in pairs:
        if pairs.count((arm, seed)) > 1:
            raise DataError(f"{inputs.subject}: two candidates are '{arm}' of seed {seed}; each pair may come once")


EVALUATION = EvaluationStage()
