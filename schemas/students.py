"""Stage `students`: a cohort of students from one shared stream."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from pydantic import NonNegativeInt, PositiveFloat, PositiveInt

from schemas.artifacts import BudgetRef, HeldOut, LabelSetRef, ModelRef, SamplesRef, SplitRef, WeightsRef
from schemas.base import Contract, Document, Name, Part
from schemas.labels import Views
from schemas.teachers import EpochQuality
from schemas.training import Training

Arm = Literal["distilled", "no-teacher", "source-only", "source-finetuned"]
"""Which role a student plays in the comparison."""


class Stream(Contract):
    """The input side that all students of a cohort share."""

    samples: SamplesRef
    """Rows to train on."""
    split: SplitRef
    """Its splits: the stream runs over the train rows."""
    batch_size: PositiveInt
    """Shared rows of a step."""
    labelled_batch_size: PositiveInt
    """Rows with true labels of a step, per draw of the budget."""
    augmentation: dict[str, Any] = {}
    """The task's augmentation settings; with `views`, of the labelled rows alone."""
    views: Views = Views()
    """The readings of each shared row, as the label sets hold them: view (row + epoch) modulo their count."""
    preprocessing: dict[str, Any] = {}
    """How the students want their input."""
    window_bytes: PositiveInt = 256 * 2**20
    """Bytes of samples within which rows are shuffled."""
    seed: NonNegativeInt = 0
    """Seed of the order and of the augmentation; the same for all students of a cohort."""


class SourceInputs(Contract):
    """The source domain by its inputs alone."""

    samples: SamplesRef
    """Inputs and ids."""
    split: SplitRef
    """Its splits: only train rows are read."""


class StudentInputs(Contract):
    """One student: one model, one method, one seed."""

    circumstance: ClassVar[frozenset[str]] = frozenset({"name", "arm"})

    name: Name
    """Name for people: the spec's student."""
    arm: Arm = "distilled"
    """Role in the comparison; no part of the fingerprint, so equal arms are trained once."""
    model: Part
    """The model."""
    method: Part
    """How a step uses the labels."""
    training: Training
    """How it is trained."""
    steps: PositiveInt
    """Optimiser steps."""
    seed: NonNegativeInt = 0
    """Seed of initialisation (and, through `budget`, of the draw)."""
    labels: LabelSetRef | None = None
    """The label set that it learns from."""
    budget: BudgetRef | None = None
    """Rows whose truth may be seen; none: no truth at all."""
    source: SourceInputs | None = None
    """The source domain, for a method that reads its rows."""
    calibrate: bool = False
    """Whether labels are read at the temperature that fits the validation budget."""
    start: ModelRef | WeightsRef | None = None
    """Weights to start from; none: initialised by the seed."""


class CohortInputs(Document):
    """What is asked of `students`: each member gives an artifact of its own."""

    circumstance: ClassVar[frozenset[str]] = frozenset({"held_out"})

    task: Part
    """Task with its settings."""
    classes: tuple[str, ...]
    """Classes to speak of, in order."""
    stream: Stream
    """The shared input side."""
    students: tuple[StudentInputs, ...]
    """The members; a result does not depend on who else is in the cohort."""
    held_out: tuple[HeldOut, ...] = ()
    """Other domains that they are judged on: students that would learn from their test rows are refused."""


class StudentOutputs(Document):
    """What became of one student."""

    name: Name
    """Name for people."""
    arm: Arm = "distilled"
    """Role in the comparison."""
    seed: NonNegativeInt = 0
    """Its seed."""
    model: ModelRef | None
    """The student; none if its training failed."""
    failure: str | None = None
    """Why it failed."""
    history: tuple[EpochQuality, ...] = ()
    """Quality by epoch on its own validation budget."""
    stopped: str | None = None
    """Why it ended before its last step, with `early_stopping`; none: it took them all."""
    calibration: PositiveFloat | None = None
    """Temperature that its labels were read through; none: as they are stored."""


class CohortOutputs(Document):
    """What `students` gives."""

    students: tuple[StudentOutputs, ...]
    """One answer per member, in order."""
