"""A small world made by the real stages: striped pictures, splits, budgets, models with random weights, labels."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from schemas.artifacts import BudgetRef, LabelSetRef, ModelRef, SamplesRef, SplitRef, TruthRef
from schemas.base import Part
from schemas.domains import BudgetInputs, DomainInputs, SplitInputs
from schemas.labels import LabelsInputs
from schemas.models import ModelCard
from schemas.spec import LabelBudget, Source, Split
from stages.artifacts import Attempt, fingerprint_of
from stages.context import Context
from stages.domains.stage import BUDGETS, DOMAINS, SPLITS
from stages.labels.stage import LABELS
from stages.training.models import build, save_model

TASK = Part.model_validate({"name": "image-classification", "image_size": 8, "channels": 1})
CLASSES = ("left", "middle", "right")


@dataclass(frozen=True)
class World:
    """References to all that an evaluation is handed."""

    samples: SamplesRef
    truth: TruthRef
    split: SplitRef
    budgets: tuple[BudgetRef, ...]
    labels: LabelSetRef


def make_world(context: Context, folder: Path, rows: int = 120) -> World:
    """Pictures whose bright column says their class, packed, split and labelled by a teacher of random weights."""
    rng = np.random.default_rng(0)
    truth = rng.integers(0, 3, rows)
    pictures = rng.integers(0, 120, (rows, 8, 8, 1)).astype(np.uint8)
    pictures[np.arange(rows), :, 1 + 2 * truth] += 120
    np.savez(folder / "stripes.npz", image=pictures, label=np.array(CLASSES)[truth])
    source = Source(arrays=str(folder / "stripes.npz"))
    domain = DOMAINS.run(context, DomainInputs(source=source, task=TASK, classes=CLASSES, shard_rows=50))
    assert domain.truth is not None
    shares = Split(train=0.4, validation=0.2, test=0.4)
    split = SPLITS.run(context, SplitInputs(samples=domain.samples, split=shares)).split
    asked = [
        BudgetInputs(
            samples=domain.samples,
            split=split,
            truth=domain.truth,
            label_budget=LabelBudget(train=10, validation=6),
            seed=seed,
        )
        for seed in range(2)
    ]
    budgets = tuple(BUDGETS.run(context, inputs).budget for inputs in asked)
    teacher = make_model(context, seed=99)
    labels = LABELS.run(context, LabelsInputs(task=TASK, teacher=teacher, samples=domain.samples)).labels
    return World(domain.samples, domain.truth, split, budgets, labels)


def make_model(context: Context, seed: int, classes: tuple[str, ...] = CLASSES, broken: bool = False) -> ModelRef:
    """An artifact of `students` with random weights; broken ones give no finite number."""
    from stages.tasks import get_task

    card = ModelCard(task=TASK, model=Part(name="mobile-tiny"), classes=classes)
    state = dict(build(get_task(TASK), card.model, len(classes), {}, seed).state_dict())
    if broken:
        state = {name: value * float("nan") if value.is_floating_point() else value for name, value in state.items()}
    asked = card.model_copy(update={"code": {"seed": str(seed), "broken": str(broken)}})
    fingerprint = fingerprint_of("students", 1, asked, {})
    folder = context.artifact_place("students", fingerprint)
    attempt = Attempt(folder, "students", 1, fingerprint, asked, {})
    ref = ModelRef(uri=folder.uri, fingerprint=fingerprint, digest=save_model(attempt, card, state))
    attempt.commit(card)
    return ref
