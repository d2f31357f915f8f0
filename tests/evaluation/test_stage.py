"""The evaluation stage over artifacts of the real stages."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load

from schemas.errors import DataError, SpecError
from schemas.evaluation import Candidate, EvaluationInputs, EvaluationOutputs
from schemas.spec import Evaluation
from stages.artifacts import find_artifact, open_ref, read_object
from stages.context import Context
from stages.domains.reader import TEST, Samples, read_budget, read_split, read_truth
from stages.evaluation.reader import read_quality
from stages.evaluation.stage import EVALUATION
from stages.labels.reader import LabelSet
from stages.tasks import get_task
from stages.training.models import load_model
from tests.evaluation.world import CLASSES, TASK, World, make_model, make_world


@pytest.fixture
def world(local_context: Context, tmp_path: Path) -> World:
    return make_world(local_context, tmp_path)


def candidates(context: Context, world: World) -> tuple[Candidate, ...]:
    """A teacher by its labels, two seeds of two arms, and one that failed."""
    models = [("distilled", 0), ("distilled", 1), ("no-teacher", 0), ("no-teacher", 1)]
    return (
        Candidate(arm="teacher", labels=world.labels, budget=world.budgets[0]),
        *(
            Candidate(arm=arm, seed=seed, model=make_model(context, index), budget=world.budgets[seed])  # type: ignore[arg-type]
            for index, (arm, seed) in enumerate(models)
        ),
        Candidate(arm="source-only", seed=0, failure="out of memory", budget=world.budgets[0]),
    )


def asked(context: Context, world: World, **more: Any) -> EvaluationInputs:
    fields = {
        "subject": "mobile",
        "domain": "stripes",
        "task": TASK,
        "candidates": candidates(context, world),
        "samples": world.samples,
        "split": world.split,
        "truth": world.truth,
        "reference": world.labels,
        "settings": Evaluation(bootstrap=50),
        "batch_size": 17,
    }
    return EvaluationInputs.model_validate({**fields, **more})


def files_of(context: Context, outputs: EvaluationOutputs) -> dict[str, dict[str, np.ndarray]]:
    """Every file of predictions, read without our own readers."""
    artifact, files = open_ref(context.place(outputs.quality), outputs.quality, "evaluation")
    names = [item.name for item in artifact.objects if item.name.endswith(".safetensors")]
    return {name: dict(load(read_object(files, artifact, name))) for name in names}


def test_figures_can_be_computed_again_from_what_is_stored(local_context: Context, world: World) -> None:
    outputs = EVALUATION.run(local_context, asked(local_context, world))
    assert read_quality(local_context.place(outputs.quality), outputs.quality) == outputs.table
    stored = files_of(local_context, outputs)
    test = stored["test.safetensors"]["positions"]
    assert np.array_equal(test, np.flatnonzero(read_split(local_context.place(world.split), world.split) == TEST))
    truth, _ = read_truth(local_context.place(world.truth), world.truth)
    said = LabelSet.open_ref(local_context.place(world.labels), world.labels).logits(test).argmax(axis=1)
    task = get_task(TASK)
    seen = 0
    for arm in outputs.table.arms:
        for seed in (item for item in arm.seeds if item.failure is None):
            file = stored[f"predictions/{arm.arm}-{seed.seed}.safetensors"]
            budget = read_budget(local_context.place(world.budgets[seed.seed]), world.budgets[seed.seed])
            assert np.array_equal(file["selection_positions"], budget.validation_positions)
            assert seed.final == task.score(file["test_logits"], truth[test], outputs.table.metrics)
            assert seed.selection == task.score(file["selection_logits"], budget.validation_truth, task.metrics)
            if arm.arm != "teacher":
                assert seed.agreement == np.mean(file["test_logits"].argmax(axis=1) == said)
            seen += 1
    assert seen == 5
    assert len(outputs.table.selection_rows) == 2
    assert outputs.table.comparison is not None
    assert outputs.table.comparison.baseline == "no-teacher"


def test_logits_are_the_models_own(local_context: Context, world: World) -> None:
    import torch

    inputs = asked(local_context, world)
    stored = files_of(local_context, EVALUATION.run(local_context, inputs))
    candidate = inputs.candidates[1]
    assert candidate.model is not None
    model = load_model(local_context.place(candidate.model), candidate.model)
    samples = Samples.open(local_context.place(world.samples), world.samples)
    with torch.inference_mode():
        rows = samples.gather(stored["test.safetensors"]["positions"])
        expected = model.module(model.task.batch(rows, model.preprocessing)).numpy()
    assert stored["predictions/distilled-0.safetensors"]["test_logits"] == pytest.approx(expected, abs=1e-5)


def test_a_second_run_adopts_and_a_student_in_another_order_of_classes_is_matched(
    local_context: Context, world: World
) -> None:
    turned = make_model(local_context, 0, classes=CLASSES[::-1])
    only = (Candidate(arm="distilled", model=turned, budget=world.budgets[0]),)
    inputs = asked(local_context, world, candidates=only)
    outputs = EVALUATION.run(local_context, inputs)
    assert EVALUATION.run(local_context, inputs) == outputs == EVALUATION.find(local_context, inputs)
    plain = EVALUATION.run(local_context, asked(local_context, world))
    one, other = (files_of(local_context, item)["predictions/distilled-0.safetensors"] for item in (outputs, plain))
    assert np.array_equal(one["test_logits"], other["test_logits"][:, ::-1])


def test_a_model_without_finite_logits_fails_alone(local_context: Context, world: World) -> None:
    broken = Candidate(
        arm="distilled", seed=0, model=make_model(local_context, 0, broken=True), budget=world.budgets[0]
    )
    fine = Candidate(arm="distilled", seed=1, model=make_model(local_context, 1), budget=world.budgets[1])
    table = EVALUATION.run(local_context, asked(local_context, world, candidates=(broken, fine))).table
    first, second = table.arms[0].seeds
    assert first.failure is not None
    assert "not finite" in first.failure
    assert (first.final, first.selection) == ({}, {})
    assert second.failure is None


def test_truth_unknown(local_context: Context, world: World) -> None:
    outputs = EVALUATION.run(local_context, asked(local_context, world, truth=None))
    table = outputs.table
    distilled = next(arm for arm in table.arms if arm.arm == "distilled")
    assert distilled.mean == {}
    assert distilled.seeds[0].agreement is not None
    assert table.comparison is None
    known = files_of(local_context, EVALUATION.run(local_context, asked(local_context, world)))
    for name, arrays in files_of(local_context, outputs).items():
        assert all(np.array_equal(array, known[name][key]) for key, array in arrays.items()), "no truth in predictions"


def test_without_truth_and_reference_nothing_is_claimed(local_context: Context, world: World) -> None:
    table = EVALUATION.run(local_context, asked(local_context, world, truth=None, reference=None)).table
    assert all(arm.mean == {} for arm in table.arms)
    assert all(seed.final == {} and seed.agreement is None for arm in table.arms for seed in arm.seeds)


def test_what_cannot_be_judged_is_refused_before_any_work(local_context: Context, world: World) -> None:
    with pytest.raises(SpecError, match="did you mean 'macro_f1'"):
        EVALUATION.run(local_context, asked(local_context, world, settings=Evaluation(metrics=("macro_f",))))
    twice = candidates(local_context, world)[1:2] * 2
    with pytest.raises(DataError, match="two candidates are 'distilled' of seed 0"):
        EVALUATION.run(local_context, asked(local_context, world, candidates=twice))
    stranger = (Candidate(arm="distilled", model=make_model(local_context, 5, classes=("left", "up", "down"))),)
    inputs = asked(local_context, world, candidates=stranger)
    with pytest.raises(DataError, match="does not know 2 of the domain's 3 classes"):
        EVALUATION.run(local_context, inputs)
    assert find_artifact(local_context.artifact_place("evaluation", EVALUATION.fingerprint(inputs))) is None


@pytest.mark.ray
def test_ray_gives_the_same_bytes(local_context: Context, ray_context: Context, tmp_path: Path) -> None:
    world = make_world(local_context, tmp_path)
    inputs = asked(local_context, world)
    here = EVALUATION.run(local_context, inputs)
    there = EVALUATION.run(Context(workspace=ray_context.workspace / "other", resources=ray_context.resources), inputs)
    assert here.quality.uri != there.quality.uri
    assert here.quality.digest == there.quality.digest
    assert here.table == there.table
    stranger = (Candidate(arm="distilled", model=make_model(local_context, 5, classes=("left", "up", "down"))),)
    with pytest.raises(DataError, match="does not know 2 of the domain's 3 classes"):
        EVALUATION.run(ray_context, asked(local_context, world, candidates=stranger))
