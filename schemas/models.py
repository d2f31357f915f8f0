"""What a model is: its card beside its weights, and the verdict of trying to build it."""

from __future__ import annotations

from typing import Any, ClassVar

from pydantic import NonNegativeInt

from schemas.base import Digest, Document, Part
from schemas.spec import Storage


class ModelCard(Document):
    """`model.json`: all that is needed, beside the weights, to rebuild a model and feed it."""

    task: Part
    """Task with its settings."""
    model: Part
    """The model's name and settings."""
    classes: tuple[str, ...]
    """Classes that it speaks of after `class_map`, in order."""
    own_classes: tuple[str, ...] | None = None
    """Classes of its raw outputs, where a `class_map` stands between."""
    class_map: dict[str, str] = {}
    """Class by own class, many to one."""
    preprocessing: dict[str, Any] = {}
    """How it wants its input; empty for the task's own way."""
    code: dict[str, str] = {}
    """Digest of the source of the task and of a user's factory."""


class ProbeInputs(Document):
    """A model to be tried: built, and fed one batch."""

    circumstance: ClassVar[frozenset[str]] = frozenset({"weights", "storage"})

    task: Part
    """Task with its settings."""
    model: Part
    """The model's name and settings."""
    classes: tuple[str, ...]
    """Classes that it should speak of."""
    preprocessing: dict[str, Any] = {}
    """How it wants its input."""
    weights: str | None = None
    """Given weights that should load; a circumstance, since their bytes count."""
    storage: Storage = Storage()
    """Where object storage answers, for the weights."""
    strict: bool = True
    """Whether every weight must fit; else a head of another size may start anew."""
    features: bool = False
    """Whether its penultimate features are to be read."""


class ProbeVerdict(Document):
    """What trying a model gave; kept in the workspace by the digest of what was tried."""

    key: Digest
    """Digest of what was tried, code included."""
    problem: str | None = None
    """One sentence on what is wrong; none if it works."""
    parameters: NonNegativeInt = 0
    """Number of weights."""
    statistics: bool = True
    """Whether it has batch-norm statistics that `adapt` could re-estimate."""
