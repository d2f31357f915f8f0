"""Stage `halving`: which points of a grid deserve their whole training.

Successive halving (Jamieson and Talwalkar, "Non-stochastic Best Arm Identification and Hyperparameter Optimization",
2016). With R rungs and a share k that is kept, points are compared after k^(R-1), ..., k^2, k of their steps; the last
rung is the whole training. What decides is the mean over a point's seeds of the selection quality, each seed on its own
validation budget, and nothing else; equal points go on in the order of the spec. Students are trained where the stage
`students` looks for them, so that those which go on lose nothing, and end as if there had been no rungs.

Costs one launch a rung and stream. What a student was worth at a rung stays beside its checkpoint: a killed halving
goes on from there, and decides the same.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from math import ceil
from statistics import mean
from typing import TYPE_CHECKING

from schemas.canonical import digest
from schemas.errors import SpecError
from schemas.spec import Halving
from schemas.students import HalvingInputs, HalvingOutputs, PointOutcome, Stopped
from stages.artifacts import find_artifact, outputs_of
from stages.base import Stage
from stages.context import Context
from stages.places import Place
from stages.students.stage import STUDENTS

if TYPE_CHECKING:
    from stages.students.order import Order


class HalvingStage(Stage[HalvingInputs, HalvingOutputs]):
    """Compares the points of one grid at each rung."""

    name = "halving"
    Inputs = HalvingInputs
    Outputs = HalvingOutputs

    def code(self, inputs: HalvingInputs) -> dict[str, str]:
        """All that its students' fingerprints rest on."""
        return {
            f"point {number}": digest(sorted(STUDENTS.fingerprints(point).values()))
            for number, point in enumerate(inputs.points)
        }

    def run(self, context: Context, inputs: HalvingInputs) -> HalvingOutputs:
        """Train to each rung, and stop what is not among the best there.

        Raises SpecError where no student has validation labels to be compared by.
        """
        if (found := self.find(context, inputs)) is not None:
            return found
        from stages.students.order import CHECKPOINTS

        attempt = self.attempt(context, inputs)
        outcomes = [PointOutcome() for _ in inputs.points]
        for rung in range(1, inputs.halving.rungs):
            outcomes = self._climb(context, inputs, rung, outcomes, attempt.folder / "apart")
            on = len(_alive(outcomes))
            context.tell(
                "note", f"{context.step}, rung {rung} of {inputs.halving.rungs}: {on} of {len(outcomes)} go on"
            )
        if not any(figure is not None for outcome in outcomes for figure in outcome.quality):
            raise SpecError(
                f"{context.step}: no student has validation labels to be compared by: give its domain some "
                "(`label_budget`, `split`), or leave `halving` out"
            )
        artifact = attempt.commit(HalvingOutputs(points=tuple(outcomes)))
        for point, outcome in zip(inputs.points, outcomes, strict=True):
            for order in STUDENTS.orders(context, point) if outcome.stopped else ():
                order.folder.remove(CHECKPOINTS)
        attempt.folder.remove("apart")
        return outputs_of(artifact, attempt.folder, HalvingOutputs)

    def _climb(
        self, context: Context, inputs: HalvingInputs, rung: int, outcomes: list[PointOutcome], apart: Place
    ) -> list[PointOutcome]:
        """Train the points that are left to a rung, measure them, and stop the worst."""
        from stages.students.cohort import quality_of
        from stages.students.group import train_all
        from stages.tasks import get_task

        def due(point: int) -> list[Order]:
            orders = STUDENTS.orders(context, inputs.points[point])
            at_rung = [replace(order, until=steps_at(inputs.halving, rung, order.student.steps)) for order in orders]
            return [
                # One that exists has no checkpoint to be measured at: it comes to the rung once more, elsewhere.
                order
                if quality_of(order) is not None or find_artifact(order.folder) is None
                else replace(order, folder=apart / order.fingerprint)
                for order in at_rung
                if order.student.seed not in outcomes[point].failed
            ]

        alive = {point: due(point) for point in _alive(outcomes)}
        missing = [order for orders in alive.values() for order in orders if quality_of(order) is None]
        failures = train_all(context, missing)
        found = list(outcomes)
        for point, orders in alive.items():
            qualities = [quality_of(order) for order in orders]
            figures = [quality[inputs.metric] for quality in qualities if quality and inputs.metric in quality]
            failed = [order.student.seed for order in orders if order.fingerprint in failures]
            found[point] = PointOutcome(
                quality=(*outcomes[point].quality, mean(figures) if figures else None),
                failed=(*outcomes[point].failed, *failed),
            )
        sign = -1.0 if inputs.metric in get_task(inputs.points[0].task).errors else 1.0
        for point, quality in losers(inputs.halving.keep, {point: found[point] for point in alive}, sign).items():
            end = Stopped(rung=rung, rungs=inputs.halving.rungs, metric=inputs.metric, quality=quality)
            found[point] = found[point].model_copy(update={"stopped": end})
        return found

    def example(self) -> HalvingInputs:
        """Two temperatures."""
        cohort = STUDENTS.example()
        one = cohort.students[0]
        points = [
            cohort.model_copy(
                update={
                    "students": (
                        one.model_copy(
                            update={"method": one.method.model_copy(update={"temperature": temperature}), "name": name}
                        ),
                    )
                }
            )
            for name, temperature in (("mobile-temperature-1", 1.0), ("mobile-temperature-4", 4.0))
        ]
        return HalvingInputs(halving=Halving(), metric="accuracy", points=tuple(points))


def steps_at(halving: Halving, rung: int, steps: int) -> int:
    """Steps that a student has taken at a rung (from 1), of all its steps."""
    return max(1, round(steps * halving.keep ** (halving.rungs - rung)))


def losers(keep: float, outcomes: Mapping[int, PointOutcome], sign: float) -> dict[int, float]:
    """The points that are stopped by their last figures, with these; `sign` is -1 where less is better.

    ceil(keep * n) of n go on. A point with a seed that failed stands behind those without; one without any figure
    takes no place, and is left to fail by itself.
    """
    figures = {point: found.quality[-1] for point, found in outcomes.items()}
    known = {point: figure for point, figure in figures.items() if figure is not None}
    ranked = sorted(known, key=lambda point: (bool(outcomes[point].failed), -sign * known[point]))
    return {point: known[point] for point in ranked[max(1, ceil(keep * len(ranked) - 1e-9)) :]}


def _alive(outcomes: Sequence[PointOutcome]) -> list[int]:
    return [point for point, outcome in enumerate(outcomes) if outcome.stopped is None]


HALVING = HalvingStage()
