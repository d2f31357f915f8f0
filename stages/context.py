"""What a stage is told beside its inputs: where the workspace is, how wide to work, whom to tell.

Nothing in a context may change what comes out.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from schemas.artifacts import Ref
from schemas.runs import Event
from schemas.spec import Resources, Storage
from stages.places import Place
from stages.progress import Reporter

EventSink = Callable[[Event], None]


def _nobody(event: Event) -> None:
    """Events go nowhere."""


@dataclass(frozen=True)
class Context:
    """Where and how a stage works. Does not cross to workers: they get `place`s and plain values."""

    workspace: Place
    storage: Storage = field(default_factory=Storage)
    resources: Resources = field(default_factory=Resources)
    step: str = "stage"
    """Name of the running step, for events."""
    sink: EventSink = _nobody
    width: int | None = None
    """CPU cores that the step may fill, where others start beside it; none: all that are free."""
    bulletin: Any = None
    """Ray actor that workers tell their progress (`stages.progress`); none in local mode."""

    @property
    def local(self) -> bool:
        """Whether the work is to run in this process, without Ray."""
        return self.resources.mode == "local"

    def artifact_place(self, stage: str, fingerprint: str) -> Place:
        """Folder of an artifact in this workspace."""
        return self.workspace / f"artifacts/{stage}/{fingerprint}"

    def store_place(self, store: str | None) -> Place:
        """Place of the label store: the given one, else inside the workspace."""
        return self.workspace / "store" if store is None else Place(store, self.storage)

    def place(self, ref: Ref) -> Place:
        """Place that a reference names."""
        return Place(ref.uri, self.storage)

    def reporter(self) -> Reporter:
        """What workers of this step tell their progress through."""
        return Reporter(self.step, self.bulletin, self.sink if self.bulletin is None else None)

    def progress(self, done: float, total: float | None, unit: str, message: str = "") -> None:
        """Tell how far the step is."""
        self.tell("progress", done=done, total=total, unit=unit, message=message)

    def tell(self, kind: str, message: str = "", **more: object) -> None:
        """Send one event."""
        event = Event.model_validate({"time": time.time(), "step": self.step, "kind": kind, "message": message, **more})
        self.sink(event)
