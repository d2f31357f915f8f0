"""Text regression: numbers as bins, what a model says, and its errors."""

from __future__ import annotations

import numpy as np
import pytest

from schemas.base import Part
from schemas.errors import SpecError
from stages.tasks import get_task
from stages.tasks.base import BadRow, Task
from stages.tasks.text_regression import TextRegression
from stages.truth import UNKNOWN, Truth, as_truth


def task_of(**settings: float) -> TextRegression:
    task: Task = get_task(Part.model_validate({"name": "text-regression", "low": -4, "high": 4, "bins": 9, **settings}))
    assert isinstance(task, TextRegression)
    return task


def coded(*numbers: float | str) -> Truth:
    return as_truth([task_of().code_truth(number) for number in numbers], coded=True)


def test_training_asks_for_the_nearest_bin_and_truth_is_not_rounded() -> None:
    truth = as_truth([*coded(-4, -0.6, "0.4", np.float64(4)), UNKNOWN], coded=True)
    assert task_of().asked(truth).tolist() == [0, 3, 4, 8, -1]
    assert task_of().vocabulary() == ("-4.0", "-3.0", "-2.0", "-1.0", "0.0", "1.0", "2.0", "3.0", "4.0")
    sure = np.where(np.arange(9) == 4, 0, -np.inf).astype(np.float32)[None]
    assert task_of().score(sure, coded(0.4), ("mae", "rmse")) == pytest.approx({"mae": 0.4, "rmse": 0.4})


@pytest.mark.parametrize(
    ("label", "reason"),
    [(4.01, r"4.01, outside of `low` to `high` \(-4 to 4\)"), ("nan", "outside"), ("good", "'good', not a number")],
)
def test_what_is_no_number_of_the_range_is_a_bad_row(label: float | str, reason: str) -> None:
    with pytest.raises(BadRow, match=reason):
        task_of().code_truth(label)


def test_a_range_has_two_ends() -> None:
    with pytest.raises(SpecError, match="4 is not below 4"):
        task_of(low=4)


def test_what_is_said_is_the_expectation() -> None:
    shares = np.array([[0, 0, 0, 0, 0.5, 0.25, 0.25, 0, 0], [0.25, 0, 0, 0, 0, 0, 0, 0, 0.75]])
    with np.errstate(divide="ignore"):
        logits = np.log(shares).astype(np.float32) + 7
    assert task_of().expected(logits) == pytest.approx([0.75, 2.0])


def test_metrics_under_weights_are_those_of_repeated_rows() -> None:
    rng = np.random.default_rng(0)
    logits, numbers = rng.normal(size=(20, 9)).astype(np.float32), rng.uniform(-4, 4, 20)
    weights = rng.multinomial(20, [1 / 20] * 20, 3)
    said = task_of().expected(logits)
    for row, counts in enumerate(weights):
        one, other = np.repeat(said, counts), np.repeat(numbers, counts)
        wanted = {
            "mae": np.abs(one - other).mean(),
            "rmse": np.sqrt(((one - other) ** 2).mean()),
            "pearson": np.corrcoef(one, other)[0, 1],
        }
        for metric, value in wanted.items():
            found = task_of().score_rows(logits, coded(*numbers), metric, weights)
            assert found.shape == (3,)
            assert found[row] == pytest.approx(value)


def test_a_constant_answer_is_not_correlated() -> None:
    assert task_of().score(np.zeros((3, 9), np.float32), coded(-1, 0, 3), ("pearson",)) == {"pearson": 0.0}
