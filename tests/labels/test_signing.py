"""Signed tags: made and checked with keys as OpenSSH and OpenSSL write them; any change of an entry is seen."""

from __future__ import annotations

from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.rsa import generate_private_key

from schemas.errors import StoreError
from schemas.labels import Signature, Tag
from stages.labels.signing import check_signature, sign
from stages.places import Place
from tests.labels.fakes import FakeSamples, OracleTeacher, make_fake_set
from tests.labels.test_commands import refused, said

ENTRY = Tag(fingerprint="1" * 32, digest="2" * 32, quality={"accuracy": 0.9}, licence="MIT")
PLAIN = serialization.NoEncryption()
SSH, PEM = serialization.PrivateFormat.OpenSSH, serialization.PrivateFormat.PKCS8


def write(folder: Path, seed: int, style: serialization.PrivateFormat = SSH) -> Path:
    """A private key and, beside it, KEY.pub."""
    key, path = Ed25519PrivateKey.from_private_bytes(bytes([seed]) * 32), folder / f"key-{seed}"
    path.write_bytes(key.private_bytes(serialization.Encoding.PEM, style, PLAIN))
    public = key.public_key()
    if style is SSH:
        data = public.public_bytes(serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH)
    else:
        data = public.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    path.with_suffix(".pub").write_bytes(data)
    return path


@pytest.mark.parametrize("style", [SSH, PEM])
def test_a_signature_is_of_the_name_and_of_all_that_is_said(tmp_path: Path, style: serialization.PrivateFormat) -> None:
    key = write(tmp_path, 1, style)
    signed = sign("digits", ENTRY, key)
    assert check_signature("digits", signed, key.with_suffix(".pub")) == signed.signature.key  # type: ignore[union-attr]
    assert sign("digits", ENTRY, key) == signed  # Ed25519 draws nothing: publishing twice adds no entry
    changes = {
        "fingerprint": "3" * 32,
        "digest": "4" * 32,
        "quality": {},
        "licence": "",
        "notes": "better",
        "publisher": "me",
    }
    assert set(changes) == set(Tag.model_fields) - {"version", "signature"}
    for field, value in changes.items():
        with pytest.raises(StoreError, match="not what was signed"):
            check_signature("digits", signed.model_copy(update={field: value}))
    with pytest.raises(StoreError, match="not what was signed"):
        check_signature("letters", signed)
    with pytest.raises(StoreError, match="is signed by another key"):
        check_signature("digits", signed, write(tmp_path, 2).with_suffix(".pub"))
    with pytest.raises(StoreError, match="is not signed"):
        check_signature("digits", ENTRY)


def test_the_first_vector_of_the_standard_is_a_signature_here() -> None:
    """RFC 8032, 7.1, test 1, is of the empty message: as a signature of this entry it must not do."""
    key = "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a"
    value = (
        "e5564300c360ac729086e2cc806e828a84877f1eb8e5d974d873e065224901555fb8821590a33bacc61e39701cf9b46bd25bf5f0595bbe2"
        "4655141438e7a100b"
    )
    with pytest.raises(StoreError, match="not what was signed"):
        check_signature("digits", ENTRY.model_copy(update={"signature": Signature(key=key, value=value)}))


def test_what_is_no_key_is_refused(tmp_path: Path) -> None:
    rsa, locked, empty = tmp_path / "rsa", tmp_path / "locked", tmp_path / "empty"
    rsa.write_bytes(generate_private_key(65537, 2048).private_bytes(serialization.Encoding.PEM, PEM, PLAIN))
    word = serialization.BestAvailableEncryption(b"word")
    locked.write_bytes(
        Ed25519PrivateKey.from_private_bytes(bytes(32)).private_bytes(serialization.Encoding.PEM, PEM, word)
    )
    empty.write_bytes(b"")
    for path, message in (
        (rsa, "no private Ed25519 key"),
        (empty, "no private Ed25519 key"),
        (locked, "locked with a password"),
        (tmp_path / "none", "cannot be read: no such file"),
        (write(tmp_path, 1).with_suffix(".pub"), "no private Ed25519 key"),
    ):
        with pytest.raises(StoreError, match=message):
            sign("digits", ENTRY, path)
    with pytest.raises(StoreError, match="no public Ed25519 key"):
        check_signature("digits", sign("digits", ENTRY, tmp_path / "key-1"), tmp_path / "key-1")


def test_a_publisher_signs_and_a_reader_checks(tmp_path: Path) -> None:
    own, shared = str(tmp_path / "own"), str(tmp_path / "shared")
    labels = make_fake_set(Place(own), FakeSamples((3,)), OracleTeacher())
    key, other = write(tmp_path, 1), write(tmp_path, 2)
    said("publish", own, labels.fingerprint, "--to", shared, "--tag", "digits", "--sign", str(key))
    assert "signed by that key" in said("verify", shared, "digits", "--key", f"{key}.pub")
    assert "signed by: " in said("show", shared, "digits")
    assert "is signed by another key" in refused("verify", shared, "digits@v1", "--key", f"{other}.pub")
    assert "not with" in refused("verify", shared, labels.fingerprint, "--key", f"{key}.pub")
    assert "--tag" in refused("publish", own, labels.fingerprint, "--to", shared, "--sign", str(key))
