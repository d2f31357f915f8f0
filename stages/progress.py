"""Progress from workers to the driver: a Ray actor that keeps the last word of each step, or a direct call."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from schemas.runs import Event

Told = Callable[[int, int], None]
"""Is told how many are done, and of how many."""
SECONDS_BETWEEN = 0.4
"""A reporter speaks no more often than this."""


class Bulletin:
    """Body of the actor: events wait here until the driver fetches them."""

    def __init__(self) -> None:
        self._events: dict[tuple[str, str], Event] = {}
        self._other: list[Event] = []

    def post(self, event: Event) -> None:
        """Keep an event; of progress only the newest of each step and message counts."""
        if event.kind == "progress":
            self._events[event.step, event.message] = event
        else:
            self._other.append(event)

    def drain(self) -> list[Event]:
        """Take all events."""
        events = [*self._other, *self._events.values()]
        self._events, self._other = {}, []
        return events


@dataclass
class Reporter:
    """Tells of a step's progress from wherever the work runs; goes to workers with the task."""

    step: str
    bulletin: Any = None
    """Handle of the actor; none in local mode."""
    sink: Any = None
    """Called directly where there is no actor."""
    _last: float = field(default=0.0, repr=False)

    def progress(self, done: float, total: float | None, unit: str, message: str = "") -> None:
        """Tell how far it is; most calls cost nothing, since only a few per second are sent."""
        now = time.monotonic()
        if now - self._last < SECONDS_BETWEEN and done != total:
            return
        self._last = now
        self._send(
            Event(time=time.time(), step=self.step, kind="progress", done=done, total=total, unit=unit, message=message)
        )

    def warn(self, message: str) -> None:
        """Tell people something that they should know."""
        self._send(Event(time=time.time(), step=self.step, kind="warning", message=message))

    def _send(self, event: Event) -> None:
        if self.bulletin is not None:
            self.bulletin.post.remote(event)
        elif self.sink is not None:
            self.sink(event)
