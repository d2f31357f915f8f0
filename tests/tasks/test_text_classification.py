"""Texts: packing, tokenizers, words that go missing, networks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tokenizers
import torch
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from schemas.base import Part
from schemas.canonical import digest_bytes
from schemas.errors import DataError, ModelError, SpecError
from stages.random import view_draws
from stages.tasks import TASKS, get_task
from stages.tasks import _minilm as minilm
from stages.tasks._text_networks import BagConfig, EmbeddingBag, _frozen, masked_mean, read
from stages.tasks._texts import WORDS, changed, decoded
from stages.tasks._tokenizers import Tokenizer, open_tokenizer
from stages.tasks.text_classification import (
    TextAugmentation,
    TextClassification,
    TextConfig,
    TextPrepare,
    TextPreprocessing,
)

TASK = TextClassification(TextConfig(tokens=12))
IDS = np.arange(64, dtype=np.uint8).reshape(4, 16)
"""Content ids of four samples."""


def packed(*texts: str) -> dict[str, list[bytes]]:
    return {"text": [TASK.pack({"text": text}, TextPrepare()).values["text"] for text in texts]}


def pieces(tmp_path: Path, *words: str) -> str:
    """A tokenizer.json of word pieces in the manner of BERT, beside a spec; its name."""
    marks = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    vocabulary = {word: number for number, word in enumerate([*marks, *words])}
    made = tokenizers.Tokenizer(tokenizers.models.WordPiece(vocabulary, unk_token="[UNK]"))
    made.normalizer = tokenizers.normalizers.BertNormalizer()
    made.pre_tokenizer = tokenizers.pre_tokenizers.BertPreTokenizer()
    made.add_special_tokens(marks)
    made.post_processor = tokenizers.processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    made.enable_padding(length=9)
    made.save(str(tmp_path / "pieces.json"))
    return "pieces.json"


# --- packing -----------------------------------------------------------------------------------------------------


def test_texts_that_look_alike_are_one_text() -> None:
    composed, apart = ("caf\u00e9", "cafe\u0301")
    samples = [TASK.pack({"text": text}, TextPrepare()) for text in (composed, apart, apart.encode())]
    assert len({sample.content for sample in samples}) == 1
    wide = TASK.pack({"text": "\uff41\ufb01"}, TextPrepare())
    assert wide.values["text"].decode() == "\uff41\ufb01"
    assert TASK.pack({"text": "\uff41\ufb01"}, TextPrepare(unicode="NFKC")).values["text"] == b"afi"


@given(st.text(st.characters(exclude_categories=["Cs"]), min_size=1).filter(str.strip))
def test_a_text_comes_back_and_has_numbers(text: str) -> None:
    sample = TASK.pack({"text": text}, TextPrepare())
    again = TASK.pack({"text": sample.values["text"]}, TextPrepare())
    assert again.content == sample.content
    batch = TASK.batch({"text": [sample.values["text"]]}, TextPreprocessing())
    assert batch.shape == (1, 12)
    filled = (batch[0] >= 0).tolist()
    assert filled == sorted(filled, reverse=True), "nothing stands only behind a text"


# --- tokenizers --------------------------------------------------------------------------------------------------


def test_hashed_words_are_fixed() -> None:
    """Golden: another value would re-read every stored model's texts."""
    found = TASK.batch(packed("Not BAD, at all :)", "[MASK] bad"), TextPreprocessing(tokens=8))
    assert found.tolist() == [
        [6069, 1831, 15641, 11242, 544, 6300, 13453, -1],
        [0, 1831, -1, -1, -1, -1, -1, -1],
    ]
    small = TASK.batch(packed("a b c d e f g h"), TextPreprocessing(tokenizer=Tokenizer(name="words", buckets=4)))
    assert set(small[0, :8].tolist()) <= {1, 2, 3}


