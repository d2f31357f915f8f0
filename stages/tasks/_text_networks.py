"""Networks that read texts as numbers: small ones of our own, MiniLM, and any encoder of `transformers` by name.

Every one takes int64 (B, L), NOTHING (-1) where a text has ended, reads no further than the longest text of the batch,
and gives raw outputs (B, O) by a linear head.

Shapes: B texts, L numbers of a text, E width of an embedding, F features before the head, O outputs.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from pydantic import NonNegativeInt, PositiveInt
from torch import Tensor, nn
from torch.nn import functional

from schemas.base import Contract, Fraction, Part
from schemas.errors import ModelError, did_you_mean
from stages.registry import validate_settings
from stages.tasks import _minilm
from stages.tasks._factories import from_factory

LIBRARY = "transformers/"
"""What the name of a model of the transformers library begins with."""


def read(batch_BL: Tensor) -> tuple[Tensor, Tensor]:
    """(numbers, mask), each (B, up to L): cut after the longest text, 0 where there is nothing.

    The first number always counts, so that a text without any is a text of one.
    """
    ids_BL = batch_BL[:, : max(1, int((batch_BL >= 0).sum(dim=1).max()))]
    mask_BL = ids_BL >= 0
    mask_BL[:, 0] = True
    return ids_BL.clamp(min=0), mask_BL


def masked_mean(hidden_BLE: Tensor, mask_BL: Tensor) -> Tensor:
    """(B, E): mean over what counts."""
    weights = mask_BL.unsqueeze(2).to(hidden_BLE.dtype)
    return (hidden_BLE * weights).sum(dim=1) / weights.sum(dim=1)


class BagConfig(Contract):
    """Settings of `embedding-bag`."""

    width: PositiveInt = 32
    """Width of an embedding."""
    pairs: NonNegativeInt = 0
    """Numbers that pairs of neighbours are hashed to, beside the single ones; 0: no pairs."""
    dropout: Fraction = 0.0
    """Share of features that a training step leaves out."""


class EmbeddingBag(nn.Module):
    """Mean of the embeddings of words, and of hashed pairs of neighbours (fastText, Joulin et al. 2017)."""

    def __init__(self, config: BagConfig, size: int, outputs: int) -> None:
        super().__init__()
        self._size, self._pairs = size, config.pairs
        self.embedding = nn.Embedding(size + config.pairs, config.width)
        nn.init.normal_(self.embedding.weight, std=0.1)
        self.dropout = nn.Dropout(config.dropout)
        self.head = nn.Linear(config.width, outputs)

    def forward(self, batch_BL: Tensor) -> Tensor:
        ids_BL, mask_BL = read(batch_BL)
        if self._pairs and ids_BL.shape[1] > 1:
            pairs = self._size + (ids_BL[:, :-1] * 1_000_003 + ids_BL[:, 1:]) % self._pairs
            ids_BL = torch.cat([ids_BL, pairs], dim=1)
            mask_BL = torch.cat([mask_BL, mask_BL[:, 1:]], dim=1)
        weights_BL = mask_BL.to(self.embedding.weight.dtype)
        weights_BL = weights_BL / weights_BL.sum(dim=1, keepdim=True)
        bag = functional.embedding_bag(ids_BL, self.embedding.weight, mode="sum", per_sample_weights=weights_BL)
        outputs: Tensor = self.head(self.dropout(bag))
        return outputs


class CnnConfig(Contract):
    """Settings of `text-cnn`."""

    width: PositiveInt = 64
    """Width of an embedding, and the number of filters of each kind."""
    kernels: tuple[PositiveInt, ...] = (2, 3, 4)
    """Words that a filter sees, a kind each."""
    dropout: Fraction = 0.2
    """Share of features that a training step leaves out."""


class TextCnn(nn.Module):
    """Filters over neighbouring words, the largest answer of each (Kim 2014, arXiv:1408.5882)."""

    def __init__(self, config: CnnConfig, size: int, outputs: int) -> None:
        super().__init__()
        self._kernels = config.kernels
        self.embedding = nn.Embedding(size, config.width)
        self.filters = nn.ModuleList(nn.Conv1d(config.width, config.width, kernel) for kernel in config.kernels)
        self.dropout = nn.Dropout(config.dropout)
        self.head = nn.Linear(config.width * len(config.kernels), outputs)

    def forward(self, batch_BL: Tensor) -> Tensor:
        ids_BL, mask_BL = read(batch_BL)
        mask_B1L = mask_BL.unsqueeze(1)
        embedded_BEL = self.embedding(ids_BL).transpose(1, 2) * mask_B1L
        answers = []
        for kind, kernel in zip(self.filters, self._kernels, strict=True):
            around = functional.pad(embedded_BEL, (kernel // 2, (kernel - 1) // 2))
            answers.append((functional.relu(kind(around)) * mask_B1L).amax(dim=2))
        outputs: Tensor = self.head(self.dropout(torch.cat(answers, dim=1)))
        return outputs


class EncoderConfig(Contract):
    """Settings of `minilm` and of `transformers/NAME`."""

    frozen: NonNegativeInt = 0
    """Layers, from the first, that keep their weights, the embeddings with them; as many as there are: only the head
    learns, on fixed features."""
    hidden: NonNegativeInt = 0
    """Hidden units of the head; 0: it is linear."""
    dropout: Fraction = 0.1
    """Share of features that a training step leaves out before the head."""
    pretrained: bool = True
    """Whether it begins with the weights of its name; else with random ones."""
    revision: str | None = None
    """Commit, branch or tag of a model on the hub; left out: its newest."""


class LightConfig(Contract):
    """Settings of `transformer-light`."""

    layers: PositiveInt = 2
    """Transformer layers."""
    width: PositiveInt = 64
    """Width of an embedding and of a layer."""
    heads: PositiveInt = 4
    """Attention heads, which divide the width."""
    dropout: Fraction = 0.1
    """Share of features that a training step leaves out, in the layers and before the head."""


class Encoder(nn.Module):
    """A transformer encoder, the mean of what it gives for the words of a text, and a head on that."""

    def __init__(
        self,
        encoder: nn.Module,
        width: int,
        outputs: int,
        dropout: float,
        hidden: int = 0,
        held: tuple[nn.Module, ...] = (),
    ) -> None:
        """`held`: parts of the encoder that are as in use while the rest trains (they leave no features out)."""
        super().__init__()
        self.encoder, self._held = encoder, held
        self.dropout = nn.Dropout(dropout)
        between = [nn.Linear(width, hidden), nn.ReLU(), nn.Dropout(dropout)] if hidden else []
        self.head = nn.Sequential(*between, nn.Linear(hidden or width, outputs))

    def train(self, mode: bool = True) -> Encoder:
        """As of any module, but for what is held."""
        super().train(mode)
        for part in self._held:
            part.eval()
        return self

    def forward(self, batch_BL: Tensor) -> Tensor:
        ids_BL, mask_BL = read(batch_BL)
        hidden_BLF = self.encoder(input_ids=ids_BL, attention_mask=mask_BL.long()).last_hidden_state
        outputs: Tensor = self.head(self.dropout(masked_mean(hidden_BLF, mask_BL)))
        return outputs


def _bag(model: Part, size: int, longest: int, outputs: int) -> nn.Module:
    return EmbeddingBag(_settings(BagConfig, model), size, outputs)


def _cnn(model: Part, size: int, longest: int, outputs: int) -> nn.Module:
    return TextCnn(_settings(CnnConfig, model), size, outputs)


def _light(model: Part, size: int, longest: int, outputs: int) -> nn.Module:
    config: LightConfig = _settings(LightConfig, model)
    if config.width % config.heads:
        raise ModelError(f"model '{model.name}': {config.heads} heads do not divide a width of {config.width}")
    shape = {
        "vocab_size": size,
        "hidden_size": config.width,
        "num_hidden_layers": config.layers,
        "num_attention_heads": config.heads,
        "intermediate_size": 2 * config.width,
        "max_position_embeddings": longest,
        "hidden_dropout_prob": config.dropout,
        "attention_probs_dropout_prob": config.dropout,
    }
    return Encoder(_bert(shape), config.width, outputs, config.dropout)


def _mini(model: Part, size: int, longest: int, outputs: int) -> nn.Module:
    config: EncoderConfig = _settings(EncoderConfig, model)
    _check_size(model, size, _minilm.CONFIG["vocab_size"])
    encoder = _bert(_minilm.CONFIG)
    if config.pretrained:
        given = _minilm.weights()
        encoder.load_state_dict({name: given[name] for name in encoder.state_dict()})
    return _headed(model, encoder, config, _minilm.CONFIG["hidden_size"], outputs)


def _foreign(model: Part, size: int, longest: int, outputs: int) -> nn.Module:
    from transformers import AutoConfig, AutoModel

    quiet()
    config: EncoderConfig = _settings(EncoderConfig, model)
    name, revision = model.name.removeprefix(LIBRARY), config.revision or "main"
    try:
        shape = AutoConfig.from_pretrained(name, revision=revision)
        encoder = (
            AutoModel.from_pretrained(name, revision=revision, dtype=torch.float32)
            if config.pretrained
            else AutoModel.from_config(shape)
        )
    except Exception as error:  # noqa: BLE001 - the hub's client raises many things
        cause = " ".join(str(error).split())[:300]
        raise ModelError(f"model '{model.name}' cannot be had from the hub: {cause}") from None
    _check_size(model, size, shape.vocab_size)
    return _headed(model, encoder, config, shape.hidden_size, outputs)


NETWORKS: dict[str, Callable[[Part, int, int, int], nn.Module]] = {
    "embedding-bag": _bag,
    "text-cnn": _cnn,
    "transformer-light": _light,
    _minilm.NAME: _mini,
}
"""Networks by short name, called with (model, numbers of the tokenizer, L, outputs)."""


def text_network(model: Part, size: int, longest: int, outputs: int) -> nn.Module:
    """A network by name: int64 (B, L) of a tokenizer with `size` numbers to raw outputs (B, O).

    Raises ModelError, or SpecError for settings that it does not take.
    """
    if ":" in model.name:
        return from_factory(model, outputs)
    if model.name.startswith(LIBRARY):
        return _foreign(model, size, longest, outputs)
    if model.name not in NETWORKS:
        known = [*NETWORKS, f"{LIBRARY}NAME", "package.module:factory"]
        raise ModelError(f"no model is called '{model.name}'{did_you_mean(model.name, known)}")
    return NETWORKS[model.name](model, size, longest, outputs)


def _settings(config: type[Contract], model: Part) -> Any:
    return validate_settings(config, model.settings, f"model '{model.name}'")


def _bert(shape: Mapping[str, Any]) -> nn.Module:
    from transformers import BertConfig, BertModel

    quiet()
    encoder: nn.Module = BertModel(BertConfig(**shape), add_pooling_layer=False)
    return encoder


def _headed(model: Part, encoder: nn.Module, config: EncoderConfig, width: int, outputs: int) -> nn.Module:
    return Encoder(encoder, width, outputs, config.dropout, config.hidden, _frozen(model, encoder, config.frozen))


def _frozen(model: Part, encoder: nn.Module, layers: int) -> tuple[nn.Module, ...]:
    """Hold the weights of the first layers and of what comes before them; the modules that are held whole."""
    if not layers:
        return ()
    depth: int = encoder.config.num_hidden_layers  # type: ignore[union-attr, assignment]
    if layers > depth:
        raise ModelError(f"model '{model.name}' has {depth} layers: `frozen` goes from 0 to {depth}")
    stack = next((part for part in encoder.modules() if isinstance(part, nn.ModuleList) and len(part) == depth), None)
    if stack is None:
        raise ModelError(f"model '{model.name}' keeps its layers in another way: leave `frozen` out")
    learning = {id(weight) for part in list(stack)[layers:] for weight in part.parameters()}
    for weight in encoder.parameters():
        weight.requires_grad_(id(weight) in learning)
    return tuple(
        part
        for part in encoder.modules()
        if (weights := list(part.parameters())) and not any(weight.requires_grad for weight in weights)
    )


def _check_size(model: Part, size: int, known: int) -> None:
    if size > known:
        raise ModelError(
            f"model '{model.name}' knows {known:,} numbers, its tokenizer gives {size:,}: set `tokenizer` in its "
            "`preprocessing` to the one that it was trained with"
        )


def quiet() -> None:
    """Reports and progress bars of the library do not belong into ours."""
    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()
