"""Text classification: one text, one of C classes.

Texts are packed as UTF-8 and become numbers by a tokenizer: the task's, or one that a model asks for. So teacher and
student may read one sample through two tokenizers.

Shapes: B rows, L numbers of a text.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import PositiveInt, model_validator

from schemas.base import Contract, Fraction, Part
from stages.tasks._classification import Classification
from stages.tasks._tokenizers import Encode, Tokenizer, open_tokenizer
from stages.tasks.base import Packed, Sample

if TYPE_CHECKING:
    import torch

    from stages.random import Draws


class TextConfig(Contract):
    """Settings of the task."""

    tokenizer: Tokenizer = Tokenizer(name="words")
    """How text becomes numbers, where a model does not ask for its own way."""
    tokens: PositiveInt = 64
    """Most numbers of a text, the signs around it included; what is longer is cut off."""


class TextPrepare(Contract):
    """Settings of a domain's ingest."""

    unicode: Literal["NFC", "NFKC"] = "NFC"
    """Form that characters are brought to, so that texts which look alike are one text (NFKC: also wide, small and
    joined letters)."""


class TextPreprocessing(Contract):
    """How a model wants its texts."""

    tokenizer: Tokenizer | None = None
    """Its own tokenizer; left out: the task's."""
    tokens: PositiveInt | None = None
    """Most numbers of a text; left out: the task's `tokens`."""


class TextAugmentation(Contract):
    """Random changes of a training text, word by word and before any tokenizer, anew for each sample and step."""

    drop: Fraction = 0.0
    """Share of the words that are left out; one always stays."""
    mask: Fraction = 0.0
    """Share of the words in whose place the tokenizer's sign for a hidden word stands."""

    @model_validator(mode="after")
    def _shares(self) -> TextAugmentation:
        if self.drop + self.mask > 1:
            raise ValueError(f"`drop` and `mask` are shares of the same words: {self.drop + self.mask:g} is above 1")
        return self


class TextClassification(Classification):
    """Texts and their classes."""

    Config: ClassVar[type[TextConfig]] = TextConfig
    Prepare = TextPrepare
    Preprocessing = TextPreprocessing
    Augmentation = TextAugmentation
    roles = ("text",)
    metrics: ClassVar[tuple[str, ...]] = ("balanced_accuracy", "accuracy", "macro_f1", "calibration_error", "nll")
    models = ("minilm", "transformer-light", "text-cnn", "embedding-bag")
    libraries = ("transformers/NAME",)

    def pack(self, row: Mapping[str, Any], prepare: TextPrepare) -> Sample:
        """A source row as a sample: its text in one Unicode form."""
        from stages.tasks._texts import pack_text

        return pack_text(row.get("text"), "text", prepare.unicode)

    def batch(self, packed: Packed, preprocessing: TextPreprocessing) -> torch.Tensor:
        """Packed texts as int64 (B, L): a tokenizer's numbers, -1 where a text has ended."""
        from stages.tasks._texts import decoded

        return self._batch(decoded(packed["text"]), preprocessing)

    def augmented(
        self, packed: Packed, preprocessing: TextPreprocessing, augmentation: TextAugmentation, draws: Draws
    ) -> torch.Tensor:
        """As `batch`, of texts that miss some of their words: the same words whatever the tokenizer."""
        from stages.tasks._texts import WORDS, changed, decoded

        texts = decoded(packed["text"])
        if augmentation.drop or augmentation.mask:
            mask = self._tokenizer(preprocessing).mask
            texts = changed(texts, augmentation.drop, augmentation.mask, mask, draws("words", WORDS))
        return self._batch(texts, preprocessing)

    def fake_batch(self, rows: int, preprocessing: TextPreprocessing) -> torch.Tensor:
        """Numbers in order, each row one shorter than that before it, (rows, L)."""
        import torch

        tokenizer, longest = self._tokenizer(preprocessing), self._longest(preprocessing)
        batch = (torch.arange(longest) % tokenizer.size).repeat(rows, 1)
        for row in range(rows):
            batch[row, max(1, longest - row) :] = -1
        return batch

    def build(self, model: Part, outputs: int, preprocessing: TextPreprocessing) -> torch.nn.Module:
        """A network over its tokenizer's numbers: (B, L) to raw logits (B, outputs)."""
        from stages.tasks._text_networks import text_network

        return text_network(model, self._tokenizer(preprocessing).size, self._longest(preprocessing), outputs)

    def _batch(self, texts: list[str], preprocessing: TextPreprocessing) -> torch.Tensor:
        import torch

        return torch.from_numpy(self._tokenizer(preprocessing)(texts))

    def _tokenizer(self, preprocessing: TextPreprocessing) -> Encode:
        settings: Tokenizer = preprocessing.tokenizer or self.config.tokenizer
        return open_tokenizer(settings, self._longest(preprocessing))

    def _longest(self, preprocessing: TextPreprocessing) -> int:
        longest: int = preprocessing.tokens or self.config.tokens
        return longest


TASK = TextClassification
