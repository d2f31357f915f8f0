"""What the units of a set share: `bases/DIGEST/basis.safetensors`, written once, known by its content.

A basis is small (rank * classes numbers). It is made from rows chosen by hash before the first unit, and kept when a
domain grows: sets over the same first shard find it under the key of what was asked (`bases/asked/KEY.json`).
"""

from __future__ import annotations

from safetensors.numpy import load, save

from schemas.errors import StoreError
from stages.labels.encodings.low_rank import Basis
from stages.places import Place


def _name(digest: str) -> str:
    return f"bases/{digest}/basis.safetensors"


def write_basis(place: Place, basis: Basis) -> None:
    """Keep a basis in a store; nothing if it is there."""
    data = save({"mean": basis.mean.astype("<f4"), "components": basis.components.astype("<f4")})
    place.put_new(_name(basis.digest), data)


def read_basis(place: Place, digest: str) -> Basis:
    """The basis with this digest. Raises StoreError if it is missing or damaged."""
    where = f"{place.uri}/{_name(digest)}"
    data = place.read_or_none(_name(digest))
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
