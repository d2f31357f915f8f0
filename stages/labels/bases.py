"""What the units of a low-rank set share: one basis, made once before the first unit and known by its content.

    bases/DIGEST/basis.safetensors   its numbers (rank * classes float32 and a mean)
    bases/asked/KEY.json             put-if-absent: which basis answers what was asked

KEY counts who is asked and how, and the domain's first packed shard: growth appends shards, so a domain that grew
finds the basis that it had. Costs the teacher's pass over some thousand rows, chosen by hash.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from safetensors.numpy import load, save

from schemas.errors import StoreError
from schemas.labels import BasisChoice
from stages.artifacts import read_document
from stages.labels.encodings.low_rank import Basis, fit_basis
from stages.places import Place

BASIS_ROWS = 4096
"""Rows that a basis is made from, at least, or all; more for a high rank."""


def make_basis(place: Place, key: str, rank: int, logits: Callable[[], np.ndarray]) -> Basis:
    """The basis of a key in a store; made from `logits()` (N, C) if there is none. Writers that race adopt one."""
    name = f"bases/asked/{key}.json"
    if (found := read_document(place, name, BasisChoice, "labels")) is None:
        basis = fit_basis(logits(), rank)
        write_basis(place, basis)
        place.put_new(name, BasisChoice(basis=basis.digest).to_json())
        found = read_document(place, name, BasisChoice, "labels")
        if found is None:
            raise StoreError(f"{place.uri}/{name} was removed while it was written: run again")
    return read_basis(place, found.basis)


def basis_rows(rank: int) -> int:
    """Rows to make a basis of this rank from, at least."""
    return max(BASIS_ROWS, 4 * rank)


def write_basis(place: Place, basis: Basis) -> None:
    """Keep a basis in a store; nothing if it is there."""
    data = save({"mean": basis.mean.astype("<f4"), "components": basis.components.astype("<f4")})
    place.put_new(basis_name(basis.digest), data)


def basis_name(digest: str) -> str:
    """The object of a basis, below the store."""
    return f"bases/{digest}/basis.safetensors"


def read_basis(place: Place, digest: str) -> Basis:
    """The basis with this digest. Raises StoreError if it is missing or damaged."""
    where = f"{place.uri}/{basis_name(digest)}"
    data = place.read_or_none(basis_name(digest))
    if data is None:
        raise StoreError(f"{where} is missing: label again with --force labels")
    try:
        arrays = load(data)
        basis = Basis(arrays["mean"], arrays["components"])
        whole = basis.digest == digest
    except Exception as error:  # noqa: BLE001 (safetensors raises its own on a damaged file)
        raise StoreError(f"{where} is damaged ({error}): label again with --force labels") from None
    if not whole:
        raise StoreError(f"{where} is damaged: label again with --force labels")
    return basis
