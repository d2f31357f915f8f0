"""Networks that translate: Marian's encoder and decoder (Junczys-Dowmunt et al. 2018), new or from the hub by name.

A source is int64 (B, S), a translation int64 (B, T), both with NOTHING (-1) where a text has ended. Tokens of a
translation count row after row: N of them in a batch.

Shapes: B texts, S numbers of a source, T of a translation, N tokens of all translations, V numbers of its tokenizer.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from pydantic import PositiveInt
from torch import Tensor, nn
from transformers import GenerationConfig, MarianConfig, MarianMTModel

from schemas.base import Contract, Fraction, Part
from schemas.errors import ModelError, did_you_mean
from stages.registry import validate_settings
from stages.tasks._text_networks import LIBRARY, quiet, read
from stages.tasks._tokenizers import NOTHING

NEVER = -1e9
"""Logit of what is never said: the number that the decoder begins with, and those beyond the tokenizer's."""


GROUPS, GROUP_ROWS = 4, 8
"""Groups of like length that a batch is cut into, where each has so many rows or more."""


class MarianSettings(Contract):
    """Settings of `marian`."""

    width: PositiveInt = 256
    """Width of an embedding and of a layer."""
    layers: PositiveInt = 3
    """Layers of the encoder."""
    decoder_layers: PositiveInt = 3
    """Layers of the decoder: these run once for every token that is said."""
    heads: PositiveInt = 4
    """Attention heads, which divide the width."""
    hidden: PositiveInt | None = None
    """Hidden units between two layers; left out: twice the width."""
    dropout: Fraction = 0.1
    """Share of features that a training step leaves out."""


class LightSettings(MarianSettings):
    """Settings of `marian-light`."""

    width: PositiveInt = 128
    """Width of an embedding and of a layer."""
    layers: PositiveInt = 2
    """Layers of the encoder."""
    decoder_layers: PositiveInt = 1
    """Layers of the decoder: these run once for every token that is said."""


class HubSettings(Contract):
    """Settings of `transformers/NAME`, a Marian of the Hugging Face hub or in a folder."""

    pretrained: bool = True
    """Whether it begins with the weights of its name; else with random ones."""
    revision: str | None = None
    """Commit, branch or tag on the hub; left out: its newest."""


@dataclass(frozen=True)
class Search:
    """How a model is asked."""

    reads: int
    """S: numbers of a source."""
    says: int
    """T: most tokens of a translation, its end included."""
    beams: int = 4
    """Translations that are kept at a time."""


class Translator(nn.Module):
    """A Marian over two tokenizers' numbers."""

    def __init__(self, inner: MarianMTModel, size: int, start: int, end: int, search: Search) -> None:
        """`size`: V; `start`: number that the decoder begins with (the model's own); `end`: one that ends a text."""
        super().__init__()
        self.inner, self.size, self.search, self._start, self._end = inner, size, search, start, end
        inner.final_logits_bias[:, size:] = NEVER
        if start != end:
            inner.final_logits_bias[:, start] = NEVER

    def forward(self, batch: Tensor) -> Tensor:
        """Of sources alone (B, S): what it says (B, T), float32. Of (B, S + T): logits (N, V), forced on the last T."""
        source_BS, said_BT = batch[:, : self.search.reads], batch[:, self.search.reads :]
        if said_BT.shape[1]:
            return self.force(source_BS, said_BT)
        answer_BT = batch.new_full((len(batch), self.search.says), NOTHING)
        for rows in _alike((source_BS >= 0).sum(dim=1)):
            said_BT = self.translate(source_BS[rows], self.search.beams, self.search.says)
            answer_BT[rows, : said_BT.shape[1]] = said_BT
        return answer_BT.float()

    def force(self, source_BS: Tensor, said_BT: Tensor) -> Tensor:
        """Raw logits of each token of a translation given those before it (N, V).

        Rows go through in groups of like length, since most of a mixed batch would be filling.
        """
        lengths_B = (said_BT >= 0).sum(dim=1)
        groups = _alike(lengths_B)
        if len(groups) == 1:
            return self._force(source_BS, said_BT)
        parts = [self._force(source_BS[rows], said_BT[rows]) for rows in groups]
        order = torch.cat(groups)  # where each row's tokens lie among those of the groups
        begins = torch.zeros_like(lengths_B)
        begins[order] = lengths_B[order].cumsum(0) - lengths_B[order]
        item_N = torch.arange(int(lengths_B.sum()), device=said_BT.device)
        item_N = item_N - (lengths_B.cumsum(0) - lengths_B - begins).repeat_interleave(lengths_B)
        return torch.cat(parts)[item_N]

    def _force(self, source_BS: Tensor, said_BT: Tensor) -> Tensor:
        ids_BS, mask_BS = read(source_BS)
        said_BT = said_BT[:, : max(1, int((said_BT >= 0).sum(dim=1).max()))]
        before_BT = torch.cat([said_BT.new_full((len(said_BT), 1), self._start), said_BT[:, :-1].clamp(min=0)], dim=1)
        out = self.inner.model(
            input_ids=ids_BS, attention_mask=mask_BS.long(), decoder_input_ids=before_BT, use_cache=False
        )
        hidden_NE = out.last_hidden_state[said_BT >= 0]
        logits: Tensor = self.inner.lm_head(hidden_NE) + self.inner.final_logits_bias[0]
        return logits[:, : self.size]

    @torch.no_grad()
    def translate(self, source_BS: Tensor, beams: int, longest: int) -> Tensor:
        """The likeliest translation that a beam search finds (B, T), T at most `longest`, its end included.

        By log-probability per token. No number is drawn, in training neither: the same weights and batch give the same
        answer, and a row depends on the others by the rounding of a matrix product alone.
        """
        ids_BS, mask_BS = read(source_BS)
        how = GenerationConfig(
            num_beams=beams,
            max_new_tokens=longest,
            do_sample=False,
            length_penalty=1.0,
            decoder_start_token_id=self._start,
            eos_token_id=self._end,
            pad_token_id=self._start,
        )
        training = self.training
        self.eval()
        said_BT: Tensor = self.inner.generate(input_ids=ids_BS, attention_mask=mask_BS.long(), generation_config=how)
        self.train(training)
        return ended(said_BT[:, 1:], self._end)


