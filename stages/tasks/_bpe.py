"""Byte-pair encodings learned from the texts of an example (Sennrich et al. 2016, arXiv:1508.07909).

Learned anew in every process, in a third of a second for 15,000 strings, and the same each time. Of texts of your own
make a `tokenizer.json` with the tokenizers library once, and lay it beside the spec.
"""

from __future__ import annotations

from importlib.metadata import version

from schemas.canonical import digest
from schemas.errors import DataError
from stages.domains.examples import EXAMPLES

END, UNKNOWN = "</s>", "<unk>"
VERSION = 1
"""Raised where the same texts give another encoding."""


def digest_of(example: str, columns: tuple[str, ...], size: int, lowercase: bool) -> str:
    """What stands for the encoding in fingerprints: the texts' pinned hash and how it is learned. Fetches nothing."""
    source = {"example": EXAMPLES.get(example).sha256, "columns": columns}
    how = {"size": size, "lowercase": lowercase, "version": VERSION, "tokenizers": version("tokenizers")}
    return digest({"bpe": source | how})


def learned(example: str, columns: tuple[str, ...], size: int, lowercase: bool) -> bytes:
    """A `tokenizer.json` of `size` tokens at most. Raises DataError if the example cannot be had."""
    rows = EXAMPLES.get(example).rows()
    if missing := [column for column in columns if column not in rows]:
        raise DataError(f"tokenizer 'bpe': example '{example}' has no column '{missing[0]}', it has {', '.join(rows)}")
    return learned_from([text for column in columns for text in rows[column].tolist()], size, lowercase)


def learned_from(texts: list[str], size: int, lowercase: bool = False) -> bytes:
    """A `tokenizer.json`; a text comes back as it was, but for single spaces and signs that the texts do not have."""
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

    inner = Tokenizer(models.BPE(unk_token=UNKNOWN))
    steps = [normalizers.NFC(), *([normalizers.Lowercase()] if lowercase else [])]
    inner.normalizer = normalizers.Sequence(steps)
    inner.pre_tokenizer = pre_tokenizers.Metaspace()
    inner.decoder = decoders.Metaspace()
    trainer = trainers.BpeTrainer(vocab_size=size, special_tokens=[END, UNKNOWN], show_progress=False, min_frequency=2)
    inner.train_from_iterator(texts, trainer)
    inner.post_processor = processors.TemplateProcessing(single=f"$A {END}", special_tokens=[(END, 0)])
    return str(inner.to_str()).encode()
