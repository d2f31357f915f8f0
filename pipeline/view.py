"""What a person sees of a run: one live view on a terminal, plain lines elsewhere. Everything goes to stderr."""

from __future__ import annotations

import time
from types import TracebackType
from typing import Any, Self

from schemas.runs import Event

PLAIN_EVERY_S = 10.0
"""Off a terminal a running step says how far it is no more often than this."""
PACE_OVER_S = 2.0
"""The pace of a step is told when it worked for so long."""
LEAST_PACE = 0.1
"""Units a second from which a pace tells anything."""


class View:
    """Listens to the events of a run; use it as a context."""

    def __init__(self, quiet: bool = False) -> None:
        from rich.console import Console

        self.console = Console(stderr=True, quiet=quiet, highlight=False)
        self._live: Any = None
        self._tasks: dict[str, Any] = {}
        self._spoken: dict[str, float] = {}
        self._paces: dict[str, tuple[Event, Event]] = {}
        """First and last word of each running step on how far it is."""

    def __enter__(self) -> Self:
        if self.console.is_terminal:
            from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

            self._live = Progress(
                TextColumn("{task.description}"),
                BarColumn(bar_width=24),
                TextColumn("{task.fields[count]}"),
                TextColumn("{task.fields[rate]}"),
                TimeElapsedColumn(),
                TimeRemainingColumn(),
                console=self.console,
                transient=True,
            )
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live is not None:
            self._live.stop()

    def __call__(self, event: Event) -> None:
        """Show one event."""
        match event.kind:
            case "started":
                self._begin(event)
            case "progress":
                self._advance(event)
            case "done":
                self._end(event.step)
                took = f" in {event.seconds:.1f} s" if event.seconds is not None else ""
                self._line("green", "done", event, took + self._pace(event.step))
            case "skipped":
                self._end(event.step)
                self._line("dim", "kept", event, "")
            case "failed":
                self._end(event.step)
                self._line("bold red", "failed", event, "")
            case "warning":
                self._line("yellow", "note", event, "")
            case "note":
                self._print(f"[dim]{_safe(event.message)}[/]")

    def _begin(self, event: Event) -> None:
        if self._live is None:
            self._print(f"{'start':>7}  {event.step}")
        else:
            self._tasks[event.step] = self._live.add_task(event.step, total=None, count="", rate="")

    def _advance(self, event: Event) -> None:
        count, rate = _count(event), ""
        first, _ = self._paces.get(event.step, (event, event))
        self._paces[event.step] = (event if first.unit != event.unit else first, event)
        if self._live is not None:
            task = self._tasks.get(event.step)
            if task is not None:
                speed = self._live.tasks[self._live.task_ids.index(task)].speed
                rate = f"{speed:,.0f} {event.unit}/s" if speed else ""
                self._live.update(task, total=event.total, completed=event.done, count=count, rate=rate)
            return
        now = time.monotonic()
        if now - self._spoken.get(event.step, now - PLAIN_EVERY_S + 2) >= PLAIN_EVERY_S:
            self._spoken[event.step] = now
            self._print(f"{'':>7}  {event.step}: {count}")
        self._spoken.setdefault(event.step, now - PLAIN_EVERY_S + 2)

    def _end(self, step: str) -> None:
        task = self._tasks.pop(step, None)
        if task is not None:
            self._live.remove_task(task)

    def _pace(self, step: str) -> str:
        """What the step did in a second of this run: starting up and what was done before do not count."""
        if step not in self._paces:
            return ""
        first, last = self._paces.pop(step)
        time_s, done = last.time - first.time, (last.done or 0) - (first.done or 0)
        pace = done / time_s if time_s >= PACE_OVER_S else 0.0
        if pace < LEAST_PACE:
            return ""
        return f", {pace:,.0f} {last.unit}/s" if pace >= 10 else f", {pace:.1f} {last.unit}/s"

    def _line(self, style: str, word: str, event: Event, tail: str) -> None:
        message = f": {_safe(event.message)}" if event.message else ""
        self._print(f"[{style}]{word:>7}[/]  {event.step}{tail}{message}")

    def _print(self, text: str) -> None:
        self.console.print(text, soft_wrap=True)


def _count(event: Event) -> str:
    done = f"{event.done or 0:,.0f}"
    return f"{done} of {event.total:,.0f} {event.unit or ''}" if event.total else f"{done} {event.unit or ''}"


def _safe(text: str) -> str:
    from rich.markup import escape

    return escape(text)