def test_a_tokenizer_of_the_library_beside_the_spec(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    how = TextPreprocessing(tokenizer=Tokenizer(name=pieces(tmp_path, "not", "bad", "##ly")), tokens=6)
    assert how.tokenizer is not None
    assert how.tokenizer.digest == digest_bytes((tmp_path / "pieces.json").read_bytes())
    found = TASK.batch(packed("Not badly", "bad [MASK]", "not not not not not not"), how)
    assert found.tolist() == [[2, 5, 6, 7, 3, -1], [2, 6, 4, 3, -1, -1], [2, 5, 5, 5, 5, 3]]


def test_another_tokenizer_under_the_same_name_is_another_meaning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its digest stands in the task's normal settings, so in every fingerprint; a worker that finds another refuses."""
    monkeypatch.syspath_prepend(tmp_path)
    part = Part.model_validate({"name": "text-classification", "tokenizer": pieces(tmp_path, "not")})
    before = TASKS.normal(part, "task")
    pieces(tmp_path, "not", "bad")
    assert TASKS.normal(part, "task") != before
    with pytest.raises(DataError, match="'pieces.json' is not the one that was referred to"):
        get_task(before).batch(packed("not bad"), TextPreprocessing())


def test_tokenizers_that_are_not_there_are_told_of_in_one_sentence(tmp_path: Path) -> None:
    for settings, reason in (
        (
            {"tokenizer": "wrods"},
            "task: .*no tokenizer is called 'wrods'.*give words, characters, bpe, minilm, hub/NAME",
        ),
        ({"tokenizer": {"name": "minilm", "buckets": 3}}, "tokenizer 'minilm' takes no `buckets`"),
        ({"tokenizer": {"name": "words", "revision": "main"}}, "tokenizer 'words' takes no `revision`"),
    ):
        with pytest.raises(SpecError, match=reason):
            get_task(Part.model_validate({"name": "text-classification", **settings}))
    (tmp_path / "broken.json").write_text("{}")
    with pytest.raises(DataError, match="no tokenizer.json that this release can read"):
        open_tokenizer(Tokenizer(name=str(tmp_path / "broken.json")), 8)


def test_the_default_needs_no_look_at_files() -> None:
    normal = TASKS.normal(Part(name="text-classification"), "task")
    given = {key: value for key, value in normal.settings["tokenizer"].items() if value is not None}
    assert given == {"name": "words", "digest": Tokenizer(name="words").digest}
    assert Tokenizer(name="words").digest != Tokenizer(name="words", buckets=99).digest


# --- words that go missing ---------------------------------------------------------------------------------------


def test_which_words_go_is_fixed() -> None:
    """Golden: teacher and student read a view of a stored set months apart."""
    texts = ["one two  three\tfour five"] * 4
    found = changed(texts, 0.3, 0.3, "[MASK]", view_draws(IDS, 7, 1)("words", WORDS))
    assert found == [
        "one two  three\tfour",
        "one two  three\tfour",
        "one two  [MASK]\t[MASK] five",
        "one two  [MASK]\tfour [MASK]",
    ]


def test_models_with_other_tokenizers_miss_the_same_words(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    words = ["one", "two", "three", "four", "five", "six"]
    how = TextPreprocessing(tokenizer=Tokenizer(name=pieces(tmp_path, *words)))
    sample, settings = packed(*[" ".join(words)] * 4), TextAugmentation(drop=0.3, mask=0.3)
    theirs = TASK.augmented(sample, how, settings, view_draws(IDS, 0, 1))
    ours = TASK.augmented(sample, TextPreprocessing(), settings, view_draws(IDS, 0, 1))
    single = {
        TASK.batch(packed(word), TextPreprocessing())[0, 0].item(): number for number, word in enumerate(words, 5)
    }
    for row in range(4):
        said = [single.get(number, 4) for number in ours[row].tolist() if number >= 0]
        assert [2, *said, 3] == [number for number in theirs[row].tolist() if number >= 0]


@given(st.integers(0, 99), st.lists(st.text("ab", min_size=1), min_size=1, max_size=300), st.floats(0, 1))
def test_words_go_by_their_own_number(seed: int, words: list[str], drop: float) -> None:
    numbers = np.random.default_rng(seed).random((1, WORDS))
    kept = changed([" ".join(words)], drop, 0.0, None, numbers)[0].split()
    wanted = [word for place, word in enumerate(words) if numbers[0, place % WORDS] >= drop]
    assert kept == wanted or (not wanted and len(kept) == 1)


def test_shares_are_what_was_asked() -> None:
    numbers = np.random.default_rng(0).random((200, WORDS))
    found = " ".join(changed([" ".join(["w"] * WORDS)] * 200, 0.2, 0.1, "M", numbers)).split()
    assert len(found) / (200 * WORDS) == pytest.approx(0.8, abs=0.01)
    assert found.count("M") / (200 * WORDS) == pytest.approx(0.1, abs=0.01)


def test_hiding_takes_a_sign_for_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    tokenizers.Tokenizer(tokenizers.models.WordLevel({"a": 0}, unk_token="a")).save(str(tmp_path / "plain.json"))
    how = TextPreprocessing(tokenizer=Tokenizer(name="plain.json"))
    with pytest.raises(SpecError, match="no sign for a hidden word: use `drop`"):
        TASK.augmented(packed("a a"), how, TextAugmentation(mask=0.5), view_draws(IDS[:1], 0, 1))
    with pytest.raises(ValidationError, match="1.1 is above 1"):
        TextAugmentation(drop=0.6, mask=0.5)


# --- networks ----------------------------------------------------------------------------------------------------


def test_reading_goes_no_further_than_the_longest_text() -> None:
    batch = torch.tensor([[4, 5, -1, -1], [6, -1, -1, -1], [-1, -1, -1, -1]])
    ids, mask = read(batch)
    assert ids.tolist() == [[4, 5], [6, 0], [0, 0]]
    assert mask.tolist() == [[True, True], [True, False], [True, False]]
    hidden = torch.arange(12.0).reshape(3, 2, 2)
    assert masked_mean(hidden, mask).tolist() == [[1.0, 2.0], [4.0, 5.0], [8.0, 9.0]]


def test_a_bag_is_the_mean_of_words_and_pairs() -> None:
    bag = EmbeddingBag(BagConfig(width=3, pairs=50), 10, 2).eval()
    pair = 10 + (4 * 1_000_003 + 5) % 50
    by_hand = bag.head(bag.embedding(torch.tensor([4, 5, pair])).mean(dim=0))
    assert torch.allclose(bag(torch.tensor([[4, 5, -1]]))[0], by_hand, atol=1e-6)


def test_filters_see_a_text_and_what_is_around_it_is_nothing() -> None:
    """Against a loop over every window of the words, padded by zeros."""
    part = Part.model_validate({"name": "text-cnn", "width": 4, "kernels": [2, 3]})
    network: Any = TASK.build(part, 2, TextPreprocessing()).eval()
    words = torch.tensor([7, 8, 9])
    features = []
    filters: Any = network.filters
    for kind, kernel in zip(filters, (2, 3), strict=True):
        around = torch.nn.functional.pad(network.embedding(words), (0, 0, kernel // 2, (kernel - 1) // 2))
        windows = [around[place : place + kernel] for place in range(3)]
        answers = [(kind.weight * window.T).sum(dim=(1, 2)) + kind.bias for window in windows]
        features.append(torch.relu(torch.stack(answers)).amax(dim=0))
    wanted = network.head(torch.cat(features))
    longer = torch.tensor([[7, 8, 9, -1, -1], [1, 2, 3, 4, 5]])
    assert torch.allclose(network(longer)[0], wanted, atol=1e-5)


def test_settings_of_models_are_checked() -> None:
    for settings, reason in (
        ({"name": "embedding-bag", "widht": 3}, "widht"),
        ({"name": "transformer-light", "width": 30}, "4 heads do not divide a width of 30"),
        ({"name": "minilm", "pretrained": False, "frozen": 7}, "has 6 layers: `frozen` goes from 0 to 6"),
        ({"name": "embeding-bag"}, "did you mean 'embedding-bag'"),
    ):
        with pytest.raises((ModelError, SpecError), match=reason):
            TASK.build(Part.model_validate(settings), 2, TextPreprocessing())
    big = TextPreprocessing(tokenizer=Tokenizer(name="words", buckets=40_000))
    with pytest.raises(ModelError, match="knows 30,522 numbers, its tokenizer gives 40,000"):
        TASK.build(Part.model_validate({"name": "minilm", "pretrained": False}), 2, big)


def test_a_model_of_the_hub_from_its_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`transformers/NAME` by the library's own way, of files on this machine: a folder stands for the hub's."""
    import transformers

    shape = transformers.BertConfig(
        vocab_size=12, hidden_size=8, num_hidden_layers=2, num_attention_heads=2, intermediate_size=16
    )
    given = transformers.BertModel(shape)
    given.save_pretrained(tmp_path / "tiny")
    small = TextPreprocessing(tokenizer=Tokenizer(name="words", buckets=12))
    name = f"transformers/{tmp_path / 'tiny'}"
    network: Any = TASK.build(Part.model_validate({"name": name, "frozen": 1, "hidden": 5}), 3, small)
    state = network.encoder.state_dict()
    assert all(torch.equal(value, state[key]) for key, value in given.state_dict().items())
    learning = {key for key, weight in network.encoder.named_parameters() if weight.requires_grad}
    assert learning
    assert all("layer.1." in key or key.startswith("pooler") for key in learning)
    layers = network.train().encoder.encoder.layer
    modes = [{part.training for part in held.modules()} for held in (network.encoder.embeddings, *layers)]
    assert modes == [{False}, {False}, {True}], "frozen layers leave no features out"
    assert network(TASK.fake_batch(2, small)).shape == (2, 3)
    fresh: Any = TASK.build(Part.model_validate({"name": name, "pretrained": False}), 3, small)
    assert not torch.equal(fresh.encoder.embeddings.word_embeddings.weight, given.embeddings.word_embeddings.weight)
    with pytest.raises(ModelError, match="cannot be had from the hub"):
        TASK.build(Part(name=f"transformers/{tmp_path / 'none'}"), 3, small)


def test_layers_kept_in_another_way_are_not_frozen() -> None:
    odd: Any = torch.nn.Linear(2, 2)
    odd.config = type("Shape", (), {"num_hidden_layers": 3})
    with pytest.raises(ModelError, match="leave `frozen` out"):
        _frozen(Part(name="transformers/odd"), odd, 1)


def test_minilm_tells_near_sentences_from_far_ones() -> None:
    """The shipped weights and tokenizer, as sentence-transformers reads them: the mean over tokens, by cosine."""
    assert digest_bytes(minilm.tokenizer()) == minilm.TOKENIZER_DIGEST
    how = TextPreprocessing(tokenizer=Tokenizer(name="minilm"), tokens=32)
    network: Any = TASK.build(Part(name="minilm"), 2, how).eval()
    texts = packed("That is a happy person", "That is a very happy person", "Today is a sunny day")
    with torch.no_grad():
        ids, mask = read(TASK.batch(texts, how))
        features = masked_mean(network.encoder(input_ids=ids, attention_mask=mask.long()).last_hidden_state, mask)
    near, far = (torch.cosine_similarity(features[0], features[row], dim=0).item() for row in (1, 2))
    # The model's published example gives 0.943 and 0.257 for these sentences.
    assert near == pytest.approx(0.943, abs=2e-3)
    assert far == pytest.approx(0.257, abs=2e-3)


def test_decoded_is_what_was_packed() -> None:
    assert decoded(packed("é", "x")["text"]) == ["é", "x"]
