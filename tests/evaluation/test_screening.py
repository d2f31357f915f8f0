"""Screening: a teacher's figure on the validation rows of a budget, before it labels."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from schemas.errors import DataError, SpecError
from schemas.screening import ScreeningInputs
from stages.context import Context
from stages.domains.reader import Samples, read_budget
from stages.evaluation.screening import SCREENING
from stages.training.models import load_model
from tests.evaluation.world import CLASSES, TASK, World, make_model, make_world


@pytest.fixture
def world(local_context: Context, tmp_path: Path) -> World:
    return make_world(local_context, tmp_path)


def asked(world: World, **more: Any) -> ScreeningInputs:
    fields = {"task": TASK, "samples": world.samples, "classes": CLASSES, "budgets": world.budgets}
    return ScreeningInputs.model_validate({**fields, "metric": "accuracy", **more})


def test_figures_are_those_of_the_validation_rows(local_context: Context, world: World) -> None:
    ref = make_model(local_context, 5, classes=CLASSES[::-1])
    found = SCREENING.run(local_context, asked(world, teacher=ref))
    assert SCREENING.run(local_context, asked(world, teacher=ref)) == found
    model = load_model(local_context.place(ref), ref)
    samples = Samples.open(local_context.place(world.samples), world.samples)
    for drawn, draw in zip(world.budgets, found.draws, strict=True):
        budget = read_budget(local_context.place(drawn), drawn)
        rows = samples.gather(budget.validation_positions)
        said = 2 - model.module(model.task.batch(rows, model.preprocessing)).argmax(1).numpy()
        every = np.r_[budget.train_truth, budget.validation_truth]
        assert draw.rows == len(budget.validation_truth) == 6
        assert draw.teacher == pytest.approx(np.mean(said == budget.validation_truth))
        assert draw.constant == pytest.approx(np.mean(budget.validation_truth == np.bincount(every).argmax()))


def test_what_it_cannot_judge(local_context: Context, world: World) -> None:
    stranger = make_model(local_context, 1, classes=("left", "middle", "other"))
    with pytest.raises(DataError, match="the teacher does not know 1 of the domain's 3 classes .*right"):
        SCREENING.run(local_context, asked(world, teacher=stranger))
    with pytest.raises(SpecError, match="has no metric 'bleu'"):
        SCREENING.run(local_context, asked(world, teacher=make_model(local_context, 1), metric="bleu"))