def _alike(lengths_B: Tensor) -> list[Tensor]:
    """Numbers of the rows, in groups of like length; few rows are one group. A function of the lengths alone."""
    order = torch.argsort(lengths_B, stable=True)
    return list(order.tensor_split(GROUPS)) if len(order) >= GROUPS * GROUP_ROWS else [torch.arange(len(order))]


def ended(said_BT: Tensor, end: int) -> Tensor:
    """Translations up to and with their first `end`, NOTHING after it."""
    over_BT = (said_BT == end).cumsum(dim=1) - (said_BT == end).long() > 0
    return said_BT.masked_fill(over_BT, NOTHING)


def translator(model: Part, source_size: int, size: int, end: int, search: Search) -> nn.Module:
    """A network by name, from a tokenizer with `source_size` numbers into one with `size`.

    Raises ModelError, or SpecError for settings that it does not take.
    """
    if model.name.startswith(LIBRARY):
        return _from_hub(model, source_size, size, end, search)
    if model.name not in NETWORKS:
        known = [*NETWORKS, f"{LIBRARY}NAME"]
        raise ModelError(f"no model is called '{model.name}'{did_you_mean(model.name, known)}")
    settings: MarianSettings = validate_settings(NETWORKS[model.name], model.settings, f"model '{model.name}'")
    if settings.width % settings.heads:
        raise ModelError(f"model '{model.name}': {settings.heads} heads do not divide a width of {settings.width}")
    hidden = settings.hidden or 2 * settings.width
    config = MarianConfig(
        vocab_size=source_size,
        decoder_vocab_size=size + 1,  # one more to begin with
        share_encoder_decoder_embeddings=False,
        d_model=settings.width,
        encoder_layers=settings.layers,
        decoder_layers=settings.decoder_layers,
        encoder_attention_heads=settings.heads,
        decoder_attention_heads=settings.heads,
        encoder_ffn_dim=hidden,
        decoder_ffn_dim=hidden,
        dropout=settings.dropout,
        activation_function="relu",
        scale_embedding=True,
        init_std=settings.width**-0.5,  # as Vaswani et al. 2017; the default of 0.02 learns several times slower
        max_position_embeddings=max(search.reads, search.says) + 1,
        pad_token_id=None,
        bos_token_id=None,
        eos_token_id=end,
        forced_eos_token_id=None,
        decoder_start_token_id=size,
    )
    return Translator(MarianMTModel(config), size, size, end, search)


NETWORKS: dict[str, type[MarianSettings]] = {"marian": MarianSettings, "marian-light": LightSettings}
"""Settings of networks by short name."""


def _from_hub(model: Part, source_size: int, size: int, end: int, search: Search) -> nn.Module:
    quiet()
    settings: HubSettings = validate_settings(HubSettings, model.settings, f"model '{model.name}'")
    name, revision = model.name.removeprefix(LIBRARY), settings.revision or "main"
    try:
        config: Any = MarianConfig.from_pretrained(name, revision=revision)
        inner = MarianMTModel.from_pretrained(name, revision=revision, dtype=torch.float32)
        if not settings.pretrained:
            inner = MarianMTModel(config)
    except Exception as error:  # noqa: BLE001 - the hub's client raises many things
        cause = " ".join(str(error).split())[:300]
        raise ModelError(f"model '{model.name}' cannot be had from the hub: {cause}") from None
    into = config.decoder_vocab_size or config.vocab_size
    for side, has, knows in (("source", source_size, config.vocab_size), ("translation", size, into)):
        if has > knows:
            raise ModelError(
                f"model '{model.name}' knows {knows:,} numbers of a {side}, its tokenizer gives {has:,}: set its "
                "`preprocessing` to the tokenizers that it was trained with"
            )
    if config.eos_token_id != end:
        raise ModelError(f"model '{model.name}' ends a text with {config.eos_token_id}, its tokenizer with {end}")
    if max(search.reads, search.says) > config.max_position_embeddings:
        raise ModelError(f"model '{model.name}' has {config.max_position_embeddings} positions: set `tokens` to that")
    return Translator(inner, size, config.decoder_start_token_id, end, search)
