"""Two ranks that share the batches of a cohort, in real processes over gloo: equal to one rank up to rounding.

The tolerance is that of float32 sums taken in another order, over 14 steps of SGD with momentum: initial weights that
are moved by 1e-6 end 1e-5 apart here. (Adam moves a weight by the learning rate however small its gradient is, and
relations at a rate that makes them diverge amplify rounding without bound: neither tells of ranks.)
"""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch.nn import functional

from schemas.base import Part
from schemas.errors import SpecError
from schemas.spec import Resources
from schemas.students import CohortInputs, StudentOutputs
from stages.context import Context
from stages.places import Place
from stages.students.cohort import failure_of
from stages.students.stage import STUDENTS
from stages.training.models import read_state
from stages.training.peers import Peers, batch_norm
from tests.students.ranks import BROKEN, KILLED, LAUNCH, context, train
from tests.students.test_balance import SEEN
from tests.students.test_cohort import EVERYTHING, SOURCE
from tests.students.world import World, cohort_of, student

TOLERANCE = 1e-4
SGD = {"optimizer": "sgd", "learning_rate": 0.05, "schedule": "constant"}
RELATIONS = Part.model_validate({"name": "relational", "distance": 1.0, "angle": 1.0})
EVERYONE = (
    student("soft", model="steady", training=SGD),
    student("rows", RELATIONS, model="steady", labels=1, budget=1, seed=1, training={**SGD, "learning_rate": 0.01}),
    student("none", "none", arm="no-teacher", model="steady", training=SGD),
    student("best", model="steady", training={**SGD, "keep": "best", "gradient_clip": 1.0}),
    student("all", EVERYTHING, source=SOURCE, model="steady", training={**SGD, "learning_rate": 0.005}),
    student(
        "sourced", source=SEEN, model="steady", training={**SGD, "source_share": 0.3, "balance": {"by": "weights"}}
    ),
)
"""Losses by row, over pairs of rows, over rows of several kinds; batch norm in all of them."""


def outputs(folder: Path, inputs: CohortInputs) -> list[StudentOutputs]:
    found = STUDENTS.find(context(folder), inputs)
    assert found is not None, [failure_of(order, LAUNCH) for order in STUDENTS.orders(context(folder), inputs)]
    return list(found.students)


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> list[StudentOutputs]:
    """The same students of one rank."""
    folder = tmp_path_factory.mktemp("alone")
    with pytest.MonkeyPatch.context() as patch:
        World().use(patch)
        STUDENTS.run(context(folder), cohort_of(*EVERYONE))
    return outputs(folder, cohort_of(*EVERYONE))


def assert_near(ours: list[StudentOutputs], theirs: list[StudentOutputs], folder: Path) -> None:
    for one, other in zip(ours, theirs, strict=True):
        assert one.model is not None
        assert other.model is not None
        mine, yours = (read_state(context(folder).place(item), item) for item in (one.model, other.model))
        for name, value in mine.items():
            assert torch.allclose(value, yours[name], atol=TOLERANCE), (one.name, name)
        assert [line.epoch for line in one.history] == [line.epoch for line in other.history]
        for line, again in zip(one.history, other.history, strict=True):
            assert line.loss == pytest.approx(again.loss, rel=TOLERANCE), one.name


def test_two_ranks_equal_one_also_after_a_kill_in_the_middle_of_an_epoch(
    tmp_path: Path, alone: list[StudentOutputs]
) -> None:
    """The rank that is left blames nobody's student."""
    assert train(tmp_path, cohort_of(*EVERYONE), die_at=30) == [BROKEN, KILLED]
    orders = STUDENTS.orders(context(tmp_path), cohort_of(*EVERYONE))
    assert [failure_of(order, LAUNCH) for order in orders] == [None] * len(EVERYONE)
    assert all(order.folder.names("checkpoints") for order in orders)
    assert train(tmp_path, cohort_of(*EVERYONE)) == [0, 0]
    assert_near(outputs(tmp_path, cohort_of(*EVERYONE)), alone, tmp_path)


def test_a_student_that_fails_on_one_rank_ends_on_all_and_harms_nobody(
    tmp_path: Path, alone: list[StudentOutputs]
) -> None:
    """It raises in the forward pass of one rank, before a batch norm in which the other waits; then once alone."""
    bad = [student(f"bad{number}", model=model) for number, model in enumerate(("uneven", "late", "unbuildable_once"))]
    inputs = cohort_of(bad[0], *EVERYONE, bad[1], bad[2])
    assert train(tmp_path, inputs) == [0, 0]
    orders = STUDENTS.orders(context(tmp_path), inputs)
    reasons = [failure_of(order, LAUNCH) for order in orders]
    assert reasons[0] == "RuntimeError: only here (after 2 of 14 steps)"
    assert reasons[1:-2] == [None] * len(EVERYONE)
    assert str(reasons[-2]).startswith("RuntimeError: only in the backward pass")
    assert str(reasons[-1]).endswith("RuntimeError('not built here') (after 0 of 14 steps)")
    assert_near(outputs(tmp_path, cohort_of(*EVERYONE)), alone, tmp_path)


def test_more_ranks_than_rows_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    resources = Resources(data_parallel=True, workers=5)
    World().use(monkeypatch)
    here = Context(workspace=Place(str(tmp_path)), resources=resources)
    with pytest.raises(SpecError, match="5 workers cannot share batches of 4 rows"):
        STUDENTS.run(here, cohort_of(EVERYONE[0]))


# --- the parts -----------------------------------------------------------------------------------------------


def test_shares_cover_every_row_once() -> None:
    for rows in range(1, 20):
        for ranks in range(1, 5):
            parts = [Peers(rank, ranks).share(rows) for rank in range(ranks)]
            covered = [row for part in parts for row in range(rows)[part]]
            assert covered == list(range(rows))
            sizes = {len(range(rows)[part]) for part in parts}
            assert max(sizes) - min(sizes) <= 1


class Halves(Peers):
    """Two ranks in one process: what the other one would send is worked out beside it."""

    def __init__(self, other: torch.Tensor) -> None:
        super().__init__(0, 2)
        self._other = other

    def add(self, tensor: torch.Tensor) -> torch.Tensor:
        if tensor.dim() == 2 and len(tensor) == 2:  # slots of (n, mean, squares): fill in the other rank's
            channels = self._other.transpose(0, 1).reshape(self._other.shape[1], -1)
            mean = channels.mean(1)
            squares = (channels - mean[:, None]).square().sum(1)
            slot = torch.cat([mean, squares, torch.tensor([float(channels.shape[1])])])
            return torch.stack([tensor[0], slot])
        return tensor


@pytest.mark.parametrize("shape", [(12, 3, 4, 4), (12, 3), (12, 3, 5)])
def test_batch_norm_over_ranks_is_that_of_the_whole_batch(shape: tuple[int, ...]) -> None:
    """Also where the mean is a thousand deviations away."""
    torch.manual_seed(0)
    rows = torch.randn(shape) + 1000.0
    weight, bias = torch.rand(3), torch.randn(3)
    ours = [torch.zeros(3), torch.ones(3)]
    theirs = [torch.zeros(3), torch.ones(3)]
    part = batch_norm(Halves(rows[5:]), rows[:5], ours[0], ours[1], weight, bias, 0.1, 1e-5)
    whole = functional.batch_norm(rows, theirs[0], theirs[1], weight, bias, True, 0.1, 1e-5)
    assert torch.allclose(part, whole[:5], atol=2e-3)
    assert torch.allclose(ours[0], theirs[0], rtol=1e-5)
    assert torch.allclose(ours[1], theirs[1], rtol=1e-3)
