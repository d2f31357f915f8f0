"""The lock of a spec: which label set each of its names meant when it was first used."""

from __future__ import annotations

from schemas.base import Contract, Digest, Document, Name


class LockedLabels(Contract):
    """One label set that a spec takes from somebody's store."""

    store: str
    """The store, as the spec names it."""
    name: str
    """Tag or fingerprint, as the spec names it."""
    fingerprint: Digest
    """Fingerprint of the set that it meant."""
    digest: Digest
    """Root digest of that set."""


class Lock(Document):
    """`SPEC.lock`, beside the spec and kept with it."""

    labels: dict[Name, LockedLabels] = {}
    """Label sets by their name in the spec."""
