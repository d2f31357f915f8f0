"""Stage `labels`, and the documents of a store: label schema, receipt, plan and manifest of a set."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import (
    BeforeValidator,
    Field,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    model_validator,
)

from schemas.artifacts import LabelSetRef, ModelRef, ObjectInfo, Provenance, SamplesRef, SeenInfo, SplitRef
from schemas.base import Classes, Contract, Digest, Document, Fraction, Part
from schemas.canonical import digest
from schemas.encodings import Dense, Encoding

LAYOUT = 2
"""Version of the store's layout."""


def _words(value: Any) -> Any:
    """Keys as YAML and Python read them (`{2: 0.01}`) as words."""
    if not isinstance(value, dict):
        return value
    return {f"{key:g}" if isinstance(key, int | float) else key: item for key, item in value.items()}


Divergence = Annotated[dict[Literal["1", "2", "4"], NonNegativeFloat], BeforeValidator(_words)]
"""Largest mean divergence by temperature, in nats."""


def _weights_or(*words: str) -> BeforeValidator:
    def check(value: Any) -> Any:
        numbers = isinstance(value, list | tuple) and all(type(item) in (int, float) and item > 0 for item in value)
        if value not in words and not numbers:
            raise ValueError(f"weights are numbers above 0, one a set, {' '.join(f'or `{word}`' for word in words)}")
        return value

    return BeforeValidator(check)


Weights = Annotated[tuple[PositiveFloat, ...] | Literal["confidence"], _weights_or("confidence")]
"""Weights of label sets that become one."""
AskedWeights = Annotated[
    tuple[PositiveFloat, ...] | Literal["confidence", "selection"], _weights_or("confidence", "selection")
]
"""The same as a spec asks for them: with `selection` each student finds its own, which no set can hold."""
Space = Literal["probability", "logit"]
Ids = Literal["intersection", "union"]


class Requirements(Contract):
    """How exact a label set must be: one that misses a bound is refused, its units kept."""

    full_kl: Divergence = {}
    """Largest mean KL over all classes, by temperature 1, 2 or 4."""
    bucket_kl: Divergence = {}
    """Largest mean KL over kept classes and one tail bucket, by temperature 1, 2 or 4."""
    top1_agreement: Fraction = 0.0
    """Least share of labels whose most likely class survives the encoding."""


class Views(Contract):
    """How many augmented readings of each sample are labelled, and how they come to be."""

    count: PositiveInt = 1
    """Views of each sample; view 0 is the sample itself."""
    seed: NonNegativeInt = 0
    """Seed of the parameters, which belong to (seed, `content_id`, view)."""
    settings: dict[str, Any] = {}
    """The task's augmentation settings (such as crop, flip, rotation, colour); every view but 0 is drawn from them."""


class Replay(Contract):
    """One view as it was when the set was made, so that a reader can tell whether it sees the same."""

    position: NonNegativeInt
    """The sample, by its place in the set."""
    view: PositiveInt
    """The view."""
    sketch: tuple[float, ...]
    """A few numbers that tell an input from another (`stages.labels.views.sketch`), without showing it."""


class LabelShape(Contract):
    """What one label stands for."""

    kind: Literal["sample", "token", "pixel", "box"] = "sample"
    """One distribution per sample, or per token, pixel of a grid, or box of it."""
    grid: tuple[PositiveInt, ...] = ()
    """Rows and columns of the grid, with `pixel` only; it may be coarser than the picture."""

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if len(self.grid) != (2 if self.kind == "pixel" else 0):
            raise ValueError("`grid` is two numbers with `pixel`, and goes with nothing else")
        return self

    @property
    def ragged(self) -> bool:
        """Whether samples differ in their number of labels."""
        return self.kind in ("token", "box")


FEATURES, ENTROPY, MARGIN, SAID = "features", "entropy", "margin", "said"
"""Fields that may stand beside labels: what the teacher's head reads, how hard a label is by its own word, and the
class that a teacher took for an item before it came to the next one."""
VIEWS = "views"
"""What a method asks for that reads all views of a sample: log-probabilities at temperature 1, a row a view."""


