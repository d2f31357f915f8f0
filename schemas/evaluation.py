"""Stages `evaluation` (quality), `costs` and `report`."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveInt

from schemas.artifacts import BudgetRef, LabelSetRef, ModelRef, Ref, SamplesRef, SplitRef, TruthRef
from schemas.base import Contract, Digest, Document, Name, Part
from schemas.rounds import RoundsSection
from schemas.spec import Evaluation
from schemas.students import Arm, Stopped

IMPOSSIBLE = "impossible"
"""A reason that begins so: the arm cannot be, and was not tried."""


class QualityRef(Ref):
    """A table of quality with the predictions that it rests on."""

    kind: Literal["quality"] = "quality"
    """Tag of the reference."""


class CostRef(Ref):
    """A table of costs on one host."""

    kind: Literal["cost"] = "cost"
    """Tag of the reference."""


class Candidate(Contract):
    """One model to be judged; a teacher may be judged by the labels that it left."""

    arm: Arm | Literal["teacher"]
    """Role in the comparison."""
    seed: NonNegativeInt = 0
    """Its seed."""
    model: ModelRef | None = None
    """The model; none where labels stand for it, or where its training failed."""
    labels: LabelSetRef | None = None
    """What it said about the domain."""
    failure: str | None = None
    """Why there is no model."""
    stopped: Stopped | None = None
    """Where its training was stopped: there is no model, and no fault."""
    budget: BudgetRef | None = None
    """Rows of its own validation budget."""


class EvaluationInputs(Document):
    """What is asked of `evaluation`: one subject on one domain, with its baselines.

    Names count: they stand in the table that the report reads.
    """

    subject: Name
    """The student or teacher that is judged."""
    domain: Name
    """Domain that it is judged on."""
    task: Part
    """Task with its settings."""
    candidates: tuple[Candidate, ...]
    """The subject's models by arm and seed."""
    samples: SamplesRef
    """The domain."""
    split: SplitRef
    """Its splits."""
    truth: TruthRef | None = None
    """Its truth; none: final quality is unknown, and agreement with the teacher stands alone."""
    reference: LabelSetRef | None = None
    """Labels that agreement is measured against."""
    settings: Evaluation = Evaluation()
    """What is measured, and against what."""
    batch_size: PositiveInt = 256
    """Rows per forward pass."""


class Interval(Contract):
    """A figure with its interval."""

    value: float
    """The figure."""
    low: float
    """Lower end."""
    high: float
    """Upper end."""


class SeedQuality(Contract):
    """One model's figures."""

    seed: NonNegativeInt
    """Its seed."""
    selection: dict[str, float] = {}
    """Metrics on its validation budget."""
    final: dict[str, float] = {}
    """Metrics on the test split; empty where the truth is unknown."""
    agreement: float | None = None
    """Share of test rows on which it says what the reference labels say."""
    failure: str | None = None
    """Why there are no figures."""
    stopped: Stopped | None = None
    """Where its training was stopped: there are no figures, and no fault."""


class ArmQuality(Contract):
    """All seeds of one arm."""

    arm: Arm | Literal["teacher"]
    """Role in the comparison."""
    seeds: tuple[SeedQuality, ...]
    """Figures by seed."""
    mean: dict[str, float] = {}
    """Mean over seeds of the final metrics."""
    spread: dict[str, float] = {}
    """Standard deviation over seeds of the final metrics (n - 1); empty for one seed."""
    note: str | None = None
    """Why the arm has no figures, such as a budget of 0."""


class Comparison(Contract):
    """The distilled arm against the best baseline, paired over seeds and test samples."""

    metric: str
    """The leading metric."""
    baseline: Arm
    """The baseline with the highest mean in final quality: the choice works against us."""
    difference: Interval
    """Mean difference, distilled minus baseline, with its bootstrap interval."""
    confidence: float
    """Level of the interval."""
    seeds: PositiveInt
    """Seeds that both arms have, over which they are paired."""
    seeds_better: NonNegativeInt
    """Seeds in which the distilled student is better."""
    seeds_worse: NonNegativeInt
    """Seeds in which it is worse."""


class QualityTable(Document):
    """`quality.json`: the figures of one subject on one domain."""

    subject: Name
    """The student or teacher."""
    domain: Name
    """The domain."""
    metrics: tuple[str, ...]
    """Metrics, the first one leading."""
    errors: tuple[str, ...] = ()
    """Metrics of which less is better."""
    unbounded: tuple[str, ...] = ()
    """Metrics that are no share of 1, such as a loss in nats."""
    arms: tuple[ArmQuality, ...]
    """Figures by arm."""
    comparison: Comparison | None = None
    """Against the best baseline; none where there is none or no truth."""
    selection_rows: tuple[NonNegativeInt, ...] = ()
    """Rows of the validation budget, by seed."""
    test_rows: NonNegativeInt = 0
    """Rows of the test split that figures rest on: where any truth is given, those whose truth is known."""


