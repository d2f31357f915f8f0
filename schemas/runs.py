"""Documents of a workspace: leases, events, the record of a run."""

from __future__ import annotations

from typing import Literal

from pydantic import NonNegativeFloat, NonNegativeInt

from schemas.base import Digest, Document


class Lease(Document):
    """One entry of a lease's numbered log: who works in this workspace, or that nobody does."""

    holder: str
    """128 random bits of the process that holds it."""
    released: bool = False
    """Whether the holder is done."""
    beat: NonNegativeInt = 0
    """Heartbeats so far."""
    host: str = ""
    """Host name and boot id, so that a dead process on the same machine is seen at once."""
    pid: NonNegativeInt = 0
    """Process id."""
    started: str = ""
    """When the process began, as the kernel tells it: a reused process id is not taken for the holder."""
    command: str = ""
    """What it was started as, for people."""


class Event(Document):
    """One line of the event log."""

    time: NonNegativeFloat
    """Seconds since the epoch, by the writer's clock."""
    step: str
    """Step of the graph, such as `students.mobile`."""
    kind: Literal["started", "progress", "done", "skipped", "failed", "warning", "note"]
    """What happened."""
    done: NonNegativeFloat | None = None
    """Units of work done so far."""
    total: NonNegativeFloat | None = None
    """Units of work in all."""
    unit: str | None = None
    """What is counted (rows, steps, shards)."""
    message: str = ""
    """One line for people."""
    seconds: NonNegativeFloat | None = None
    """Wall time, for `done`."""


class StepRecord(Document):
    """What one step asked and got in a run; tells the next plan what changed."""

    step: str
    """Step of the graph."""
    fingerprints: dict[str, Digest]
    """Fingerprint by part."""
    inputs: dict[str, dict[str, object]]
    """Identity of the inputs by part, to name the changed field."""
