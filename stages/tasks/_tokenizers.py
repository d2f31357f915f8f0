"""Tokenizers: how text becomes numbers, known by their content. Loads the `tokenizers` library where it is used.

A tokenizer is named in settings; its digest is filled in when they are checked, so it counts in every fingerprint
and a worker that would find another one refuses it.

Shapes: B texts, L numbers of a text.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping, Sequence
from functools import lru_cache
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from pydantic import PositiveInt, model_validator

from schemas.base import Contract, Digest
from schemas.canonical import digest, digest_bytes
from schemas.errors import CrossdistillError, DataError

if TYPE_CHECKING:
    import tokenizers

NOTHING = -1
"""What fills up a text that is shorter than L."""
HUB = "hub/"
"""What the name of a tokenizer on the Hugging Face hub begins with."""
WORDS, BUCKETS = "words", 16384
CHARACTERS, UNKNOWN = "characters", "\ufffd"
BPE, BPE_SIZE = "bpe", 4000
_WORD = re.compile(r"\w+|[^\w\s]")
_MASK = "[MASK]"


class Tokenizer(Contract):
    """How text becomes numbers."""

    name: str
    """`words` (hashed words, without a vocabulary), `characters` (of Latin scripts and simplified Chinese), `bpe`
    (learned from an example's texts), `minilm` (BERT's 30,522 word pieces), a `tokenizer.json` of the tokenizers
    library beside the spec, or `hub/NAME` for one of the Hugging Face hub."""
    buckets: PositiveInt | None = None
    """Numbers that `words` are hashed to; left out: 16,384."""
    revision: str | None = None
    """Commit, branch or tag of one on the hub; left out: its newest."""
    example: str | None = None
    """Example whose texts `bpe` is learned from."""
    columns: tuple[str, ...] | None = None
    """Columns of these texts."""
    size: PositiveInt | None = None
    """Most tokens of `bpe`; left out: 4,000."""
    lowercase: bool | None = None
    """Whether `bpe` brings texts to lower case: for reading, since they do not come back then."""
    digest: Digest | None = None
    """Digest of its content (of `bpe`, of its texts and how it is learned); filled in where it is left out."""

    @model_validator(mode="before")
    @classmethod
    def _known(cls, value: Any) -> Any:
        """A name alone is enough; the digest is that of what is there."""
        if isinstance(value, str):
            value = {"name": value}
        if not isinstance(value, Mapping) or not isinstance(name := value.get("name"), str):
            return value
        owners = dict.fromkeys(("example", "columns", "size", "lowercase"), name == BPE)
        owners |= {"buckets": name == WORDS, "revision": name.startswith(HUB)}
        for setting, owner in owners.items():
            if value.get(setting) is not None and not owner:
                raise ValueError(f"tokenizer '{name}' takes no `{setting}`")
        if name == BPE and not (value.get("example") and value.get("columns")):
            raise ValueError("tokenizer 'bpe' is learned from texts: give `example` and `columns`")
        if value.get("digest") is not None:
            return value
        try:
            return {**value, "digest": _digest(value)}
        except CrossdistillError as error:
            raise ValueError(str(error)) from None


class Encode(Protocol):
    """A tokenizer at work."""

    size: int
    """Numbers that it gives: 0 to size - 1."""
    mask: str | None
    """Text that stands for a hidden word; none: it knows no such thing."""
    end: int | None
    """Number that ends a text which a model says; none: what it gives cannot be said, since it has no way back."""

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the numbers, where there is a way back, each another's."""

    def decode(self, ids: Sequence[int]) -> str:
        """The text that numbers stand for, their end left out."""

    def __call__(self, texts: Sequence[str]) -> np.ndarray:
        """int64 (B, L): each text's numbers, cut off or filled up with NOTHING. A row depends on its text alone."""


class HashedWords:
    """Words and signs in lower case, each by a hash of its letters; number 0 is a hidden word."""

    mask: str | None = _MASK
    end: int | None = None

    def __init__(self, buckets: int, longest: int) -> None:
        self.size, self._longest = buckets, longest

    @property
    def names(self) -> tuple[str, ...]:
        raise NotImplementedError("a hash has no way back")

    def decode(self, ids: Sequence[int]) -> str:
        raise NotImplementedError("a hash has no way back")

    def __call__(self, texts: Sequence[str]) -> np.ndarray:
        return _filled([self._ids(text)[: self._longest] for text in texts], self._longest)

    def _ids(self, text: str) -> list[int]:
        parts = [[_bucket(word, self.size) for word in _WORD.findall(part.lower())] for part in text.split(_MASK)]
        return [number for part in parts for number in (0, *part)][1:]


class Characters:
    """A number for each character: nothing to learn, and every text of the alphabet comes back as it was.

    0 ends a text, 1 is a character out of the alphabet.
    """

    mask: str | None = None
    end: int | None = 0

    def __init__(self, longest: int) -> None:
        self._numbers = {sign: number for number, sign in enumerate(_alphabet(), start=2)}
        self._signs = ("", UNKNOWN, *self._numbers)
        self.size, self._longest = len(self._signs), longest

    def __call__(self, texts: Sequence[str]) -> np.ndarray:
        rows = [[self._numbers.get(sign, 1) for sign in text[: self._longest - 1]] for text in texts]
        return _filled([[*row, 0] for row in rows], self._longest)

    @property
    def names(self) -> tuple[str, ...]:
        return ("</s>", "<unk>", *self._signs[2:])

    def decode(self, ids: Sequence[int]) -> str:
        return "".join(self._signs[number] for number in ids)


