"""Stages `domains`, `splits` and `budgets`: packed samples, and overlays on them."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, NonNegativeInt, PositiveInt

from schemas.artifacts import BudgetRef, ObjectInfo, SamplesRef, SplitRef, TruthRef
from schemas.base import Contract, Digest, Document, Part
from schemas.spec import LabelBudget, Source, Split


class DomainInputs(Document):
    """What is asked of `domains`: pack the samples of one source."""

    circumstance: ClassVar[frozenset[str]] = frozenset({"source"})

    source: Source
    """Where the samples come from; a circumstance, since their bytes count."""
    source_digest: Digest | None = None
    """blake2b-128 over the source's files; left out: read from the source."""
    task: Part
    """Task whose samples these are, with its settings."""
    columns: dict[str, str] = {}
    """Column of the source by role."""
    classes: tuple[str, ...] | None = None
    """Class names in order; left out: the sorted values of the label column."""
    prepare: dict[str, Any] = {}
    """The task's settings for bringing samples into form."""
    on_bad_row: Literal["refuse", "quarantine"] = "refuse"
    """What becomes of bad rows."""
    shard_rows: PositiveInt = 2048
    """Samples per packed shard."""


class ShardInfo(Contract):
    """One packed shard: aligned files of samples and truth."""

    name: str
    """Name of the samples file (Arrow IPC, uncompressed)."""
    rows: PositiveInt
    """Samples in it."""
    digest: Digest
    """Content digest of its inputs and ids; part of the key of every unit of labels over it."""
    samples: ObjectInfo
    """The samples file."""
    truth: ObjectInfo | None = None
    """The truth file, row for row beside the samples."""


class PackedSlice(Document):
    """`packed/00003.json`: a slice that an ingest packed, until the domain is whole."""

    where: str
    """Folder of its files, beside this one."""
    samples: ObjectInfo | None
    """The samples file; none where every row is bad."""
    truth: ObjectInfo | None
    """The truth file: numbers in `classes`, row for row."""
    digest: Digest | None
    """Content digest of its inputs and ids."""
    bad: tuple[tuple[str, str], ...] = ()
    """Place and fault of each bad row."""
    classes: tuple[str, ...] = ()
    """Class names that its truth counts in."""
    given_ids: bool = False
    """Whether its sample ids are the source's."""
    sums: dict[str, float] = {}
    """Sum by role over all values (raw) or over lengths in bytes (encoded)."""


class DomainManifest(Document):
    """`manifest.json` of a packed domain."""

    rows: NonNegativeInt
    """Samples in all shards."""
    columns: dict[str, dict[str, Any]]
    """The task's columns: how a value is stored (type, shape, encoding), by role."""
    classes: tuple[str, ...] | None
    """Class names in the order of the truth's numbers; none where nothing is known of them."""
    class_counts: tuple[NonNegativeInt, ...] | None = None
    """Rows per class; none without truth. Shown to people, handed to no stage."""
    duplicates: NonNegativeInt = 0
    """Rows whose content stands in an earlier row."""
    quarantined: NonNegativeInt = 0
    """Bad rows set aside in `quarantine.jsonl`."""
    given_splits: bool = False
    """Whether the source came in one place per split (column `split` in the shards)."""
    statistics: dict[str, float] = {}
    """Statistics of the inputs by name (such as the mean of all pixels)."""
    shards: tuple[ShardInfo, ...]
    """The shards, in order."""


class DomainOutputs(Document):
    """What `domains` gives: samples and truth, each with its own digest."""

    samples: SamplesRef
    """Inputs and ids."""
    truth: TruthRef | None
    """True labels; none where the source has none."""
    rows: NonNegativeInt
    """Samples in all shards."""
    shards: NonNegativeInt
    """Number of packed shards."""
    classes: tuple[str, ...] | None
    """Class names in order."""
    duplicates: NonNegativeInt = 0
    """Rows whose content stands in an earlier row."""
    quarantined: NonNegativeInt = 0
    """Bad rows set aside."""


class SplitInputs(Document):
    """What is asked of `splits`."""

    samples: SamplesRef
    """The domain."""
    split: Split | None = None
    """Shares; none: the splits that the source came in."""


class SplitOutputs(Document):
    """What `splits` gives."""

    split: SplitRef
    """The overlay."""
    train: NonNegativeInt
    """Rows to train on."""
    validation: NonNegativeInt
    """Rows to choose on."""
    test: NonNegativeInt
    """Rows for the final evaluation."""


class BudgetInputs(Document):
    """What is asked of `budgets`: the rows whose truth may be seen, with that truth."""

    samples: SamplesRef
    """The domain."""
    split: SplitRef
    """Its splits."""
    truth: TruthRef | None = None
    """Its truth; none only for a budget of 0."""
    label_budget: LabelBudget | None = None
    """How much of it; none: all of train and validation."""
    seed: Annotated[int, Field(ge=0)] = 0
    """Seed of the draw; without a budget it changes nothing."""


class BudgetOutputs(Document):
    """What `budgets` gives."""

    budget: BudgetRef
    """The overlay."""
    train: NonNegativeInt
    """True labels for training."""
    validation: NonNegativeInt
    """True labels for choices."""
