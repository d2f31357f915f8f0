"""Rounds: what a spec asks of them, and what the stage `rounds` measures of each. No truth beyond the label budget."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveInt

from schemas.artifacts import BudgetRef, LabelSetRef, ModelRef, Ref, SamplesRef, SplitRef
from schemas.base import Contract, Document, Name, Part


class Rounds(Contract):
    """Label, train, measure, and again: what changes between rounds is the policy's."""

    policy: Part
    """What changes from one round to the next."""
    max_rounds: PositiveInt = 4
    """Most rounds of a chain; raised later, a finished run goes on from its last."""
    until: dict[str, float] = {}
    """Selection quality that is enough, by metric: the mean over the students of a chain."""
    patience: PositiveInt = 1
    """Rounds in a row without gain after which a chain ends."""
    min_gain: NonNegativeFloat = 0.002
    """Least gain in selection quality that counts, in the metric's own unit (a share of 1)."""


class RoundRef(Ref):
    """One round of one chain."""

    kind: Literal["round"] = "round"
    """Tag of the reference."""


class RoundStudent(Contract):
    """A student of a round."""

    name: Name
    """Its name; it stands in what the round leaves."""
    model: ModelRef | None = None
    """What it became."""
    failure: str | None = None
    """Why there is no model."""
    labels: LabelSetRef | None = None
    """What it learned from."""


class RoundSet(Contract):
    """A label set of a round."""

    name: Name
    """Its name; it stands in what the round leaves."""
    labels: LabelSetRef
    """The set."""


class RoundInputs(Document):
    """What is asked of `rounds`: what one round of one chain came to."""

    policy: Part
    """The policy that asked for the round."""
    task: Part
    """Task with its settings."""
    number: PositiveInt
    """The round, from 1."""
    seed: NonNegativeInt
    """The chain."""
    parent: RoundRef | None = None
    """The round before it."""
    decision: str
    """Why the round is what it is, in words."""
    state: dict[str, Any] = {}
    """What the policy remembers."""
    students: tuple[RoundStudent, ...] = Field(min_length=1)
    """Its students."""
    sets: tuple[RoundSet, ...] = ()
    """The label sets that they learned from, each once."""
    classes: tuple[str, ...]
    """Classes of the target, in the order of its truth."""
    samples: SamplesRef
    """The target."""
    split: SplitRef
    """Its splits: only validation rows are read."""
    budget: BudgetRef
    """The chain's draw: of the validation rows, those whose truth may be seen."""
    metrics: tuple[str, ...]
    """Metrics, the first one leading."""


class Measured(Contract):
    """What a student or a label set is worth on the target's validation rows."""

    name: Name
    """Its name."""
    quality: dict[str, float] = {}
    """Metrics on the validation rows whose truth may be seen; empty where there are none."""
    confidence: float | None = None
    """Mean over validation rows of the largest probability."""
    agreement: float | None = None
    """Share of validation rows on which a student says what its labels say."""
    failure: str | None = None
    """Why there are no figures."""


class RoundRecord(Document):
    """`round.json`: one round of one chain."""

    policy: Part
    """The policy that asked for it."""
    number: PositiveInt
    """The round, from 1."""
    seed: NonNegativeInt
    """The chain."""
    parent: RoundRef | None = None
    """The round before it."""
    decision: str
    """Why the round is what it is, in words."""
    state: dict[str, Any] = {}
    """What the policy remembers."""
    labels: dict[Name, LabelSetRef] = {}
    """Its label sets by name; new only where a teacher is."""
    classes: PositiveInt
    """Number of classes."""
    students: tuple[Measured, ...]
    """Its students."""
    sets: tuple[Measured, ...] = ()
    """Its label sets."""
    disagreement: float | None = None
    """Mean over pairs of students of the share of validation rows on which they differ; none for a single one."""
    rows: NonNegativeInt
    """Validation rows that confidence and agreement rest on."""
    labelled: NonNegativeInt
    """Those of them whose truth was seen."""


class RoundOutputs(Document):
    """What `rounds` gives."""

    round: RoundRef
    """The artifact: `round.json`."""
    record: RoundRecord
    """What stands in it."""


class RoundLine(Contract):
    """One round of all chains as the report shows it."""

    number: PositiveInt
    """The round."""
    chains: tuple[RoundRecord, ...]
    """By seed: those that came to it."""
    final: dict[Name, float] = {}
    """Mean final quality of each student over these chains, in the leading metric."""


class RoundsSection(Contract):
    """The rounds of a project as the report shows them."""

    policy: Part
    """The policy."""
    guide: str
    """What decided: a metric on the validation budget, or at a budget of 0 agreement and confidence."""
    lines: tuple[RoundLine, ...]
    """Round by round."""
    best: dict[str, PositiveInt]
    """By seed, the round whose students are the result."""
    ended: dict[str, str]
    """By seed, why there are no more rounds."""
