"""Steps and their graph. Pure: nothing is read or made here."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from schemas.base import Document

Outputs = Mapping[str, Any]
"""Outputs of finished steps, by the name of the step."""


@dataclass(frozen=True)
class Cohort:
    """Students that train from one stream."""

    name: str
    """By its first student, and how many there are beside it."""
    members: tuple[str, ...]
    """Students of the spec."""
    stream: str
    """What they have in common, in words."""


@dataclass(frozen=True)
class Step:
    """One run of one stage."""

    name: str
    """`STAGE.NAME`, as people steer it."""
    stage: str
    needs: tuple[str, ...]
    """Steps whose outputs its inputs are made from."""
    inputs: Callable[[Outputs], Document]
    """Its inputs, once all that it needs exists. Raises SpecError where parts do not fit."""
    after: tuple[str, ...] = ()
    """Steps that must be done before it starts, though it does not read them."""
    group: str | None = None
    """Steps of one group are done together where they can (`Stage.run_together`): a cohort of students."""
    grid: str | None = None
    """`STAGE.GRID`, by which people steer all points of a grid at once."""


@dataclass
class Graph:
    """All steps, each after those that it needs."""

    steps: dict[str, Step] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    """What people must know about how the spec was understood."""
    remarks: Callable[[Outputs], list[str]] = lambda done: []
    """The same, as far as it follows from outputs that exist."""
    cohorts: list[Cohort] = field(default_factory=list)
    """Which students train together on their targets."""

    def add(
        self,
        name: str,
        needs: tuple[str, ...] | list[str],
        inputs: Callable[[Outputs], Document],
        after: tuple[str, ...] = (),
        group: str | None = None,
        grid: str | None = None,
        stage: str | None = None,
    ) -> str:
        """Add a step, of the stage that its name begins with if none is named, and return its name."""
        self.steps[name] = Step(
            name, stage or name.split(".")[0], tuple(dict.fromkeys(needs)), inputs, after, group, grid
        )
        return name

    def named(self, name: str) -> set[str]:
        """The steps that people mean by the name of a stage, a step, or the steps of a grid."""
        return {step.name for step in self.steps.values() if name in (step.stage, step.name, step.grid)}

    @property
    def names(self) -> list[str]:
        """Names of steps, and of the steps of grids."""
        return [*self.steps, *dict.fromkeys(step.grid for step in self.steps.values() if step.grid)]

    def downstream(self, names: set[str]) -> set[str]:
        """The steps and all that rest on them."""
        found = set(names)
        for step in self.steps.values():
            if found & set(step.needs):
                found.add(step.name)
        return found
