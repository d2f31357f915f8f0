"""Stage `rounds`: what one round of one chain came to, as policies may know it.

It is handed the validation rows and the truth of those in the label budget, and no more: no policy can be guided by
the test split or by hidden truth.
"""

from __future__ import annotations

from schemas.rounds import RoundInputs, RoundOutputs, RoundRecord, RoundRef
from stages.artifacts import objects_digest, outputs_of
from stages.base import Stage
from stages.context import Context
from stages.tasks import task_code

ROUND = "round.json"


class RoundsStage(Stage[RoundInputs, RoundOutputs]):
    """One round of one chain."""

    name = "rounds"
    version = 1
    Inputs = RoundInputs
    Outputs = RoundOutputs

    def code(self, inputs: RoundInputs) -> dict[str, str]:
        """The task scores, so its source counts."""
        return task_code(inputs.task)

    def run(self, context: Context, inputs: RoundInputs) -> RoundOutputs:
        """Measure students and label sets, here or as one Ray task, and leave `round.json`."""
        if (found := self.find(context, inputs)) is not None:
            return found
        from stages.rounds.measure import measure

        if context.local:
            measures = measure(inputs, context.storage)
        else:
            from stages.cluster import on_ray

            measures = on_ray(context.step, context.resources, measure, inputs, context.storage)
        record = RoundRecord(
            policy=inputs.policy,
            number=inputs.number,
            seed=inputs.seed,
            parent=inputs.parent,
            decision=inputs.decision,
            state=inputs.state,
            labels={item.name: item.labels for item in inputs.sets},
            classes=len(inputs.classes),
            students=measures.students,
            sets=measures.sets,
            disagreement=measures.disagreement,
            rows=measures.rows,
            labelled=measures.labelled,
        )
        attempt = self.attempt(context, inputs)
        attempt.put(ROUND, record.to_json())
        ref = RoundRef(uri=attempt.folder.uri, fingerprint=attempt.fingerprint, digest=objects_digest(attempt.objects))
        artifact = attempt.commit(RoundOutputs(round=ref, record=record))
        return outputs_of(artifact, attempt.folder, RoundOutputs)

    def example(self) -> RoundInputs:
        """The first round of a chain with one student."""
        ref = {"uri": "WORKSPACE/artifacts/STAGE/FINGERPRINT", "fingerprint": "0" * 32, "digest": "0" * 32}
        return RoundInputs.model_validate(
            {
                "policy": "born-again",
                "task": {"name": "image-classification", "image_size": 16, "channels": 1},
                "number": 1,
                "seed": 0,
                "decision": "as the spec says",
                "students": [{"name": "mobile.r1.s0", "model": ref, "labels": ref}],
                "sets": [{"name": "resnet-on-digits.s0", "labels": ref}],
                "classes": list("0123456789"),
                "samples": ref,
                "split": ref,
                "budget": ref,
                "metrics": ["accuracy"],
            }
        )


ROUNDS = RoundsStage()
