"""Tests of teachers."""

from __future__ import annotations

import pytest

from stages.training import checkpoints


@pytest.fixture(autouse=True)
def a_checkpoint_an_epoch(monkeypatch: pytest.MonkeyPatch) -> None:
    """However short the epoch, so that a test can kill a training after each."""
    monkeypatch.setattr(checkpoints, "EVERY_SECONDS", 0.0)