class Extra(Contract):
    """A field that stands beside the labels, whatever their encoding. It never rests on truth."""

    name: str
    """Name of the array: `entropy` and `margin` are worked out from the logits, others come from the teacher."""
    width: PositiveInt | None = None
    """Numbers per row; none for a single one."""
    dtype: Literal["float16", "float32", "uint8", "uint16", "uint32"] = "float32"
    """Type of one number."""
    per: Literal["sample", "label"] = "label"
    """Whether it belongs to a sample or to each of its labels."""
    description: str = ""
    """What it holds."""


class Fusion(Contract):
    """How several label sets become one."""

    sets: Annotated[tuple[LabelSetRef, ...], Field(min_length=2)]
    """The sets; classes, and where nobody names samples their order too, are those of the first."""
    weights: Weights
    """Weight of each set, or `confidence`: each label's weight is its own largest probability."""
    space: Space = "probability"
    """What is averaged: probabilities at temperature 1, or their logarithms."""
    ids: Ids = "intersection"
    """Samples of the new set: those that every set speaks of, or any (the others' weights then make up the whole)."""

    @model_validator(mode="after")
    def _each_once(self) -> Self:
        if self.weights != "confidence" and len(self.weights) != len(self.sets):
            raise ValueError(f"{len(self.sets)} sets have {len(self.sets)} weights, not {len(self.weights)}")
        if len({item.digest for item in self.sets}) < len(self.sets):
            raise ValueError("a label set stands in it twice: give it more weight instead")
        return self


class Names(Contract):
    """What people call those who took part; nothing rests on it."""

    teacher: str = ""
    """Who speaks."""
    model: str = ""
    """What it is built like."""
    trained_on: tuple[str, ...] = ()
    """Domains that it was trained on or carried over to."""
    domain: str = ""
    """About what it speaks."""


class LabelsInputs(Document):
    """What is asked of `labels`: what one teacher says about a domain, what others said together, or a given set."""

    circumstance: ClassVar[frozenset[str]] = frozenset({"store", "require", "split", "names"})

    task: Part
    """Task with its settings."""
    teacher: ModelRef | None = None
    """Who says it, where it is asked."""
    given: LabelSetRef | None = None
    """The set, where somebody else made it; it stays where it is."""
    fuse: Fusion | None = None
    """The sets, where others are made one."""
    samples: SamplesRef
    """About what."""
    encoding: Encoding = Dense()
    """How it is kept."""
    precision: Literal["float32", "bfloat16"] = "float32"
    """Precision that the teacher computes in."""
    batch_size: PositiveInt = 256
    """Rows per forward pass; batches never span shards."""
    views: Views = Views()
    """The readings of each sample that are labelled."""
    difficulty: tuple[Literal["entropy", "margin"], ...] = ()
    """How hard each label is by the teacher's own word, stored beside it."""
    features: Literal["float16", "float32"] | None = None
    """Type of the teacher's penultimate features, stored beside the labels; none: they are not."""
    require: Requirements = Requirements()
    """How exact the set must be."""
    split: SplitRef | None = None
    """Splits of the samples: labels of a teacher that learned from their test rows are refused."""
    names: Names = Names()
    """What people call who speaks, and about what; on the label card."""
    store: str | None = None
    """Place of the store; left out: inside the workspace."""

    @model_validator(mode="after")
    def _one_way(self) -> Self:
        if [self.teacher, self.given, self.fuse].count(None) != 2:
            raise ValueError("labels come from a `teacher`, are `given`, or `fuse` others: one of these")
        return self


class LabelsOutputs(Document):
    """What `labels` gives."""

    labels: LabelSetRef
    """The label set."""
    rows: NonNegativeInt
    """Labels in it."""
    units: NonNegativeInt
    """Units that it lists."""
    classes: tuple[str, ...]
    """Class names in the order of the logits."""
    views: Views = Views()
    """The readings of each sample that it holds: students replay them."""


