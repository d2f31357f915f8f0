"""Translation: a text on one of its sides, and the text that it should become, token by token.

A sample has one or more sides (the same in English, in French): columns of text, of which each model reads one. So a
teacher may read the English of a triple and its student the French, which is all that it ever gets. What a model says
is a text in tokens of the task's vocabulary, which is that of a tokenizer with a way back.

Both kinds of distillation rest on one label set: a teacher translates by beam search, and then says its distribution
of each token, forced on its own translation. A student is forced on that translation too. With labels of `hard`
encoding, or the method `hard`, it learns the translation (sequence level, Kim and Rush 2016, arXiv:1606.07947), else
the distribution of each token (word level).

Shapes: B rows, S numbers of a text that is read, T of one that is said, N tokens of all rows, V of the vocabulary.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field, PositiveInt, model_validator

from schemas.base import Contract, Fraction, Part
from schemas.errors import ModelError, SpecError
from schemas.labels import SAID, LabelShape
from stages.tasks._tokenizers import NOTHING, Encode, Tokenizer, open_tokenizer
from stages.tasks.base import BadRow, Packed, Sample, Task

if TYPE_CHECKING:
    import numpy as np
    import torch

    from stages.random import Draws
    from stages.truth import Truth


class TranslationConfig(Contract):
    """Settings of the task."""

    sides: Annotated[tuple[str, ...], Field(min_length=1)] = ("source",)
    """Columns of text that a sample may have; a domain has one of them or more."""
    tokenizer: Tokenizer = Tokenizer(name="words")
    """How a text that is read becomes numbers, where a model does not ask for its own way."""
    tokens: PositiveInt = 64
    """Most numbers of a text that is read; what is longer is cut off."""
    says: Tokenizer = Tokenizer(name="characters")
    """Tokens of what is said, by teachers and students alike: of a tokenizer that gives texts back."""
    said_tokens: PositiveInt = 64
    """Most tokens of a text that is said, its end included."""
    words: Literal["13a", "intl", "zh", "char", "none"] = "13a"
    """How BLEU finds words (sacrebleu's `tokenize`): `zh` for Chinese, `char` where no spaces stand between words."""

    @model_validator(mode="after")
    def _sides(self) -> TranslationConfig:
        if len(set(self.sides)) < len(self.sides) or {"label", "sample_id"} & set(self.sides):
            raise ValueError("`sides` are names of columns, each once, other than label and sample_id")
        return self


class TranslationPrepare(Contract):
    """Settings of a domain's ingest."""

    unicode: Literal["NFC", "NFKC"] = "NFC"
    """Form that characters are brought to, so that texts which look alike are one text (NFKC: also wide, small and
    joined letters)."""


class TranslationPreprocessing(Contract):
    """What a model reads, and how it searches."""

    side: str | None = None
    """The one side that it reads; left out: the first of the task's."""
    tokenizer: Tokenizer | None = None
    """Its own tokenizer for that; left out: the task's."""
    tokens: PositiveInt | None = None
    """Most numbers of a text that is read; left out: the task's."""
    beams: PositiveInt = 4
    """Translations that its search keeps at a time; 1 takes the likeliest token each time."""


class TranslationAugmentation(Contract):
    """Random changes of a text that is read, word by word and before any tokenizer, anew for each sample and step."""

    drop: Fraction = 0.0
    """Share of the words that are left out; one always stays."""


class Translation(Task):
    """Texts and their translations."""

    Config = TranslationConfig
    Prepare = TranslationPrepare
    Preprocessing = TranslationPreprocessing
    Augmentation = TranslationAugmentation
    coded = True
    forces = True
    metrics = ("bleu", "chrf")
    forced_metric = "tokens_right"
    models = ("marian", "marian-light")
    libraries = ("transformers/NAME",)

    def __init__(self, config: TranslationConfig) -> None:
        """Raises SpecError for tokens that no text can be made of."""
        super().__init__(config)
        self.roles = config.sides
        self.optional = frozenset(config.sides)
        if self._says.end is None:
            raise SpecError(
                f"task.says: tokenizer '{config.says.name}' gives no texts back: use characters, bpe, or a "
                "tokenizer.json with a sign for the end of a text (</s>)"
            )

    # --- samples ---------------------------------------------------------------------------------------------

    def pack(self, row: Mapping[str, Any], prepare: TranslationPrepare) -> Sample:
        """A source row as a sample: its sides in one Unicode form."""
        from stages.tasks._texts import pack_text

        sides = [pack_text(row[side], side, prepare.unicode) for side in self.roles if side in row]
        if not sides:
            raise BadRow(f"the row is empty: it has none of the sides {', '.join(self.roles)}")
        values = {role: value for side in sides for role, value in side.values.items()}
        columns = {role: column for side in sides for role, column in side.columns.items()}
        parts = [part for role in sorted(values) for part in (role.encode(), values[role])]
        return Sample(values, columns, b"".join(len(part).to_bytes(8, "little") + part for part in parts))

    def pack_truth(self, value: Any, classes: Sequence[str]) -> int:
        """A translation is no class."""
        raise NotImplementedError

    def class_name(self, value: Any) -> str:
        """A translation is no class."""
        raise NotImplementedError

    def code_truth(self, value: Any) -> bytes:
        """A translation as UTF-8, its characters composed."""
        from stages.tasks._texts import pack_text

        return pack_text(value, "label", "NFC").values["label"]

    def vocabulary(self) -> tuple[str, ...]:
        """The tokens by name."""
        return self._says.names

    @property
    def label_shape(self) -> LabelShape:
        """One label a token."""
        return LabelShape(kind="token")

    # --- items -----------------------------------------------------------------------------------------------

    def asked(self, truth: Truth) -> torch.Tensor:
        """Tokens of true translations, int64 (B, T), NOTHING after their end."""
        import torch

        texts = [value.decode("utf-8") if isinstance(value, bytes) else "" for value in truth]
        return torch.from_numpy(self._says(texts))

    def recalled(
        self, items: np.ndarray, stored: Mapping[str, np.ndarray], seen: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Tokens of a teacher's translations, int64 (B, T), from how many there are of each (B,) and all of them."""
        import numpy as np
        import torch

        asked_BT = np.full((len(items), self.config.said_tokens), NOTHING, np.int64)
        asked_BT[np.arange(self.config.said_tokens) < items[:, None]] = stored[SAID]
        return torch.from_numpy(asked_BT)

    def forced(self, batch: torch.Tensor, asked: torch.Tensor) -> torch.Tensor:
        """(B, S) and (B, T) as one (B, S + T)."""
        import torch

        return torch.cat([batch, asked], dim=1)

    def items(self, forced: torch.Tensor) -> torch.Tensor:
        """Tokens of each translation that a batch is forced on (B,)."""
        return (forced[:, -self.config.said_tokens :] != NOTHING).sum(dim=1)

    def targets(self, asked: torch.Tensor, forced: torch.Tensor | None = None) -> torch.Tensor:
        """All tokens, row after row (N,)."""
        return asked[asked != NOTHING]

    def compared(self, said: np.ndarray) -> np.ndarray:
        """Translations are compared as a whole."""
        return said

    # --- tensors ---------------------------------------------------------------------------------------------

    def reads(self, preprocessing: TranslationPreprocessing) -> tuple[str, ...]:
        """The one side."""
        side = preprocessing.side or self.roles[0]
        if side not in self.roles:
            raise SpecError(f"preprocessing: '{side}' is none of the task's `sides` ({', '.join(self.roles)})")
        return (side,)

    def batch(self, packed: Packed, preprocessing: TranslationPreprocessing) -> torch.Tensor:
        """The texts that are read as int64 (B, S): a tokenizer's numbers, NOTHING where a text has ended."""
        return self._batch(self._read(packed, preprocessing), preprocessing)

    def augmented(
        self,
        packed: Packed,
        preprocessing: TranslationPreprocessing,
        augmentation: TranslationAugmentation,
        draws: Draws,
    ) -> torch.Tensor:
        """As `batch`, of texts that miss some of their words."""
        from stages.tasks._texts import WORDS, changed

        texts = self._read(packed, preprocessing)
        if augmentation.drop:
            texts = changed(texts, augmentation.drop, 0.0, None, draws("words", WORDS))
        return self._batch(texts, preprocessing)

    def fake_batch(self, rows: int, preprocessing: TranslationPreprocessing) -> torch.Tensor:
        """Numbers in order, each row one shorter than that before it, forced on a text: (rows, S + T)."""
        import torch

        from stages.truth import as_truth

        tokenizer, longest = self._tokenizer(preprocessing), self._longest(preprocessing)
        batch = (torch.arange(longest) % tokenizer.size).repeat(rows, 1)
        for row in range(rows):
            batch[row, max(1, longest - row) :] = NOTHING
        return self.forced(batch, self.asked(as_truth([b"one"] * rows, coded=True)))

    # --- models and metrics ----------------------------------------------------------------------------------

    def build(self, model: Part, outputs: int, preprocessing: TranslationPreprocessing) -> torch.nn.Module:
        """A network from numbers that are read, (B, S), to tokens (B, T); forced, (B, S + T), to logits (N, V)."""
        from stages.tasks._translation_networks import Search, translator

        if outputs != self._says.size:
            raise ModelError(
                f"model '{model.name}' is to say one of {outputs:,} tokens, the task has {self._says.size:,}"
            )
        longest = self._longest(preprocessing)
        search = Search(reads=longest, says=self.config.said_tokens, beams=preprocessing.beams)
        return translator(model, self._tokenizer(preprocessing).size, self._says.size, self._end, search)

    def score(self, logits: np.ndarray, truth: np.ndarray, metrics: Sequence[str]) -> dict[str, float]:
        """Metrics of tokens that were said (B, T) against true translations (B,); without rows, nothing."""
        import numpy as np

        if not len(truth):
            return {}
        once = np.ones((1, len(truth)), np.int64)
        return {metric: float(self.score_rows(logits, truth, metric, once)[0]) for metric in metrics}

    def score_rows(self, logits: np.ndarray, truth: np.ndarray, metric: str, weights: np.ndarray) -> np.ndarray:
        """A metric of the corpus under each of W re-weightings of its sentences: (W, B) to (W,)."""
        from stages.tasks._translation_metrics import corpus_score, statistics

        said = [self._says.decode([int(token) for token in row if token not in (NOTHING, self._end)]) for row in logits]
        true = [value.decode("utf-8") for value in truth]
        return corpus_score(metric, statistics(metric, said, true, self.config.words), weights)

    def _read(self, packed: Packed, preprocessing: TranslationPreprocessing) -> list[str]:
        from stages.tasks._texts import decoded

        (side,) = self.reads(preprocessing)
        return decoded(packed[side])

    def _batch(self, texts: list[str], preprocessing: TranslationPreprocessing) -> torch.Tensor:
        import torch

        return torch.from_numpy(self._tokenizer(preprocessing)(texts))

    def _tokenizer(self, preprocessing: TranslationPreprocessing) -> Encode:
        return open_tokenizer(preprocessing.tokenizer or self.config.tokenizer, self._longest(preprocessing))

    def _longest(self, preprocessing: TranslationPreprocessing) -> int:
        longest: int = preprocessing.tokens or self.config.tokens
        return longest

    @property
    def _says(self) -> Encode:
        return open_tokenizer(self.config.says, self.config.said_tokens)

    @property
    def _end(self) -> int:
        return int(self._says.end or 0)


TASK = Translation
