"""What the tests of cohorts share: the world in memory, and workspaces by name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from schemas.spec import Resources
from stages.context import Context
from stages.places import Place
from tests.students.world import World


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch) -> World:
    """Cohorts train in this world."""
    return World().use(monkeypatch)


@pytest.fixture
def contexts(tmp_path: Path) -> Any:
    """New workspaces by name."""

    def new(name: str) -> Context:
        return Context(workspace=Place(str(tmp_path / name)), resources=Resources(mode="local"))

    return new
