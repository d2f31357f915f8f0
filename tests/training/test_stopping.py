"""Early stopping: a function of the history alone."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.base import Part
from schemas.teachers import EpochQuality
from schemas.training import EarlyStopping
from stages.tasks import get_task
from stages.training.stopping import figure_of, reason_to_stop

TASK = get_task(Part.model_validate({"name": "image-classification", "image_size": 8}))


def history(figures: Sequence[float | None]) -> list[EpochQuality]:
    return [
        EpochQuality(epoch=epoch, loss=1.0, validation={} if figure is None else {"accuracy": figure})
        for epoch, figure in enumerate(figures, start=1)
    ]


def ends(figures: Sequence[float | None], patience: int = 2, min_gain: float = 0.0, after: int = 0) -> int | None:
    """The epoch after which a training ends."""
    stopping = EarlyStopping(patience=patience, min_gain=min_gain)
    for epoch in range(1, len(figures) + 1):
        if reason_to_stop(stopping, history(figures[:epoch]), TASK, after) is not None:
            return epoch
    return None


@pytest.mark.parametrize(
    ("figures", "patience", "min_gain", "wanted"),
    [
        ([0.5, 0.6, 0.6, 0.6, 0.7], 2, 0.0, 4),
        ([0.5, 0.6, 0.6, 0.7, 0.6, 0.6], 2, 0.0, 6),
        ([0.5, 0.6, 0.7, 0.8], 1, 0.0, None),
        ([0.9, 0.8], 1, 0.0, 2),
        ([0.50, 0.54, 0.58, 0.62], 2, 0.05, None),  # 0.58 is more than 0.05 above the best, though not above 0.54
        ([0.50, 0.54, 0.55, 0.62], 2, 0.05, 3),
        ([None, None, None, None], 1, 0.0, None),
    ],
)
def test_it_ends_when_nothing_was_gained_for_long_enough(
    figures: list[float | None], patience: int, min_gain: float, wanted: int | None
) -> None:
    assert ends(figures, patience, min_gain) == wanted


def test_epochs_before_a_change_of_model_do_not_count() -> None:
    assert ends([0.9, 0.5, 0.6, 0.6, 0.6], after=1) == 5
    assert ends([0.9, 0.5, 0.6, 0.6, 0.6]) == 3


def test_the_reason_says_what_happened() -> None:
    stopping = EarlyStopping(patience=1, min_gain=0.01)
    reason = reason_to_stop(stopping, history([0.75, 0.755]), TASK)
    assert reason == (
        "ended early after epoch 2: accuracy of epoch 1 (0.75) was not bettered by more than 0.01 in 1 epoch"
    )
    assert reason_to_stop(None, history([0.9, 0.1]), TASK) is None


def test_of_an_error_less_is_better() -> None:
    assert figure_of(TASK, {}) is None
    assert figure_of(TASK, {"accuracy": 0.5}) == 0.5

    class Errors(type(TASK)):  # type: ignore[misc]
        metrics = ("nll",)

    task = Errors(TASK.config)
    assert figure_of(task, {"nll": 0.5}) == -0.5
    lines = [EpochQuality(epoch=epoch, loss=1.0, validation={"nll": 1.0 + epoch}) for epoch in (1, 2)]
    assert "nll of epoch 1 (2)" in str(reason_to_stop(EarlyStopping(patience=1), lines, task))


@given(st.lists(st.floats(0, 1), max_size=12), st.integers(1, 4))
def test_it_never_ends_before_its_patience_nor_within_it_of_the_best(figures: list[float], patience: int) -> None:
    end = ends(figures, patience)
    if end is not None:
        assert end > patience
        assert max(figures[end - patience : end]) <= max(figures[: end - patience])
