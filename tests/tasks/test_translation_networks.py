"""Networks that translate: forcing, beam search, and models from a folder."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn.functional import cross_entropy, log_softmax

from schemas.base import Part
from schemas.errors import ModelError, SpecError
from stages.tasks._tokenizers import NOTHING
from stages.tasks._translation_networks import Search, Translator, ended, translator

SOURCES, SIZE, END, LONGEST = 11, 6, 0, 5
SEARCH = Search(reads=4, says=LONGEST)
TINY = {"width": 16, "heads": 2, "layers": 1, "decoder_layers": 1, "dropout": 0.0}
SOURCE = torch.tensor([[1, 2, 3, 4], [5, 6, -1, -1], [7, -1, -1, -1]])


def tiny(seed: int = 0, name: str = "marian", **settings: object) -> Translator:
    torch.manual_seed(seed)
    part = Part.model_validate({"name": name, **TINY, **settings})
    made = translator(part, SOURCES, SIZE, END, SEARCH).eval()
    assert isinstance(made, Translator)
    with torch.no_grad():  # so that translations differ
        for weight in made.parameters():
            weight.mul_(1.5 if weight.requires_grad else 1)
    return made


def test_forcing_counts_real_tokens_and_looks_at_those_before_alone() -> None:
    model = tiny()
    said = torch.tensor([[1, 2, 3, 0], [4, 0, -1, -1], [0, -1, -1, -1]])
    with torch.no_grad():
        logits = model.force(SOURCE, said)
        assert logits.shape == (7, SIZE)
        other = said.clone()
        other[0, 2] = 5
        changed = (model.force(SOURCE, other) - logits).abs().amax(dim=1) > 1e-5
        assert changed.tolist() == [False, False, False, True, False, False, False]
        for row, part in enumerate(logits.split([4, 2, 1])):
            assert torch.allclose(model.force(SOURCE[row : row + 1], said[row : row + 1]), part, atol=1e-5)


def test_groups_of_like_length_change_nothing() -> None:
    model, random = tiny(), np.random.default_rng(0)
    source, said = torch.full((40, 4), NOTHING), torch.full((40, LONGEST), NOTHING)
    for row in range(40):
        read, length = int(random.integers(1, 5)), int(random.integers(1, LONGEST + 1))
        source[row, :read] = torch.from_numpy(random.integers(0, SOURCES, read))
        said[row, :length] = torch.from_numpy(random.integers(0, SIZE, length))
    alone = [model(torch.cat([source, said], dim=1)[row : row + 1]) for row in range(40)]
    whole = model(torch.cat([source, said], dim=1))
    assert torch.allclose(whole, torch.cat(alone), atol=1e-5)
    free = model(source)
    assert torch.equal(free, torch.cat([model(source[row : row + 1]) for row in range(40)]))


def test_a_source_that_differs_gives_other_logits_for_every_token() -> None:
    model, said = tiny(), torch.tensor([[1, 2, 0]])
    with torch.no_grad():
        one, other = (model.force(SOURCE[row : row + 1], said) for row in (0, 1))
    assert ((one - other).abs().amax(dim=1) > 1e-4).all()


def test_a_wide_beam_finds_the_likeliest_of_all_translations() -> None:
    """By log-probability per token, as every translation of up to 3 tokens is weighed here one by one."""
    model = tiny(3)
    found = model.translate(SOURCE, beams=SIZE**2, longest=3)
    words = range(1, SIZE)
    every = [[*head, 0] for length in range(3) for head in itertools.product(words, repeat=length)]
    every += [list(whole) for whole in itertools.product(words, repeat=3)]
    padded = torch.tensor([[*text, *[NOTHING] * (3 - len(text))] for text in every])
    for row in range(len(SOURCE)):
        with torch.no_grad():
            logits = model.force(SOURCE[row].expand(len(every), -1), padded)
        loss = cross_entropy(logits, padded[padded >= 0], reduction="none")
        per_token = torch.stack([part.mean() for part in loss.split([len(text) for text in every])])
        best = every[int(per_token.argmin())]
        assert [token for token in found[row].tolist() if token != NOTHING] == best


@pytest.mark.parametrize("beams", [1, 3])
def test_a_translation_is_bounded_and_depends_on_its_own_source(beams: int) -> None:
    model = tiny(1)
    together = model.translate(SOURCE, beams, LONGEST)
    assert torch.equal(together, model.translate(SOURCE, beams, LONGEST))
    assert together.shape[1] <= LONGEST
    assert together[:, 0].min() >= 0
    assert together.max() < SIZE
    for row in range(len(SOURCE)):
        alone = model.translate(SOURCE[row : row + 1], beams, LONGEST)[0]
        assert [*alone[alone >= 0]] == [*together[row][together[row] >= 0]]


def test_a_batch_says_what_is_asked() -> None:
    model = tiny(1)
    said = model.translate(SOURCE, 4, LONGEST)
    free = model(SOURCE)
    assert free.shape == (3, LONGEST)
    assert free.dtype == torch.float32
    assert torch.equal(free[:, : said.shape[1]].long(), said)
    assert (free[:, said.shape[1] :] == NOTHING).all()
    asked = free.long()
    with torch.no_grad():
        assert torch.equal(model(torch.cat([SOURCE, asked], dim=1)), model.force(SOURCE, asked))
    model.train()
    assert torch.equal(model(SOURCE), free)
    assert model.training


def test_one_beam_takes_the_likeliest_token_each_time() -> None:
    model = tiny(2)
    said = model.translate(SOURCE, 1, LONGEST)
    with torch.no_grad():
        assert torch.equal(model.force(SOURCE, said).argmax(dim=1), said[said >= 0])


def test_what_comes_after_the_end_is_nothing() -> None:
    said = torch.tensor([[1, 0, 0, 2], [0, 3, 3, 3], [1, 2, 3, 4]])
    assert ended(said, 0).tolist() == [[1, 0, -1, -1], [0, -1, -1, -1], [1, 2, 3, 4]]


def test_it_learns_what_it_is_shown() -> None:
    torch.manual_seed(0)
    model = translator(Part.model_validate({"name": "marian-light", **TINY}), SOURCES, SIZE, END, SEARCH)
    assert isinstance(model, Translator)
    said = torch.tensor([[1, 2, 3, 0], [4, 0, -1, -1], [5, 5, 0, -1]])
    steps = torch.optim.Adam(model.parameters(), 1e-2)
    for _ in range(60):
        steps.zero_grad()
        cross_entropy(model.force(SOURCE, said), said[said >= 0]).backward()
        steps.step()
    model.eval()
    assert torch.equal(model.translate(SOURCE, 2, 4), said)


def test_a_marian_in_a_folder_by_name(tmp_path: Path) -> None:
    kept = tiny(5)
    kept.inner.save_pretrained(tmp_path / "mine")
    part = Part(name=f"transformers/{tmp_path / 'mine'}")
    again = translator(part, SOURCES, SIZE, END, SEARCH).eval()
    assert isinstance(again, Translator)
    said = torch.tensor([[1, 2, 0]])
    with torch.no_grad():
        assert torch.allclose(again.force(SOURCE[:1], said), kept.force(SOURCE[:1], said))
        assert log_softmax(again.force(SOURCE[:1], said), dim=1).shape == (3, SIZE)
    with pytest.raises(ModelError, match=r"knows 11 numbers of a source, its tokenizer gives 12"):
        translator(part, SOURCES + 1, SIZE, END, SEARCH)
    with pytest.raises(ModelError, match="ends a text with 0, its tokenizer with 2"):
        translator(part, SOURCES, SIZE, 2, SEARCH)
    with pytest.raises(ModelError, match="has 6 positions"):
        translator(part, SOURCES, SIZE, END, Search(reads=7, says=5))


def test_what_cannot_be_built_is_said() -> None:
    with pytest.raises(ModelError, match="no model is called 'mariam'; did you mean 'marian'"):
        translator(Part(name="mariam"), SOURCES, SIZE, END, SEARCH)
    with pytest.raises(ModelError, match="3 heads do not divide a width of 16"):
        tiny(heads=3)
    with pytest.raises(SpecError, match="widht"):
        tiny(widht=3)
