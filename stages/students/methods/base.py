"""What a method is: how one training step uses the labels of a teacher. One file each.

A method is built with its validated `Config` for one student, and holds no other state than what its `learners` are.
The whole loss of a step is

    alpha * teacher_term(shared rows) + (1 - alpha) * truth_term(labelled rows)

where `alpha` is the teacher's share. A missing side gives its share to the other: without labelled rows (a
label budget of 0) the teacher counts 1, and a method without a teacher takes the truth alone.

What it reads beyond the logits of both sides stands in its `needs`; what is missing is refused before any work.
Shared rows never carry truth. Method modules import torch inside functions only. Losses are in nats where they are
divergences, computed in float32 (or wider).

Shapes: B shared rows, L labelled rows, S source rows, C classes, F features.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, ClassVar

from schemas.base import Contract, Fraction, Part
from schemas.encodings import Encoding
from schemas.errors import StoreError
from schemas.labels import ENTROPY, FEATURES, MARGIN, SAID, VIEWS
from schemas.training import Training

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from stages.students.learners import Learner
    from stages.students.teacher import TeacherRows
    from stages.tasks.base import Task

MENDS = {
    FEATURES: "label with `features: float16`",
    ENTROPY: "label with `difficulty: [entropy]`",
    MARGIN: "label with `difficulty: [margin]`",
    SAID: "tasks hold it whose models say one item after another, such as translation",
    VIEWS: "label with `views: {count: 4, settings: …}`",
}
EVERY_ENCODING = frozenset({"dense", "low-rank", "top-k", "sampled", "hard"})
"""For losses that are linear in the teacher's distribution, or read its most likely class only."""
DISTRIBUTIONS = frozenset({"dense", "low-rank", "top-k"})
"""For losses that compare whole distributions: each decoded row is one that is near to the teacher's own."""
LOGITS = frozenset({"dense", "low-rank"})
"""For losses that need the teacher's own number for every class."""


@dataclass(frozen=True)
class Needs:
    """What a method reads beyond the logits of the student and of its teacher."""

    labels: bool = True
    """A label set; without one no shared rows are read."""
    fields: frozenset[str] = frozenset()
    """Fields of the label set beside its logits (`FEATURES`, `ENTROPY`, `MARGIN`, `SAID`), or all its `VIEWS`."""
    encodings: frozenset[str] = EVERY_ENCODING
    """Encodings of labels that it can learn from."""
    temperatures: tuple[float, ...] = ()
    """Temperatures at which it reads labels."""
    labelled: bool = False
    """What the teacher says of the labelled rows too."""
    features: bool = False
    """The student's penultimate features."""
    source: bool = False
    """Rows of the source domain beside the shared ones, as many, without truth."""
    inputs: bool = False
    """The inputs that the student was given, for models of the method's own."""
    validation: bool = False
    """What student and teacher are worth on the student's validation budget, after each epoch (`Method.end_epoch`)."""

    pairs: bool = False
    """Every two rows of a batch beside each other, in memory of their number squared."""

    @property
    def of_samples(self) -> bool:
        """Whether it needs something of a sample as a whole, and not of each of its items."""
        asked = (self.features, self.source, self.labelled, self.inputs, self.validation, self.pairs)
        return any(asked) or VIEWS in self.fields

    def __or__(self, other: Needs) -> Needs:
        """What two methods need together."""
        return Needs(
            self.labels or other.labels,
            self.fields | other.fields,
            self.encodings & other.encodings,
            (*self.temperatures, *other.temperatures),
            self.labelled or other.labelled,
            self.features or other.features,
            self.source or other.source,
            self.inputs or other.inputs,
            self.validation or other.validation,
            self.pairs or other.pairs,
        )

    def fault_with(self, task: Task) -> str | None:
        """Why a method cannot learn what a task asks; none where it can."""
        if task.forces and self.of_samples:
            return "compares samples, and labels of this task are of their items: use soft, sequence or hard"
        if task.questions and self.inputs:
            return "has models of its own, and these are not taught several questions: use another method"
        if task.questions and self.fields & {ENTROPY, MARGIN}:
            return "reads how hard a label is as a whole, and questions differ in that: leave out `stored`"
        return None

    def check_labels(self, encoding: Encoding, fields: Collection[str]) -> None:
        """Raise StoreError unless labels in this encoding, with these fields beside it, are enough. Loads no torch."""
        from stages.labels.encodings import check_temperatures

        problems = [
            f"it reads `{name}` of the labels, which do not hold it: {MENDS.get(name, 'label with it')}"
            for name in sorted(self.fields - set(fields))
        ]
        if encoding.kind not in self.encodings:
            known = ", ".join(sorted(self.encodings)) or "no single one that all of its parts can"
            problems.append(f"it cannot learn from {encoding.kind} labels: give them another `encoding` ({known})")
        try:
            check_temperatures(encoding, self.temperatures)
        except StoreError as error:
            problems += error.problems
        if problems:
            raise StoreError(*problems)


