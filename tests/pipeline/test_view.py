"""What a run says off a terminal: how long a step took, and how fast it was."""

from __future__ import annotations

import pytest

from pipeline.view import View
from schemas.runs import Event


@pytest.mark.parametrize(
    ("first", "last", "says"),
    [
        ((0, 0), (600, 4), "in 9.0 s, 150 rows/s"),
        ((500, 0), (512, 5), "in 9.0 s, 2.4 rows/s"),  # the first 500 were there before
        ((0, 0), (600, 1), "in 9.0 s"),  # too short to tell
        ((600, 0), (600, 9), "in 9.0 s"),
        ((0, 0), (1, 60), "in 9.0 s"),
    ],
)
def test_a_step_that_is_done_tells_the_pace_of_this_run(
    first: tuple[float, float], last: tuple[float, float], says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    progress = [
        {"kind": "progress", "done": done, "total": 600, "unit": "rows", "time": t} for done, t in (first, last)
    ]
    done = {"kind": "done", "time": 9, "seconds": 9}
    with View() as view:
        for event in ({"kind": "started", "time": 0}, *progress, done, done):
            view(Event.model_validate({"step": "labels.x", **event}))
    *_, line, again = capsys.readouterr().err.splitlines()
    assert line.strip() == f"done  labels.x {says}"
    assert again.strip() == "done  labels.x in 9.0 s"