class EvaluationOutputs(Document):
    """What `evaluation` gives."""

    quality: QualityRef
    """The artifact: `quality.json` and the predictions."""
    table: QualityTable
    """The figures."""


class CostCandidate(Contract):
    """One model whose cost is measured."""

    circumstance: ClassVar[frozenset[str]] = frozenset({"model"})

    name: Name
    """Name for people; it counts, since it stands in the table that the report reads."""
    model: ModelRef
    """The model; a circumstance, since a cost does not depend on the values of the weights."""
    architecture: dict[str, Any] = {}
    """What the cost does depend on: task, model, number of outputs, preprocessing."""


class CostInputs(Document):
    """What is asked of `costs`."""

    candidates: tuple[CostCandidate, ...]
    """The models."""
    samples: SamplesRef
    """A domain, for batches of real samples."""
    host: dict[str, Any]
    """What the host is: processor, cores, accelerator, thread count, versions of torch. Figures hold for it alone."""
    repeats: PositiveInt = 30
    """Timed runs of each measurement, after warm-up."""


class Cost(Contract):
    """What one model costs on one host."""

    name: Name
    """Name for people."""
    parameters: NonNegativeInt
    """Number of weights."""
    macs: NonNegativeInt
    """Multiply-accumulate operations for one sample."""
    size_bytes: NonNegativeInt
    """Bytes of its weights on disk."""
    latency_ms: NonNegativeFloat
    """Median time of one sample, in milliseconds."""
    latency_p95_ms: NonNegativeFloat
    """95th percentile of it, in milliseconds."""
    throughput: NonNegativeFloat
    """Samples per second in batches of 32, by the median."""
    peak_memory_bytes: NonNegativeInt | None
    """Most memory that a batch of 32 took above the model's own, in bytes; none where it cannot be read."""


class CostTable(Document):
    """`cost.json`."""

    host: dict[str, Any]
    """What the host is."""
    costs: tuple[Cost, ...]
    """Costs by model."""


class CostOutputs(Document):
    """What `costs` gives."""

    cost: CostRef
    """The artifact."""
    table: CostTable
    """The figures."""


class Section(Contract):
    """One label set as shown in the report."""

    name: Name
    """Name in the spec."""
    teacher: Name | None
    """Who said it; None: others did together, or the set was made elsewhere."""
    fuse: tuple[Name, ...] = ()
    """Label sets that it was made of."""
    domain: Name
    """About what."""
    rows: NonNegativeInt
    """Labels in it."""
    fingerprint: Digest
    """Its name in the store, which `crossdistill labels show` takes."""
    digest: Digest
    """Root digest of the set."""


class GridSection(Contract):
    """One grid as shown in the report."""

    name: Name
    """Name of the student that has the grid."""
    points: dict[Name, dict[str, Any]]
    """Values by path of each point, by the name of its student."""


class ReportInputs(Document):
    """What is asked of `report`."""

    name: Name
    """Name of the project."""
    budgets: dict[Name, str] = {}
    """Label budget of each domain, as shown."""
    labels: tuple[Section, ...] = ()
    """Label sets."""
    qualities: Annotated[tuple[QualityRef, ...], Field()] = ()
    """Tables of quality, in the order shown."""
    grids: tuple[GridSection, ...] = ()
    """Grids whose points are among them."""
    rounds: RoundsSection | None = None
    """Rounds that led to the students."""
    costs: CostRef | None = None
    """Table of costs."""
    notes: tuple[str, ...] = ()
    """Sentences that the reader must know (warnings of the plan)."""


class Report(Document):
    """`report.json`."""

    name: Name
    """Name of the project."""
    budgets: dict[Name, str] = {}
    """Label budget of each domain, as shown."""
    labels: tuple[Section, ...] = ()
    """Label sets."""
    qualities: tuple[QualityTable, ...] = ()
    """Tables of quality."""
    grids: tuple[GridSection, ...] = ()
    """Grids whose points are among them."""
    rounds: RoundsSection | None = None
    """Rounds that led to the students."""
    costs: CostTable | None = None
    """Table of costs."""
    notes: tuple[str, ...] = ()
    """Sentences that the reader must know."""


class ReportRef(Ref):
    """A report: `report.json` and `report.md`."""

    kind: Literal["report"] = "report"
    """Tag of the reference."""


class ReportOutputs(Document):
    """What `report` gives."""

    report: ReportRef
    """The artifact."""