@dataclass(frozen=True)
class SharedRows:
    """What is known of the shared rows after the student's forward pass. It never holds their truth."""

    student_BC: Tensor
    """The student's logits, with gradient."""
    teacher: TeacherRows
    """What the teacher says: logits, or kept classes and tails. `teacher.dense(tau)` makes logits of both,
    `teacher.fields` holds what stands beside them, as far as the method needs it."""
    weights_B: Tensor
    """1, or 0 for rows that only fill up a batch."""
    features_BF: Tensor | None = None
    """The student's penultimate features, with gradient; for methods that need them."""
    source: SourceRows | None = None
    """Rows of the source domain; for methods that need them."""
    progress: float = 0.0
    """Share of the student's steps that are done."""
    inputs: Tensor | None = None
    """What the student was given (B, ...); for methods that need it."""

    def of_partners(self, partner_B: Tensor) -> SharedRows:
        """The same rows where inputs are mixed, each with the output of the mix that it is the partner in."""
        from stages.training.mixing import of_partners

        features = None if self.features_BF is None else of_partners(self.features_BF, partner_B)
        return replace(self, student_BC=of_partners(self.student_BC, partner_B), features_BF=features)


@dataclass(frozen=True)
class SourceRows:
    """What is known of rows of the source domain after the student's forward pass."""

    student_SC: Tensor
    """The student's logits, with gradient."""
    features_SF: Tensor | None = None
    """The student's penultimate features, with gradient; for methods that need them."""


@dataclass(frozen=True)
class LabelledRows:
    """What is known of the labelled rows after the student's forward pass."""

    student_LC: Tensor
    """The student's logits, with gradient."""
    truth_L: Tensor
    """Class numbers, int64."""
    teacher: TeacherRows | None = None
    """What the teacher says of them; for methods that need it."""
    progress: float = 0.0
    """Share of the student's steps that are done."""
    weights_L: Tensor | None = None
    """What each row counts, with a mean of 1 over the budget, where classes are balanced so."""
    inputs: Tensor | None = None
    """What the student was given (L, ...); for methods that need it."""

    def of_partners(self, partner_L: Tensor) -> LabelledRows:
        """The same rows where inputs are mixed, each with the output of the mix that it is the partner in."""
        from stages.training.mixing import of_partners

        return replace(self, student_LC=of_partners(self.student_LC, partner_L))


@dataclass(frozen=True)
class Sizes:
    """Sizes of what a method sees."""

    classes: int
    """C."""
    student_features: int | None = None
    """F of the student, where the method needs its features."""
    fields: Mapping[str, int | None] = field(default_factory=dict)
    """Numbers a row of each field beside the labels; none for a single one."""
    build: Callable[[Part, int], torch.nn.Module] | None = None
    """Makes a model for the student's inputs and classes; the number tells several of a method apart."""


class AlphaConfig(Contract):
    """The setting that all methods with a teacher have."""

    alpha: Fraction = 0.7
    """The teacher's share of the loss."""


