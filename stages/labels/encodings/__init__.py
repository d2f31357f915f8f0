"""Encodings of labels, one file each: a closed set, since every reader must know each."""

from __future__ import annotations

from schemas.encodings import Dense, Encoding
from schemas.labels import LabelSchema
from stages.labels.encodings.base import Codec
from stages.labels.encodings.dense import DenseCodec

__all__ = ["Codec", "codec_of", "label_schema"]


def codec_of(encoding: Encoding) -> Codec:
    """What encodes and decodes labels of this kind."""
    match encoding:
        case Dense():
            return DenseCodec(encoding)


def label_schema(classes: tuple[str, ...], encoding: Encoding) -> LabelSchema:
    """What a label over these classes is, field by field."""
    return LabelSchema(classes=classes, encoding=encoding, fields=codec_of(encoding).fields(len(classes)))
