"""The tiny text task, known by its name in this process."""

from __future__ import annotations

import pytest

from stages.tasks import TASKS
from tests.domains.helpers import WORDS_TARGET


@pytest.fixture(autouse=True)
def _words_task(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(TASKS._targets, "words", WORDS_TARGET)
