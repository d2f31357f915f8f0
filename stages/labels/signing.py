"""Signatures of tags: whoever holds the key stands behind the set that a tag means.

Ed25519 (RFC 8032) by the `cryptography` package, with keys as OpenSSH and OpenSSL write them. What is signed is the
tag's name and all of its entry: the root digest in it answers for every byte of the labels.
"""

from __future__ import annotations

from pathlib import Path

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from schemas.canonical import canonical_json
from schemas.errors import StoreError
from schemas.labels import Signature, Tag

_MAKE = "make a key with `ssh-keygen -t ed25519 -N '' -f KEY`"


def sign(name: str, entry: Tag, key: Path) -> Tag:
    """The entry with a signature under a tag's name. Raises StoreError if the file holds no private Ed25519 key."""
    private = _private(key)
    public = private.public_key().public_bytes_raw().hex()
    return entry.model_copy(update={"signature": Signature(key=public, value=private.sign(_said(name, entry)).hex())})


def check_signature(name: str, entry: Tag, key: Path | None = None) -> str:
    """The public key (hexadecimal) that signed a tag's entry: `key`, where it is given.

    Raises StoreError if the entry is not signed, was signed by another key, or is not what was signed.
    """
    if entry.signature is None:
        raise StoreError(f"tag '{name}' is not signed: do not trust it, or ask its publisher for `publish --sign`")
    if key is not None and _public(key).public_bytes_raw().hex() != entry.signature.key:
        raise StoreError(f"tag '{name}' is signed by another key ({entry.signature.key}) than {key}: do not trust it")
    public = Ed25519PublicKey.from_public_bytes(bytes.fromhex(entry.signature.key))
    try:
        public.verify(bytes.fromhex(entry.signature.value), _said(name, entry))
    except InvalidSignature:
        raise StoreError(f"tag '{name}' is not what was signed: do not trust it") from None
    return entry.signature.key


def _said(name: str, entry: Tag) -> bytes:
    return canonical_json({"tag": name, "entry": entry.model_dump(mode="json", exclude={"signature"})})


def _private(path: Path) -> Ed25519PrivateKey:
    data = _read(path)
    for load in (serialization.load_ssh_private_key, serialization.load_pem_private_key):
        try:
            key = load(data, password=None)
        except TypeError:
            raise StoreError(f"{path} is locked with a password: give a key without one; {_MAKE}") from None
        except (ValueError, UnsupportedAlgorithm):
            continue
        if isinstance(key, Ed25519PrivateKey):
            return key
    raise StoreError(f"{path} holds no private Ed25519 key: {_MAKE}")


def _public(path: Path) -> Ed25519PublicKey:
    data = _read(path)
    for load in (serialization.load_ssh_public_key, serialization.load_pem_public_key):
        try:
            key = load(data)
        except (ValueError, UnsupportedAlgorithm):
            continue
        if isinstance(key, Ed25519PublicKey):
            return key
    raise StoreError(f"{path} holds no public Ed25519 key: give the publisher's KEY.pub")


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise StoreError(f"{path} cannot be read: {(error.strerror or 'unknown error').lower()}") from None
