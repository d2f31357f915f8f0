"""Canonical JSON, fingerprints and digests: one text for one meaning.

A fingerprint says what was asked: blake2b-128 of the canonical JSON of a contract without its circumstances
(`Contract.circumstance`: places, worker counts, devices). Costs a few microseconds per field.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel

from schemas.errors import ContractError

DIGEST_BYTES = 16


def digest_bytes(*chunks: bytes) -> str:
    """blake2b-128 of the chunks, each preceded by its length, so that no two lists of chunks collide."""
    hasher = hashlib.blake2b(digest_size=DIGEST_BYTES)
    for chunk in chunks:
        hasher.update(len(chunk).to_bytes(8, "little"))
        hasher.update(chunk)
    return hasher.hexdigest()


def digest(value: Any) -> str:
    """blake2b-128 of the canonical JSON of `value` (a contract, or plain values)."""
    return digest_bytes(canonical_json(value))


def canonical_json(value: Any) -> bytes:
    """The one text of a value: sorted keys, no spaces, shortest floats, circumstances left out.

    Raises ContractError naming the field that has no canonical form (not finite, bytes, a set, a callable).
    """
    plain = identity(value)
    return json.dumps(plain, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False).encode()


def identity(value: Any, where: str = "value") -> Any:
    """`value` as plain JSON values, without the circumstances of the contracts in it."""
    if isinstance(value, BaseModel):
        hidden: frozenset[str] = getattr(type(value), "circumstance", frozenset())
        kept = {
            field.alias or name: identity(getattr(value, name), f"{where}.{name}")
            for name, field in type(value).model_fields.items()
            if name not in hidden
        }
        extra = {key: identity(item, f"{where}.{key}") for key, item in (value.model_extra or {}).items()}
        return {**kept, **extra}
    if value is None or isinstance(value, bool | str):
        return value
    if isinstance(value, int):
        return int(value)
    if isinstance(value, float):
        if not math.isfinite(value):
            raise ContractError(f"{where} is {value}, which has no canonical form: give a finite number")
        return 0.0 if value == 0.0 else float(value)
    if isinstance(value, list | tuple):
        return [identity(item, f"{where}[{index}]") for index, item in enumerate(value)]
    if isinstance(value, Mapping):
        for key in value:
            if not isinstance(key, str):
                raise ContractError(f"{where} has the key {key!r}, which is no text: keys of a setting are text")
        return {key: identity(item, f"{where}.{key}") for key, item in value.items()}
    raise ContractError(f"{where} is a {type(value).__name__}, which has no canonical form: use JSON values")
