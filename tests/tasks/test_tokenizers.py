"""Tokenizers that give texts back: characters, and byte-pair encodings learned from an example."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from schemas.errors import DataError
from stages.domains.examples import EXAMPLES
from stages.domains.examples.base import Example
from stages.tasks import _bpe
from stages.tasks._tokenizers import NOTHING, Library, Tokenizer, open_tokenizer

TEXTS = ["Insert table", "insert a table", "Delete table", "Données du tableau", "插入表格", "删除表格", "表格数据"]


@pytest.fixture
def strings(monkeypatch: pytest.MonkeyPatch) -> None:
    """An example of a few strings, which nothing needs to fetch."""
    made = Example("strings", "none", (), lambda: {"text": np.array(TEXTS)})
    real = EXAMPLES.get
    monkeypatch.setattr(EXAMPLES, "get", lambda name: made if name == "strings" else real(name))


def there_and_back(text: str, **settings: Any) -> str:
    encode = open_tokenizer(Tokenizer.model_validate(settings), 64)
    ids = encode([text])[0]
    ids = ids[ids != NOTHING]
    assert ids[-1] == encode.end
    assert ids.max() < encode.size
    return encode.decode(ids[:-1].tolist())


@given(st.text(st.sampled_from("aZ9 ~éœß(表格数据\uff09\uff0c。—…"), max_size=63))
def test_every_text_of_the_alphabet_comes_back(text: str) -> None:
    assert there_and_back(text, name="characters") == text


def test_what_the_alphabet_lacks_is_shown_as_such() -> None:
    assert there_and_back("a▸b😀", name="characters") == "a\ufffdb\ufffd"
    assert open_tokenizer(Tokenizer(name="characters"), 3)(["long"]).tolist() == [[78, 81, 0]]


def test_a_hash_of_words_has_no_way_back() -> None:
    assert open_tokenizer(Tokenizer(name="words"), 8).end is None


@pytest.mark.parametrize("text", TEXTS)
def test_a_learned_encoding_gives_its_texts_back(strings: None, text: str) -> None:
    how = {"name": "bpe", "example": "strings", "columns": ["text"], "size": 60}
    assert there_and_back(text, **how) == text
    assert there_and_back(text, **how, lowercase=True) == text.lower()


def test_it_is_the_same_each_time_and_shorter_than_characters() -> None:
    first, again = _bpe.learned_from(TEXTS, 60), _bpe.learned_from(TEXTS, 60)
    assert first == again
    encode = open_library(first)
    assert encode.size <= 60
    assert (encode(TEXTS) >= 0).sum() < sum(map(len, TEXTS))


def open_library(data: bytes) -> Library:
    from tokenizers import Tokenizer as Inner

    return Library(Inner.from_buffer(data), 64)


def test_its_digest_says_what_it_is_learned_from(strings: None) -> None:
    settings: dict[str, Any] = {"name": "bpe", "example": "strings", "columns": ["text"]}
    made = Tokenizer.model_validate(settings)
    others: list[dict[str, Any]] = [
        {"size": 50},
        {"lowercase": True},
        {"columns": ["text", "text"]},
        {"example": "short-verses"},
    ]
    digests = {Tokenizer.model_validate(settings | other).digest for other in others}
    assert len(digests | {made.digest}) == 5
    with pytest.raises(DataError, match="is not the one that was referred to"):
        open_tokenizer(made.model_copy(update={"digest": "0" * 32}), 8)
    with pytest.raises(DataError, match="example 'strings' has no column 'fr', it has text"):
        open_tokenizer(Tokenizer.model_validate(settings | {"columns": ["fr"]}), 8)


@pytest.mark.parametrize(
    ("settings", "problem"),
    [
        ({"name": "bpe", "example": "strings"}, "give `example` and `columns`"),
        ({"name": "words", "size": 5}, "tokenizer 'words' takes no `size`"),
        ({"name": "bpe", "example": "versus", "columns": ["en"]}, "no example is called 'versus'"),
    ],
)
def test_what_cannot_be_learned_is_told(settings: dict[str, Any], problem: str) -> None:
    with pytest.raises(ValidationError, match=problem):
        Tokenizer.model_validate(settings)
