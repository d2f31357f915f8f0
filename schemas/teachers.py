"""Stage `teachers`: train on a source, take what is given, or carry over to a target."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, NonNegativeInt, PositiveInt

from schemas.artifacts import BudgetRef, HeldOut, LabelSetRef, ModelRef, SamplesRef, SeenInfo, SplitRef, WeightsRef
from schemas.base import Contract, Document, Part
from schemas.training import Training


class LabelledDomain(Contract):
    """A domain with the truth that may be seen."""

    samples: SamplesRef
    """Inputs and ids."""
    split: SplitRef
    """Its splits."""
    budget: BudgetRef
    """Rows whose truth may be seen, with that truth."""


class TrainTeacher(Contract):
    """Train a model on labelled domains."""

    kind: Literal["train"] = "train"
    """Tag of the way."""
    domains: Annotated[tuple[LabelledDomain, ...], Field(min_length=1)]
    """What it learns from; more than one are mixed."""
    training: Training
    """How it is trained."""
    seed: NonNegativeInt = 0
    """Seed of initialisation and of the order of samples."""
    weights: WeightsRef | None = None
    """Weights to start from; none: initialised by the seed."""


class GivenTeacher(Contract):
    """Take a model as it is."""

    kind: Literal["given"] = "given"
    """Tag of the way."""
    weights: WeightsRef | None = None
    """Its weights; none where the factory brings them."""


class AdaptTeacher(Contract):
    """Carry a teacher over to a target by its inputs alone."""

    kind: Literal["adapt"] = "adapt"
    """Tag of the way."""
    method: Literal["batch-norm"] = "batch-norm"
    """`batch-norm` re-estimates the normalisation statistics."""
    teacher: ModelRef
    """The teacher to carry over."""
    samples: SamplesRef
    """The target."""
    split: SplitRef
    """Its splits: only train rows are read."""
    batch_size: PositiveInt = 256
    """Rows per forward pass."""


class StudentTeacher(Contract):
    """Take a student for a teacher."""

    kind: Literal["student"] = "student"
    """Tag of the way."""
    student: ModelRef
    """The student."""
    samples: SamplesRef
    """Its target."""
    split: SplitRef
    """The target's splits: it read the inputs of the train rows."""
    budget: BudgetRef | None = None
    """Rows whose truth it saw, or was chosen by."""
    labels: LabelSetRef | None = None
    """The label set that it learned from."""


class TeacherInputs(Document):
    """What is asked of `teachers`."""

    circumstance: ClassVar[frozenset[str]] = frozenset({"held_out"})

    task: Part
    """Task with its settings."""
    model: Part | None = None
    """The model; none where another model is carried over or taken, which brings its own."""
    classes: tuple[str, ...] | None = None
    """Classes to speak of, in order; none where another model brings them."""
    own_classes: tuple[str, ...] | None = None
    """Classes of the raw outputs, where a `class_map` stands between."""
    class_map: dict[str, str] = {}
    """Class by own class."""
    preprocessing: dict[str, Any] = {}
    """How it wants its input."""
    way: Annotated[TrainTeacher | GivenTeacher | AdaptTeacher | StudentTeacher, Field(discriminator="kind")]
    """Train, take as given, adapt, or take a student."""
    held_out: tuple[HeldOut, ...] = ()
    """Domains that its labels are for: a teacher that would learn from their test rows is refused."""


class EpochQuality(Contract):
    """One line of a training's history."""

    epoch: NonNegativeInt
    """Epoch, from 1; 0 is before training."""
    loss: float
    """Mean training loss in nats."""
    validation: dict[str, float] = {}
    """Metrics on the validation budget."""


class DomainSize(Contract):
    """How much of a domain a training learned from."""

    rows: NonNegativeInt
    """Train rows that it read."""
    labelled: tuple[NonNegativeInt, ...]
    """Those whose truth it saw, by class."""


class TeacherOutputs(Document):
    """What `teachers` gives."""

    model: ModelRef
    """The teacher."""
    classes: tuple[str, ...]
    """Classes that it speaks of, in order."""
    history: tuple[EpochQuality, ...] = ()
    """Quality by epoch on the source's validation rows; empty if not trained here."""
    kept_epoch: NonNegativeInt | None = None
    """Epoch whose weights were kept."""
    seen: SeenInfo | None = None
    """Rows that it learned from or was chosen by (`seen.npy`); none where nobody knows."""
    ended_early: str | None = None
    """Why its training ended before its last step, with `early_stopping`; none: it took them all."""
    sizes: tuple[DomainSize, ...] = ()
    """What it learned from, in the order of its domains; empty if not trained here."""
    statistics: bool = True
    """Whether it has batch-norm statistics that `adapt` could re-estimate; one of an older release counts as having."""
