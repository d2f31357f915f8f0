"""One batch for any method: tensors in place of what a student gives, and all that a method may need beside them.

Shapes: B shared rows, L labelled rows, S source rows, C classes, F features.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
import torch
from torch import Tensor

from schemas.base import Part
from schemas.labels import FEATURES, VIEWS
from schemas.training import Training
from stages.students.learners import Learners
from stages.students.methods import get_method
from stages.students.methods.base import LabelledRows, Method, SharedRows, Sizes, SourceRows
from stages.students.teacher import DenseTeacher, TeacherRows

ROWS, CLASSES, STUDENT_FEATURES, TEACHER_FEATURES, INPUTS = 6, 5, 3, 4, 7
EXAMPLES: dict[str, dict[str, Any]] = {
    "mutual": {"peers": ["mobile-tiny", "mobile-tiny"]},
    "combined": {"parts": [{"name": "soft", "weight": 0.5}, {"name": "hard", "weight": 2.0, "alpha": 1.0}]},
}
"""Settings of the methods that cannot do without."""


def method(name: str, **settings: object) -> Method:
    """A method with example settings and others."""
    return get_method(Part.model_validate({"name": name, **EXAMPLES.get(name, {}), **settings}))


@dataclass
class Toy:
    """Leaves that a method teaches, and what it reads. The last shared row only fills up the batch."""

    dtype: torch.dtype = torch.float32
    seed: int = 0
    teacher: TeacherRows | None = None
    """Other labels than dense ones, of ROWS rows and CLASSES classes."""
    leaves: dict[str, Tensor] = field(default_factory=dict)

    def __post_init__(self) -> None:
        generator = torch.Generator().manual_seed(self.seed)

        def new(*shape: int) -> Tensor:
            return torch.randn(*shape, generator=generator, dtype=torch.float64).to(self.dtype)

        self.leaves = {
            "student_BC": new(ROWS, CLASSES),
            "features_BF": new(ROWS, STUDENT_FEATURES),
            "student_LC": new(3, CLASSES),
            "student_SC": new(ROWS, CLASSES),
            "features_SF": new(ROWS, STUDENT_FEATURES),
        }
        for leaf in self.leaves.values():
            leaf.requires_grad_()
        said = self.teacher or DenseTeacher(3 * new(ROWS, CLASSES))
        self.said = replace(
            said,
            fields={FEATURES: new(ROWS, TEACHER_FEATURES), "entropy": new(ROWS).abs(), "margin": new(ROWS).sigmoid()},
        )
        self.inputs_B, self.inputs_L = new(ROWS, INPUTS), new(3, INPUTS)
        self.said.fields[VIEWS] = 2 * new(ROWS, 3, CLASSES)  # type: ignore[index]
        self.said.fields["said"] = (9 * new(ROWS).abs()).floor() % CLASSES  # type: ignore[index]
        self.weights_B = torch.tensor([1.0] * (ROWS - 1) + [0.0])
        self.truth_L = torch.tensor([0, 4, 2])

    def shared(self, teaching: Method, progress: float = 0.5, **leaves: Tensor) -> SharedRows:
        """The shared rows as a method sees them, with what it needs and nothing else."""
        leaf, needs = self.leaves | leaves, teaching.needs
        source = SourceRows(leaf["student_SC"], leaf["features_SF"] if needs.features else None)
        return SharedRows(
            leaf["student_BC"],
            replace(self.said, fields={name: self.said.fields[name] for name in needs.fields}),
            self.weights_B,
            leaf["features_BF"] if needs.features else None,
            source if needs.source else None,
            progress,
            self.inputs_B if needs.inputs else None,
        )

    def labelled(self, teaching: Method | None = None, **leaves: Tensor) -> LabelledRows:
        """The labelled rows."""
        given = self.inputs_L if teaching is not None and teaching.needs.inputs else None
        return LabelledRows((self.leaves | leaves)["student_LC"], self.truth_L, inputs=given)

    def loss(self, teaching: Method, smoothing: float = 0.0, **leaves: Tensor) -> Tensor:
        """The whole loss of a step."""
        shared = self.shared(teaching, 0.5, **leaves) if teaching.needs.labels else None
        return teaching.loss(shared, self.labelled(teaching, **leaves), smoothing)


@contextmanager
def held(constants: list[Tensor]) -> Iterator[None]:
    """Whatever is detached keeps the value of the first pass: what "no gradient" means in finite differences."""
    first, place, detach = not constants, iter(constants), Tensor.detach

    def replay(self: Tensor) -> Tensor:
        if first:
            constants.append(detach(self).clone())
            return constants[-1]
        return next(place)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Tensor, "detach", replay)
        yield


GAMES = ("adversarial", "domain-adversarial")
"""Methods whose loss is one side of a game: it falls against an opponent that stands still."""


def learners_of(teaching: Method, dtype: torch.dtype = torch.float32, seed: int = 0, train: bool = True) -> Learners:
    """What a method trains itself, made as a student makes it; `train`: or as it is while it only looks."""
    torch.manual_seed(seed)
    fields = {FEATURES: TEACHER_FEATURES, "entropy": None, "margin": None}
    sizes = Sizes(CLASSES, STUDENT_FEATURES, fields, lambda part, number: torch.nn.Linear(INPUTS, CLASSES))
    made = teaching.learners(sizes, Training(learning_rate=0.05, weight_decay=0.0))
    for learner in made.values():
        learner.module.to(dtype)
    learners = Learners(made, torch.device("cpu"))
    for learner in made.values():
        learner.module.train(train)
    return learners