class FieldSchema(Contract):
    """One array of a unit."""

    circumstance: ClassVar[frozenset[str]] = frozenset({"description"})

    name: str
    """Name of the array."""
    dtype: str
    """Numpy type of one value, as stored."""
    shape: tuple[PositiveInt, ...] = ()
    """Shape of one row."""
    bytes_per_row: NonNegativeInt
    """Bytes of one row on disk."""
    per: Literal["sample", "label", "entry"] = "label"
    """What a row stands for: a sample, a label, or one of the entries that the array `kept` counts per label. Labels
    of a sample or of a grid lie in one row of it; those of tokens and boxes one after another, counted by `items`."""
    description: str
    """What it holds, and in which unit."""


class LabelSchema(Document):
    """What a label is: its classes, shape and fields, and how it is kept."""

    VERSION: ClassVar[int] = 2

    shape: LabelShape = LabelShape()
    """What one label stands for."""
    classes: Classes
    """Class names in the order of the logits."""
    encoding: Encoding
    """How it is kept."""
    basis: Digest | None = None
    """Digest of what the encoding shares between units, below `bases/`."""
    fields: tuple[FieldSchema, ...]
    """The arrays of a unit that hold its labels; ids and exact rows stand beside them in every encoding."""


class UnitStatistics(Contract):
    """Mergeable statistics of a unit's labels; sums over rows, so that units add up."""

    rows: NonNegativeInt = 0
    """Samples counted."""
    labels: NonNegativeInt = 0
    """Labels counted: as many as samples, unless there is one per token, pixel or box."""
    entries: NonNegativeInt = 0
    """Entries counted, where their number differs from label to label."""
    top1_counts: tuple[NonNegativeInt, ...] = ()
    """Labels whose largest logit is this class."""
    entropy_sum: NonNegativeFloat = 0.0
    """Sum of the entropies in nats, at temperature 1 or the smallest that the labels can be read at."""
    confidence_sum: NonNegativeFloat = 0.0
    """Sum of the largest probabilities."""
    unmapped_mass_sum: NonNegativeFloat = 0.0
    """Sum of the probability on classes that the class map leaves out."""
    fidelity_rows: NonNegativeInt = 0
    """Labels whose exact float32 outputs are stored beside."""
    full_kl_sums: dict[str, NonNegativeFloat] = {}
    """Sum over the fidelity rows of KL(exact || decoded) over all classes in nats, by temperature (1, 2 and 4, as far
    as the labels can be read there); the tail is spread evenly over the classes not kept."""
    bucket_kl_sums: dict[str, NonNegativeFloat] = {}
    """The same over kept classes and one tail bucket."""
    top1_agreements: NonNegativeInt = 0
    """Fidelity rows whose largest class survives the encoding."""
    largest_error: NonNegativeFloat = 0.0
    """Largest absolute error of a decoded probability on the fidelity rows, where entropies are taken."""


class Receipt(Document):
    """`units/KEY/receipt.json`: put-if-absent; a unit without one is unfinished."""

    VERSION: ClassVar[int] = 2

    key: Digest
    """Key of the unit."""
    attempt: str
    """Attempt that won."""
    rows: PositiveInt
    """Labels in the unit."""
    ids_digest: Digest
    """blake2b-128 over the sample ids and content ids, in order."""
    objects: tuple[ObjectInfo, ...]
    """Every file of the unit."""
    statistics: UnitStatistics
    """What the labels look like, and how exact they are."""


class UnitPlan(Contract):
    """One unit that a set needs."""

    key: Digest
    """Key of the unit."""
    shard: str
    """Name of the packed shard that it labels."""
    shard_digest: Digest
    """Content digest of that shard."""
    view: NonNegativeInt = 0
    """View that it labels."""
    rows: PositiveInt
    """Samples that it will label."""


