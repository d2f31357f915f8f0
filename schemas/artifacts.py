"""Artifacts: what a stage leaves behind, how others refer to it, and where it came from."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from pydantic import NonNegativeInt

from schemas.base import Contract, Digest, Document


class Ref(Contract):
    """A reference to what a stage made. Only the digest counts in a fingerprint: places may move."""

    circumstance: ClassVar[frozenset[str]] = frozenset({"uri", "fingerprint"})

    uri: str
    """Place of the artifact (the folder of its `artifact.json`), or of the store for a label set."""
    fingerprint: Digest
    """What was asked."""
    digest: Digest
    """What came out: blake2b-128 over the data's bytes."""


class SamplesRef(Ref):
    """Packed samples of a domain: inputs and ids, no truth."""

    kind: Literal["samples"] = "samples"
    """Tag of the reference."""


class TruthRef(Ref):
    """The true labels of a domain. Only budgets and the final evaluation are ever handed one."""

    kind: Literal["truth"] = "truth"
    """Tag of the reference."""


class SplitRef(Ref):
    """An overlay that says which split each row of a domain belongs to."""

    kind: Literal["split"] = "split"
    """Tag of the reference."""


class BudgetRef(Ref):
    """An overlay with the rows whose truth may be seen, and that truth."""

    kind: Literal["budget"] = "budget"
    """Tag of the reference."""


class ModelRef(Ref):
    """A model: `model.json` and `model.safetensors`."""

    kind: Literal["model"] = "model"
    """Tag of the reference."""


class LabelSetRef(Ref):
    """A label set in a store: its fingerprint names it, its root digest says what is in it."""

    kind: Literal["label-set"] = "label-set"
    """Tag of the reference."""


class WeightsRef(Contract):
    """A file of weights that was given, known by its bytes."""

    circumstance: ClassVar[frozenset[str]] = frozenset({"uri"})

    uri: str
    """Place of the file."""
    digest: Digest
    """blake2b-128 of its bytes."""


class ObjectInfo(Contract):
    """One stored object: enough to know that it is whole."""

    name: str
    """Path below the attempt's folder, with forward slashes."""
    size: NonNegativeInt
    """Bytes."""
    checksum: Digest
    """blake2b-128 of the bytes."""


class SeenInfo(Contract):
    """What is known of the rows that a model has learned from: nobody may be judged on them by its labels."""

    object: ObjectInfo
    """A `.npy` file of uint64 in rising order: the first 8 bytes of each row's content id."""
    rows: NonNegativeInt
    """How many there are, of different content."""
    whole: bool = True
    """Whether that is all: not where it was made of a model that does not say."""


class HeldOut(Contract):
    """A domain whose test rows are nobody's to learn from."""

    samples: SamplesRef
    """Inputs and ids."""
    split: SplitRef
    """Its splits."""
    name: str = ""
    """What people call it."""


class Provenance(Contract):
    """Where an artifact came from, without hosts, times or attempts."""

    package: str
    """Version of crossdistill that made it."""
    inputs: dict[str, Any]
    """The stage's inputs as they count in the fingerprint."""
    code: dict[str, str] = {}
    """Digest of each plug-in's source, by its name."""


class Artifact(Document):
    """`artifact.json`: written last, once; what it does not name does not exist."""

    stage: str
    """Stage that made it."""
    stage_version: int
    """Version of that stage's work; raised when the same inputs would give other outputs."""
    fingerprint: Digest
    """What was asked."""
    digest: Digest
    """What came out."""
    attempt: str
    """Name of the attempt that won: 128 random bits in hexadecimal."""
    objects: tuple[ObjectInfo, ...] = ()
    """The files of the attempt."""
    outputs: dict[str, Any]
    """The stage's outputs, in their own contract."""
    provenance: Provenance
    """Where it came from."""
