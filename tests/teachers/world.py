"""Two small domains of pictures, packed by the real stages: bright bars whose place is their class.

The target shows the same bars, dimmer and on a grey ground: a shift that batch-norm statistics take up.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from schemas.artifacts import ModelRef
from schemas.base import Part
from schemas.domains import BudgetInputs, BudgetOutputs, DomainInputs, DomainOutputs, SplitInputs, SplitOutputs
from schemas.spec import LabelBudget, Source, Split
from schemas.teachers import AdaptTeacher, GivenTeacher, LabelledDomain, TeacherInputs, TrainTeacher
from schemas.training import Training
from stages.base import get_stage
from stages.context import Context

TASK = Part.model_validate({"name": "image-classification", "image_size": 8, "channels": 1})
CLASSES = ("left", "middle", "right")
SHARD_ROWS = 32


def pictures(rows: int, seed: int, ground: float = 0.0, bar: float = 1.0) -> tuple[np.ndarray, np.ndarray]:
    """(uint8 pictures (rows, 8, 8), labels (rows,))."""
    random = np.random.default_rng(seed)
    labels = random.integers(0, 3, rows)
    images = ground + 0.2 * random.random((rows, 8, 8))
    for row, label in enumerate(labels):
        images[row, :, 3 * label : 3 * label + 2] += (bar - 0.2) * (0.5 + 0.5 * random.random())
    return (images.clip(0, 1) * 255).astype(np.uint8), np.array(CLASSES)[labels]


class Domain:
    """A packed domain with its splits and a budget."""

    def __init__(
        self, context: Context, folder: Path, rows: int, seed: int, budget: int | None = None, **look: float
    ) -> None:
        self.images, self.labels = pictures(rows, seed, **look)
        file = folder / f"{seed}.npz"
        np.savez(file, image=self.images, label=self.labels)
        source = Source(arrays=str(file))
        asked = DomainInputs(source=source, task=TASK, classes=CLASSES, shard_rows=SHARD_ROWS)
        self.packed: DomainOutputs = get_stage("domains").run(context, asked)
        samples = self.packed.samples
        split = Split(train=0.6, validation=0.2, test=0.2)
        self.split: SplitOutputs = get_stage("splits").run(context, SplitInputs(samples=samples, split=split))
        label_budget = None if budget is None else LabelBudget(train=budget, validation=budget)
        self.budget: BudgetOutputs = get_stage("budgets").run(
            context,
            BudgetInputs(samples=samples, split=self.split.split, truth=self.packed.truth, label_budget=label_budget),
        )

    @property
    def labelled(self) -> LabelledDomain:
        return LabelledDomain(samples=self.packed.samples, split=self.split.split, budget=self.budget.budget)


def trained(*domains: Domain, model: str = "mobile-tiny", seed: int = 0, **training: Any) -> TeacherInputs:
    """Inputs of a short training; settings go to `Training`, but for `class_map` and `own_classes`."""
    more = {name: training.pop(name) for name in ("classes", "own_classes", "class_map") if name in training}
    options = {"epochs": 3, "batch_size": 16, "learning_rate": 5e-3, **training}
    way = TrainTeacher(domains=tuple(domain.labelled for domain in domains), training=Training(**options), seed=seed)
    return TeacherInputs.model_validate(
        {"task": TASK, "model": Part(name=model), "classes": CLASSES, "way": way, **more}
    )


def given(model: str, weights: Any = None, **more: Any) -> TeacherInputs:
    """Inputs of a teacher that is taken as it is."""
    return TeacherInputs.model_validate(
        {"task": TASK, "model": Part(name=model), "classes": CLASSES, "way": GivenTeacher(weights=weights), **more}
    )


def adapted(teacher: ModelRef, domain: Domain, batch_size: int = 256) -> TeacherInputs:
    """Inputs of a teacher that is carried over."""
    way = AdaptTeacher(teacher=teacher, samples=domain.packed.samples, split=domain.split.split, batch_size=batch_size)
    return TeacherInputs(task=TASK, way=way)
