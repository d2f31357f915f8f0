"""Stage `students`: a cohort of students from one shared stream."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt

from schemas.artifacts import BudgetRef, HeldOut, LabelSetRef, ModelRef, SamplesRef, SplitRef, WeightsRef
from schemas.base import Contract, Document, Name, Part
from schemas.labels import Space, Views
from schemas.spec import Halving
from schemas.teachers import DomainSize, EpochQuality
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
    balanced: bool = False
    """Whether rows with true labels are drawn so that all classes come alike."""
    seed: NonNegativeInt = 0
    """Seed of the order and of the augmentation; the same for all students of a cohort."""


class SourceInputs(Contract):
    """The source domain: its inputs, and the truth that may be seen where a student learns from that."""

    samples: SamplesRef
    """Inputs and ids."""
    split: SplitRef
    """Its splits: only train rows are read."""
    budget: BudgetRef | None = None
    """Rows whose truth may be seen; then only these are read. None: all train rows, without truth."""


class Stopped(Contract):
    """Where a point of a grid was stopped, and by what."""

    rung: PositiveInt
    """Rung at which it was not among the best, from 1."""
    rungs: PositiveInt
    """Rungs in all; the last one is the whole training."""
    metric: str
    """Metric of the selection quality that decided."""
    quality: float
    """Its mean over the point's seeds, at that rung."""

    def __str__(self) -> str:
        return f"stopped at rung {self.rung} of {self.rungs}"


class Ensemble(Contract):
    """Label sets that a student reads as one, each weighed by what it is worth on the student's validation budget."""

    sets: Annotated[tuple[LabelSetRef, ...], Field(min_length=2)]
    """The sets; each speaks of every row."""
    space: Space = "probability"
    """What is averaged: probabilities at temperature 1, or their logarithms."""


class StudentInputs(Contract):
    """One student: one model, one method, one seed."""

    circumstance: ClassVar[frozenset[str]] = frozenset({"name", "arm", "stopped"})

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
    labels: LabelSetRef | Ensemble | None = None
    """The label set that it learns from, or several that it weighs."""
    budget: BudgetRef | None = None
    """Rows whose truth may be seen; none: no truth at all."""
    source: SourceInputs | None = None
    """The source domain, for a method that reads its rows, or a training that takes a share of them."""
    calibrate: bool = False
    """Whether labels are read at the temperature that fits the validation budget."""
    start: ModelRef | WeightsRef | None = None
    """Weights to start from; none: initialised by the seed."""
    stopped: Stopped | None = None
    """Set where halving ended its point: there is nothing to train."""

    @property
    def label_sets(self) -> tuple[LabelSetRef, ...]:
        """All label sets that it learns from."""
        if isinstance(self.labels, Ensemble):
            return self.labels.sets
        return () if self.labels is None else (self.labels,)


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
    """The student; none if its training failed or was stopped."""
    failure: str | None = None
    """Why it failed."""
    stopped: Stopped | None = None
    """Where it was stopped."""
    history: tuple[EpochQuality, ...] = ()
    """Quality by epoch on its own validation budget."""
    target: DomainSize | None = None
    """What it learned from on the target; none if its training failed."""
    source: DomainSize | None = None
    """What it learned from on the source; none if it read no rows of it."""
    ended_early: str | None = None
    """Why it ended before its last step, with `early_stopping`; none: it took them all."""
    calibration: PositiveFloat | None = None
    """Temperature that its labels were read through; none: as they are stored."""
    weights: tuple[NonNegativeFloat, ...] = ()
    """What each of its label sets counted, where it weighed several; they add up to 1."""
    averaged: tuple[Name, ...] = ()
    """Students whose weights it is the mean of, in the order in which they were taken; of a soup."""


class CohortOutputs(Document):
    """What `students` gives."""

    students: tuple[StudentOutputs, ...]
    """One answer per member, in order."""


class Ingredient(Contract):
    """A student that may go into a soup."""

    circumstance: ClassVar[frozenset[str]] = frozenset({"name"})

    name: Name
    """Name for people."""
    model: ModelRef
    """Its weights."""


class Pot(Contract):
    """The students of one seed."""

    seed: NonNegativeInt = 0
    """Their seed."""
    ingredients: tuple[Ingredient, ...]
    """Those that have a model, in the order asked."""
    budget: BudgetRef
    """Their draw of the label budget: validation rows choose among them."""


class SoupInputs(Document):
    """What is asked of `soups`: a student for each seed, each an artifact of its own."""

    circumstance: ClassVar[frozenset[str]] = frozenset({"name"})

    name: Name
    """Name for people."""
    task: Part
    """Task with its settings."""
    model: Part
    """The model that all of them are."""
    how: Literal["uniform", "greedy"]
    """All of them, or one after the other, best first, as long as selection quality does not fall."""
    metric: str
    """Metric of the task that decides."""
    samples: SamplesRef
    """The target: batch-norm statistics are those of its train rows."""
    split: SplitRef
    """Its splits."""
    pots: Annotated[tuple[Pot, ...], Field(min_length=1)]
    """The students by seed."""


class HalvingInputs(Document):
    """What is asked of `halving`: which points of a grid deserve their whole training."""

    halving: Halving
    """How they are compared."""
    metric: str
    """Metric of the task that decides, on each student's own validation budget."""
    points: Annotated[tuple[CohortInputs, ...], Field(min_length=1)]
    """The students with a teacher of each point, by seed."""


class PointOutcome(Contract):
    """What halving found of one point."""

    stopped: Stopped | None = None
    """Where it was stopped; none: it deserves its whole training."""
    quality: tuple[float | None, ...] = ()
    """Mean selection quality over the seeds at each rung that it came to; none where no seed came there."""
    failed: tuple[NonNegativeInt, ...] = ()
    """Seeds whose training failed on the way: `students` tells why."""


class HalvingOutputs(Document):
    """What `halving` gives."""

    points: tuple[PointOutcome, ...]
    """By point, in the order asked."""
