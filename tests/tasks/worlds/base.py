"""What the conformance suite must be told of a task: a handful of samples, and models that fit them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

Row = dict[str, Any]


@dataclass(frozen=True)
class World:
    """A tiny world of one task. Nothing in it needs a network."""

    config: dict[str, Any]
    """The task's settings in the spec."""
    classes: tuple[str, ...]
    """Names of its labels; empty where a label is no class."""
    rows: Callable[[int, int, int], list[Row]]
    """(how many, seed, domain 0 or 1) to source rows: the task's roles and labels."""
    write: Callable[[Path, Sequence[Row]], dict[str, str]]
    """Writes rows under a path without suffix; the answer is a domain's `from`."""
    teacher: str
    """A model that learns what a handful of samples say."""
    student: str
    """A smaller one."""
    augmentation: dict[str, Any]
    """Settings that change every sample."""
    bad: Sequence[tuple[Row, str]]
    """Rows that are no samples, empty ones among them, and what is said of them."""
    models: dict[str, dict[str, Any]] = field(default_factory=dict)
    """Settings under which models with a short name are built, quickly and without a network; left out: none are
    needed."""
    learning_rate: float = 1e-2
    """A rate that suits both models."""
    steps: int = 60
    """Steps in which they learn a handful by heart."""
    by_heart: float = 1.0
    """The metric that this comes to, at least: below 1 where a model answers more coarsely than truth is."""