class Library:
    """A tokenizer of the `tokenizers` library, with the signs that its models expect around a text."""

    def __init__(self, inner: tokenizers.Tokenizer, longest: int) -> None:
        inner.no_padding()
        inner.enable_truncation(longest)
        self._inner, self._longest = inner, longest
        self.size = int(inner.get_vocab_size())
        self.mask = next((mark for mark in ("[MASK]", "<mask>") if inner.token_to_id(mark) is not None), None)
        ends = (inner.token_to_id(mark) for mark in ("</s>", "[SEP]", "<eos>", "[EOS]", "<|endoftext|>"))
        self.end = next((number for number in ends if number is not None), None)

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(self._inner.id_to_token(number) or f"<{number}>" for number in range(self.size))

    def decode(self, ids: Sequence[int]) -> str:
        return str(self._inner.decode(list(ids)))

    def __call__(self, texts: Sequence[str]) -> np.ndarray:
        return _filled([found.ids for found in self._inner.encode_batch_fast(list(texts))], self._longest)


@lru_cache(maxsize=16)
def open_tokenizer(settings: Tokenizer, longest: int) -> Encode:
    """A tokenizer for texts of L = `longest` numbers at most; opened once a process.

    Raises DataError if it is gone, or is another than the settings' digest says.
    """
    name, value = settings.name, settings.dump()
    if name == WORDS:
        return HashedWords(settings.buckets or BUCKETS, longest)
    if name == CHARACTERS:
        return Characters(longest)
    from tokenizers import Tokenizer as Inner

    data = _content(value)
    found = _digest(value) if name == BPE else digest_bytes(data)
    if settings.digest not in (None, found):
        raise DataError(f"the tokenizer '{name}' is not the one that was referred to ({settings.digest}): plan again")
    try:
        return Library(Inner.from_buffer(data), longest)
    except Exception as error:  # noqa: BLE001 - the library raises a plain Exception
        raise DataError(f"the tokenizer '{name}' is no tokenizer.json that this release can read: {error}") from None


def _filled(rows: Sequence[Sequence[int]], longest: int) -> np.ndarray:
    ids_BL = np.full((len(rows), longest), NOTHING, np.int64)
    for row, ids in enumerate(rows):
        ids_BL[row, : len(ids)] = ids
    return ids_BL


def _digest(value: Mapping[str, Any]) -> str:
    from stages.tasks import _bpe, _minilm

    name = value["name"]
    if name == WORDS:
        return digest({"words": _WORD.pattern, "buckets": value.get("buckets") or BUCKETS})
    if name == CHARACTERS:
        return digest({"characters": _alphabet()})
    if name == BPE:
        return _bpe.digest_of(*_learned(value))
    return _minilm.TOKENIZER_DIGEST if name == _minilm.NAME else digest_bytes(_content(value))


def _learned(value: Mapping[str, Any]) -> tuple[str, tuple[str, ...], int, bool]:
    """The texts of a `bpe` and how it is learned."""
    columns = tuple(str(column) for column in value["columns"])
    return str(value["example"]), columns, value.get("size") or BPE_SIZE, bool(value.get("lowercase"))


def _content(value: Mapping[str, Any]) -> bytes:
    """The bytes of a `tokenizer.json`. Raises DataError."""
    from stages.tasks import _bpe, _minilm

    name, revision = str(value["name"]), value.get("revision")
    if name == _minilm.NAME:
        return _minilm.tokenizer()
    if name == BPE:
        return _bpe.learned(*_learned(value))
    if name.startswith(HUB):
        from tokenizers import Tokenizer as Inner

        try:
            inner = Inner.from_pretrained(name.removeprefix(HUB), revision=revision or "main")
        except Exception as error:  # noqa: BLE001 - the hub's client raises many things
            cause = str(error).strip().splitlines()[0]
            raise DataError(f"the tokenizer '{name}' cannot be had from the hub: {cause}") from None
        return str(inner.to_str()).encode()
    # Where a user's own modules are found, a tokenizer is found: beside the spec, here and in every worker.
    for folder in sys.path:
        path = Path(folder) / name
        if path.is_file():
            return path.read_bytes()
    raise DataError(
        f"no tokenizer is called '{name}', and no such file is beside the spec or on PYTHONPATH: give words, "
        "characters, bpe, minilm, hub/NAME or a tokenizer.json"
    )


@lru_cache(maxsize=1)
def _alphabet() -> str:
    """Signs of Latin scripts up to U+017F, general punctuation, and the 7,445 of GB 2312 (simplified Chinese), each
    once and in order of their code points."""
    ranges = (range(0x20, 0x7F), range(0xA0, 0x180), range(0x2010, 0x2028), range(0x2030, 0x205F))
    latin = {chr(point) for points in ranges for point in points}
    pairs = (bytes(pair) for pair in product(range(0xA1, 0xF8), range(0xA1, 0xFF)))
    return "".join(sorted(latin | set("".join(pair.decode("gb2312", "ignore") for pair in pairs))))


@lru_cache(maxsize=2**16)
def _bucket(word: str, buckets: int) -> int:
    """1 to buckets - 1: the same on every machine."""
    return 1 + int(digest_bytes(word.encode())[:15], 16) % max(1, buckets - 1)