class SetPlan(Document):
    """`sets/FINGERPRINT/plan.json`: what was asked, and the units that it needs."""

    VERSION: ClassVar[int] = 2

    fingerprint: Digest
    """Fingerprint of the set."""
    label_schema: LabelSchema
    """What a label is."""
    views: Views = Views()
    """The readings of each sample."""
    units: tuple[UnitPlan, ...]
    """The units: view by view, each in the order of the domain's shards."""
    fidelity_threshold: NonNegativeInt
    """Samples whose content id begins with 32 bits below this number are measured; 2**32 takes all. In no key."""
    fidelity_labels: PositiveInt = 1
    """Labels of such a sample whose exact outputs are kept, at most; drawn by hash. In no key."""
    provenance: Provenance
    """What was asked, in full."""
    parents: tuple[Digest, ...] = ()
    """Root digests of the sets that it was made from."""


class Origin(Contract):
    """Where a set comes from, for people, and what it must not be judged on. In no fingerprint, key or root digest."""

    names: Names = Names()
    """What people call those who took part."""
    seen: SeenInfo | None = None
    """Rows that its teachers learned from, in a file beside the manifest; none where nobody says."""


class SetManifest(Document):
    """`sets/FINGERPRINT/set.json`: written last; a set without one does not exist."""

    VERSION: ClassVar[int] = 3

    fingerprint: Digest
    """Fingerprint of the set."""
    digest: Digest
    """Root digest over unit keys, rows, ids digests and objects; the same for a resumed or copied set."""
    rows: NonNegativeInt
    """Samples in the set."""
    views: Views = Views()
    """The readings of each sample."""
    replays: tuple[Replay, ...] = ()
    """Some of the views, spread over the set, to be compared before anything is trained on them."""
    units: NonNegativeInt
    """Units in the set."""
    label_schema: LabelSchema
    """What a label is."""
    index: ObjectInfo
    """The receipts, compacted: `index-DIGEST.parquet`."""
    statistics: UnitStatistics
    """Sums over all units."""
    teacher: Digest = Field(description="Digest of the teacher that said it.")
    samples: Digest = Field(description="Content digest of the samples that it speaks of.")
    provenance: Provenance
    """Where it came from."""
    parents: tuple[Digest, ...] = ()
    """Root digests of the sets that it was made from."""
    origin: Origin = Origin()
    """Where it comes from, for people, and what it must not be judged on."""
    seal: Digest
    """Digest of all fields but this one, by which an edit is seen."""

    def unsealed(self) -> str:
        """What `seal` must be: blake2b-128 of the canonical JSON of the other fields."""
        return digest(self.model_dump(mode="json", exclude={"seal"}))

    @classmethod
    def sealed(cls, **fields: Any) -> Self:
        """A manifest with its seal."""
        open_ = cls(**fields, seal="0" * 32)
        return open_.model_copy(update={"seal": open_.unsealed()})


class Signature(Contract):
    """Who stands behind a tag's entry (Ed25519)."""

    key: str = Field(pattern="^[0-9a-f]{64}$")
    """The public key."""
    value: str = Field(pattern="^[0-9a-f]{128}$")
    """The signature of the tag's name and entry."""


class Tag(Document):
    """`tags/NAME/000001.json`: which set a name means, and what its publisher says of it."""

    fingerprint: Digest
    """Fingerprint of the set."""
    digest: Digest
    """Root digest of the set."""
    quality: dict[str, float] = {}
    """Figures of the teacher by name, such as `accuracy on target`."""
    licence: str = ""
    """Terms of use."""
    notes: str = ""
    """Anything else that users should know."""
    publisher: str = ""
    """Who says so."""
    signature: Signature | None = None
    """Who stands behind all of this."""


class BasisChoice(Document):
    """`bases/asked/KEY.json`: which basis answers what was asked."""

    basis: Digest
    """Digest of the basis."""


class StoreManifest(Document):
    """`store.json`: says that this place is a label store, and in which layout."""

    VERSION: ClassVar[int] = 2

    layout: Literal[2] = 2
    """Version of the layout."""


class UnitResult(Contract):
    """What one labelling actor answers for one unit."""

    key: Digest
    """Key of the unit."""
    made: bool
    """Whether this attempt won; else another's receipt was adopted."""
    rows: NonNegativeInt
    """Labels in the unit."""
    seconds: NonNegativeFloat
    """Wall time of the unit; for events only."""
