"""Mixed rows by hand, and their losses: those of mixed targets, for true labels, dense and sparse teachers alike."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from torch import Tensor

from schemas.base import Part
from schemas.training import Mixing
from stages.students.methods import get_method
from stages.students.methods.base import LabelledRows, SharedRows
from stages.students.teacher import DenseTeacher
from stages.training.mixing import Mix, draw_mix, draw_partners, of_partners

ROWS, CLASSES = 5, 4


def draws(mixing: Mixing, count: int, side_2: tuple[int, int] = (8, 12)) -> list[Mix | None]:
    random = np.random.default_rng(0)
    return [draw_mix(mixing, side_2, random) for _ in range(count)]


def numbers(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_mixup_by_hand() -> None:
    batch = torch.tensor([[1.0, 2.0], [3.0, 5.0], [7.0, 11.0]])
    mixed = Mix(0.75, None)(batch, torch.tensor([1, 2, 0]))
    assert mixed.tolist() == [[1.5, 2.75], [4.0, 6.5], [5.5, 8.75]]


def test_cutmix_by_hand() -> None:
    """Rows 1 and 2, columns 0 and 1, from the other picture."""
    batch = torch.stack([torch.zeros(1, 3, 3), torch.ones(1, 3, 3)]).to(memory_format=torch.channels_last)
    before = batch.clone()
    mixed = Mix(5 / 9, (slice(1, 3), slice(0, 2)))(batch, torch.tensor([1, 0]))
    assert mixed[0, 0].tolist() == [[0, 0, 0], [1, 1, 0], [1, 1, 0]]
    assert torch.equal(mixed[1], 1 - mixed[0])
    assert torch.equal(batch, before)


def test_a_box_lies_in_the_picture_and_lam_is_what_it_leaves() -> None:
    """Its centre anywhere, its sides sqrt(1 - lam) of the picture's, cut off at the edge; lam is what is left."""
    for mix in draws(Mixing(cutmix=1.0), 300):
        assert mix is not None
        assert mix.box is not None
        rows, columns = mix.box
        assert 0 <= rows.start <= rows.stop <= 8
        assert 0 <= columns.start <= columns.stop <= 12
        own = Mix(mix.lam, mix.box)(torch.stack([torch.ones(1, 8, 12), torch.zeros(1, 8, 12)]), torch.tensor([1, 0]))
        assert float(own[0].mean()) == pytest.approx(mix.lam)
        if rows.start and columns.start and rows.stop < 8 and columns.stop < 12:
            halves = (rows.stop - rows.start) // 2, (columns.stop - columns.start) // 2
            # One size relative to the picture: whole pixels of both sides are less than one off it.
            assert max(halves[0] / 8, halves[1] / 12) < min((halves[0] + 1) / 8, (halves[1] + 1) / 12)


def test_shares_are_drawn_from_beta() -> None:
    """Beta(a, a): mean 1/2, variance 1 / (4 (2 a + 1))."""
    for strength in (0.2, 1.0, 5.0):
        lams = [mix.lam for mix in draws(Mixing(mixup=strength), 4000) if mix is not None]
        assert len(lams) == 4000
        assert np.mean(lams) == pytest.approx(0.5, abs=0.03)
        assert np.var(lams) == pytest.approx(1 / (4 * (2 * strength + 1)), rel=0.1)


def test_some_steps_some_ways() -> None:
    found = draws(Mixing(mixup=1.0, cutmix=1.0, share=0.5), 2000)
    boxed = sum(mix is not None and mix.box is not None for mix in found)
    blended = sum(mix is not None and mix.box is None for mix in found)
    assert boxed == pytest.approx(500, abs=70)
    assert blended == pytest.approx(500, abs=70)
    assert draws(Mixing(mixup=1.0, share=0.0), 10) == [None] * 10


def test_partners_are_a_permutation_and_outputs_find_them() -> None:
    partner = draw_partners(ROWS, np.random.default_rng(0))
    assert sorted(partner.tolist()) == list(range(ROWS))
    moved = of_partners(torch.arange(ROWS), partner)
    assert all(partner[moved[row]] == row for row in range(ROWS))


def mixed_loss(method: str, outputs: Tensor, teacher: Any, truth: Tensor, mix: Mix, partner: Tensor) -> Tensor:
    """As a student's step has it."""
    of = get_method(Part(name=method))
    shared = None if teacher is None else SharedRows(outputs, teacher, torch.ones(ROWS))
    labelled = LabelledRows(outputs, truth) if teacher is None else None
    own = of.loss(shared, labelled, 0.1)
    other = of.loss(shared and shared.of_partners(partner), labelled and labelled.of_partners(partner), 0.1)
    return mix.lam * own + (1 - mix.lam) * other


def test_the_loss_of_true_labels_is_the_cross_entropy_of_mixed_ones() -> None:
    """With the smoothing of 0.1, by hand."""
    outputs, truth = numbers(0, ROWS, CLASSES), torch.tensor([0, 1, 2, 3, 1])
    partner, mix = torch.tensor([2, 0, 1, 4, 3]), Mix(0.7, None)
    own = 0.9 * torch.eye(CLASSES, dtype=torch.float64)[truth] + 0.1 / CLASSES
    wanted = -((0.7 * own + 0.3 * own[partner]) * outputs.log_softmax(1)).sum(1).mean()
    found = mixed_loss("none", outputs, None, truth, mix, partner)
    assert float(found) == pytest.approx(float(wanted), rel=1e-9)


def test_the_gradient_of_a_teachers_labels_is_that_of_mixed_distributions() -> None:
    said, partner, mix = numbers(1, ROWS, CLASSES), torch.tensor([2, 0, 1, 4, 3]), Mix(0.7, None)
    outputs = numbers(0, ROWS, CLASSES).requires_grad_()
    loss = mixed_loss("soft", outputs, DenseTeacher(said), torch.zeros(ROWS), mix, partner)
    (found,) = torch.autograd.grad(loss, outputs)
    own = (said / 2).softmax(1)  # the method's temperature is 2
    target = 0.7 * own + 0.3 * own[partner]
    wanted = 2 * ((outputs.detach() / 2).softmax(1) - target) / ROWS
    torch.testing.assert_close(found, wanted, rtol=1e-6, atol=1e-9)


def test_every_target_keeps_its_own_weight() -> None:
    """A row that fills up a batch is mixed into another, and its target counts nothing."""
    said, partner = numbers(1, ROWS, CLASSES), torch.tensor([4, 0, 1, 2, 3])
    weights = torch.tensor([1.0, 1.0, 1.0, 1.0, 0.0])
    rows = SharedRows(numbers(0, ROWS, CLASSES), DenseTeacher(said), weights).of_partners(partner)
    method = get_method(Part(name="hard"))
    before = float(method.teacher_term(rows))
    said[4] = said[4].flip(0) * 10
    assert float(method.teacher_term(rows)) == before


@pytest.mark.parametrize("wrong", [{}, {"mixup": -1}, {"cutmix": -0.5}, {"mixup": 1, "share": 1.5}, {"mixup": 0}])
def test_settings_out_of_bounds_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        Mixing(**wrong)
