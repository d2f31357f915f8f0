"""Stage `labels`, and the documents of a store: label schema, receipt, plan and manifest of a set."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveInt

from schemas.artifacts import LabelSetRef, ModelRef, ObjectInfo, Provenance, SamplesRef
from schemas.base import Contract, Digest, Document, Part
from schemas.encodings import Dense, Encoding

STORE_VERSION = 1
"""Version of the store's layout."""


class LabelsInputs(Document):
    """What is asked of `labels`: all that one teacher says about a domain."""

    circumstance: ClassVar[frozenset[str]] = frozenset({"store"})

    task: Part
    """Task with its settings."""
    teacher: ModelRef
    """Who says it."""
    samples: SamplesRef
    """About what."""
    encoding: Encoding = Dense()
    """How it is kept."""
    precision: Literal["float32", "bfloat16"] = "float32"
    """Precision that the teacher computes in."""
    batch_size: PositiveInt = 256
    """Rows per forward pass; batches never span shards."""
    view: Literal[0] = 0
    """The view that is labelled."""
    store: str | None = None
    """Place of the store; left out: inside the workspace."""


class LabelsOutputs(Document):
    """What `labels` gives."""

    labels: LabelSetRef
    """The label set."""
    rows: NonNegativeInt
    """Labels in it."""
    units: NonNegativeInt
    """Units that it lists."""


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
    description: str
    """What it holds, and in which unit."""


class LabelSchema(Document):
    """What a label is: its classes, shape and fields, and how it is kept."""

    shape: Literal["sample"] = "sample"
    """One distribution per sample."""
    classes: tuple[str, ...]
    """Class names in the order of the logits."""
    encoding: Encoding
    """How it is kept."""
    fields: tuple[FieldSchema, ...]
    """The arrays of a unit that hold its labels; ids and exact rows stand beside them in every encoding."""


class UnitStatistics(Contract):
    """Mergeable statistics of a unit's labels; sums over rows, so that units add up."""

    rows: NonNegativeInt = 0
    """Labels counted."""
    top1_counts: tuple[NonNegativeInt, ...] = ()
    """Rows whose largest logit is this class."""
    entropy_sum: NonNegativeFloat = 0.0
    """Sum of the entropies at temperature 1, in nats."""
    confidence_sum: NonNegativeFloat = 0.0
    """Sum of the largest probabilities."""
    unmapped_mass_sum: NonNegativeFloat = 0.0
    """Sum of the probability on classes that the class map leaves out."""
    fidelity_rows: NonNegativeInt = 0
    """Rows whose exact float32 outputs are stored beside."""
    full_kl_sums: dict[str, NonNegativeFloat] = {}
    """Sum over the fidelity rows of KL(exact || decoded) over all classes in nats, by temperature."""
    bucket_kl_sums: dict[str, NonNegativeFloat] = {}
    """The same over kept classes and one tail bucket."""
    top1_agreements: NonNegativeInt = 0
    """Fidelity rows whose largest class survives the encoding."""
    largest_error: NonNegativeFloat = 0.0
    """Largest absolute error of a decoded logit on the fidelity rows."""


class Receipt(Document):
    """`units/KEY/receipt.json`: put-if-absent; a unit without one is unfinished."""

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
    rows: PositiveInt
    """Labels that it will hold."""


class SetPlan(Document):
    """`sets/FINGERPRINT/plan.json`: what was asked, and the units that it needs."""

    fingerprint: Digest
    """Fingerprint of the set."""
    label_schema: LabelSchema
    """What a label is."""
    units: tuple[UnitPlan, ...]
    """The units, in the order of the domain's shards."""
    fidelity_threshold: NonNegativeInt
    """Rows whose content id begins with 32 bits below this number are kept exactly; 2**32 takes all. In no key."""
    provenance: Provenance
    """What was asked, in full."""


class SetManifest(Document):
    """`sets/FINGERPRINT/set.json`: written last; a set without one does not exist."""

    fingerprint: Digest
    """Fingerprint of the set."""
    digest: Digest
    """Root digest over unit keys, rows, ids digests and objects; the same for a resumed or copied set."""
    rows: NonNegativeInt
    """Labels in the set."""
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


class StoreManifest(Document):
    """`store.json`: says that this place is a label store, and in which layout."""

    layout: Literal[1] = 1
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
