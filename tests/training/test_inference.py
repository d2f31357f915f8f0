"""A network for inference alone says what it said, without its batch norms."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from schemas.base import Part
from stages.tasks import get_task
from stages.training.inference import for_inference
from stages.training.models import build
from stages.training.penultimate import Penultimate

TASK = get_task(Part.model_validate({"name": "image-classification", "image_size": 16, "channels": 1}))


def network(name: str) -> nn.Module:
    """A network whose batch norms have seen something."""
    made = build(TASK, Part(name=name), 5, {}, 0)
    made.train()
    with torch.no_grad():
        for number in range(3):
            made(torch.rand(16, 1, 16, 16, generator=torch.Generator().manual_seed(number)) * 200)
    return made.eval()


@pytest.mark.parametrize("name", ["resnet-tiny", "mobile-tiny"])
def test_it_says_the_same(name: str) -> None:
    plain = network(name)
    rows = torch.rand(8, 1, 16, 16, generator=torch.Generator().manual_seed(9)) * 200
    with torch.no_grad():
        before = plain(rows)
        fast = for_inference(plain)
        after = fast(rows)
    assert any(isinstance(part, _BatchNorm) for part in plain.modules())
    assert not any(isinstance(part, _BatchNorm) for part in fast.modules())
    torch.testing.assert_close(after, before, rtol=1e-4, atol=1e-4 * float(before.abs().max()))
    with torch.no_grad():
        assert torch.equal(plain(rows), before), "the one that was given is as it was"
        taken = [Penultimate(one, rows[:2], 5, name) for one in (plain, fast)]
        for one in (plain, fast):
            one(rows)
        features = [one.take() for one in taken]
    torch.testing.assert_close(features[1], features[0], rtol=1e-4, atol=1e-4 * float(features[0].abs().max()))


def test_what_cannot_be_traced_stays_as_it_is() -> None:
    class Turning(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.norm = nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2)

        def forward(self, batch: torch.Tensor) -> torch.Tensor:
            found: torch.Tensor = self.norm(self.conv(batch))
            return found.relu() if float(batch.sum()) > 0 else found

    turning = Turning().eval()
    rows = torch.rand(2, 1, 8, 8)
    with torch.no_grad():
        assert torch.equal(for_inference(turning)(rows), turning(rows))
    assert isinstance(turning.norm, nn.BatchNorm2d)
