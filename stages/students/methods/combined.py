"""Several methods at once: a weighted sum of their losses.

A list in the spec's `method` is this method: [{name: soft, weight: 0.7}, {name: margin, weight: 0.3}]
"""

from __future__ import annotations

from functools import reduce
from operator import add, or_
from typing import TYPE_CHECKING, Annotated

from pydantic import Field, PositiveFloat, field_validator

from schemas.base import Contract, Part
from schemas.errors import SpecError
from schemas.training import Training
from stages.students.methods import METHODS, get_method
from stages.students.methods.base import LabelledRows, Method, Needs, SharedRows, Sizes

if TYPE_CHECKING:
    from torch import Tensor

    from stages.students.learners import Learner


class Weighted(Part):
    """A method with its settings, and what it counts."""

    weight: PositiveFloat = 1.0
    """What its whole loss is multiplied by."""


class CombinedConfig(Contract):
    """Settings of `combined`."""

    parts: Annotated[tuple[Weighted, ...], Field(min_length=1)]
    """The methods, each with its own settings (its `alpha` too) and its `weight`."""

    @field_validator("parts")
    @classmethod
    def _checked(cls, parts: tuple[Weighted, ...]) -> tuple[Weighted, ...]:
        """Each part with its settings checked and written out: what a fingerprint sees."""
        normal: list[Weighted] = []
        problems: list[str] = []
        for part in parts:
            try:
                settings = METHODS.configure(part, part.name).dump()
                normal.append(Weighted.model_validate({**settings, "name": part.name, "weight": part.weight}))
            except SpecError as error:
                problems += error.problems
        if problems:
            raise ValueError("; ".join(problems))
        return tuple(normal)


class Combined(Method):
    """Sum over parts of weight * loss, each loss with its own share of the truth.

    So a * cross-entropy + (1 - a) * margin is `none` with weight a and `margin` with alpha 1 and weight 1 - a.
    """

    Config = CombinedConfig

    def __init__(self, config: CombinedConfig) -> None:
        super().__init__(config)
        self.parts: list[tuple[float, Method]] = [(part.weight, get_method(part)) for part in config.parts]

    @property
    def alpha(self) -> float:
        """The teacher's share of all parts together."""
        return sum(weight * part.alpha for weight, part in self.parts) / sum(weight for weight, _ in self.parts)

    @property
    def needs(self) -> Needs:
        return reduce(or_, (part.needs for _, part in self.parts))

    @property
    def rests_on(self) -> tuple[str, ...]:
        names = [item.name for item in self.config.parts]
        return tuple(dict.fromkeys([*names, *(name for _, part in self.parts for name in part.rests_on)]))

    @property
    def models(self) -> tuple[Part, ...]:
        return tuple(model for _, part in self.parts for model in part.models)

    def end_epoch(self, student: float, teacher: float) -> None:
        for _, part in self.parts:
            part.end_epoch(student, teacher)

    def learners(self, sizes: Sizes, training: Training) -> dict[str, Learner]:
        return {
            f"{number}.{name}": learner
            for number, (_, part) in enumerate(self.parts)
            for name, learner in part.learners(sizes, training).items()
        }

    def teacher_term(self, rows: SharedRows) -> Tensor:
        return reduce(add, (weight * part.teacher_term(rows) for weight, part in self.parts))

    def loss(self, shared: SharedRows | None, labelled: LabelledRows | None, label_smoothing: float) -> Tensor:
        return reduce(add, (weight * part.loss(shared, labelled, label_smoothing) for weight, part in self.parts))


METHOD = Combined