class Method(ABC):
    """One way to learn from a label set."""

    Config: ClassVar[type[Contract]]
    """Settings of the spec's `method`."""

    def __init__(self, config: Any) -> None:
        self.config = config

    @property
    def alpha(self) -> float:
        """The teacher's share of the loss, between 0 and 1."""
        return float(self.config.alpha)

    @property
    def needs(self) -> Needs:
        """What it reads beyond the logits; a function of its settings."""
        return Needs()

    @property
    def models(self) -> tuple[Part, ...]:
        """Models of its own: tried before any work, and their source counts in its students' fingerprints."""
        return ()

    @property
    def rests_on(self) -> tuple[str, ...]:
        """Names of other methods that it calls: their source counts in its students' fingerprints."""
        return ()

    def learners(self, sizes: Sizes, training: Training) -> dict[str, Learner]:
        """What it trains itself beside the student, by name: made once a student, before its first step.

        Modules are initialised from torch's global generator, which belongs to the student's seed.
        """
        return {}

    def end_epoch(self, student: float, teacher: float) -> None:  # noqa: B027 (most need nothing of it)
        """Told after each epoch to methods that need it: the task's leading metric on the validation budget, larger
        being better, of the student and of its labels. What is remembered must be a buffer of a learner.
        """

    @abstractmethod
    def teacher_term(self, rows: SharedRows) -> Tensor:
        """What the teacher asks of the shared rows: a scalar, the weighted mean over rows."""

    def truth_term(self, rows: LabelledRows, label_smoothing: float) -> Tensor:
        """Mean cross-entropy of the labelled rows with smoothed truth (Szegedy et al. 2016): a scalar.

        Where rows count differently, sum of weight * loss over the number of rows, so that a batch of rare classes
        counts more than one of frequent ones.
        """
        from torch.nn.functional import cross_entropy

        student_LC, truth_L = wide(rows.student_LC), rows.truth_L
        if rows.weights_L is None:
            return cross_entropy(student_LC, truth_L, label_smoothing=label_smoothing)
        loss_L = cross_entropy(student_LC, truth_L, label_smoothing=label_smoothing, reduction="none")
        return (loss_L * rows.weights_L).mean()

    def loss(self, shared: SharedRows | None, labelled: LabelledRows | None, label_smoothing: float) -> Tensor:
        """The whole loss of one step: a scalar. At least one side must be there.

        Labelled rows without a single item that counts (of masks, say) teach nothing: 0.
        """
        truth = None
        if labelled is not None:
            counted = len(labelled.truth_L) > 0
            truth = self.truth_term(labelled, label_smoothing) if counted else labelled.student_LC.sum()
        if shared is None:
            if truth is None:
                raise ValueError("a step without shared and without labelled rows has no loss")
            return truth
        teacher = self.teacher_term(shared)
        return teacher if truth is None else self.alpha * teacher + (1.0 - self.alpha) * truth


def wide(logits: Tensor) -> Tensor:
    """Logits in float32; float64 stays."""
    import torch

    return logits.to(torch.promote_types(logits.dtype, torch.float32))


def weighted_mean(values_B: Tensor, weights_B: Tensor) -> Tensor:
    """Mean over rows by weight: a scalar. The weights must not all be 0."""
    weights = weights_B.to(values_B.dtype)
    return (values_B * weights).sum() / weights.sum()


def teacher_logits(rows: SharedRows, tau: float = 1.0) -> Tensor:
    """Logits (B, C) whose softmax at tau is the teacher's distribution, decoded where the labels are sparse."""
    return rows.teacher.dense(tau).to(wide(rows.student_BC).dtype)


def beside(rows: SharedRows, name: str) -> Tensor:
    """A field of the labels that a method needs, (B, F) or (B,)."""
    return wide(rows.teacher.fields[name])


def features(rows: SharedRows) -> Tensor:
    """The student's features (B, F) of a method that needs them."""
    if rows.features_BF is None:
        raise ValueError("the method reads features of the student that it does not declare in `needs`")
    return wide(rows.features_BF)
