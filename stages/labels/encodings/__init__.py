"""Encodings of labels, one file each: a closed set, since every reader must know each."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Literal, assert_never

from schemas.canonical import identity
from schemas.encodings import Dense, Encoding, Hard, LowRank, Sampled, TopK
from schemas.errors import StoreError
from schemas.labels import ENTROPY, FEATURES, MARGIN, SAID, Extra, FieldSchema, LabelSchema, LabelShape
from stages.labels.decoded import check_temperature
from stages.labels.encodings.base import KEPT, Codec
from stages.labels.encodings.dense import DenseCodec
from stages.labels.encodings.hard import HardCodec
from stages.labels.encodings.low_rank import Basis, LowRankCodec
from stages.labels.encodings.sampled import SampledCodec
from stages.labels.encodings.top_k import TopKCodec

__all__ = [
    "BOX",
    "ITEMS",
    "KEPT",
    "SCORE",
    "Basis",
    "Codec",
    "check_schema",
    "check_temperatures",
    "codec_of",
    "difficulty_fields",
    "extras_of",
    "features_field",
    "label_schema",
    "said_field",
]

_BYTES = {"float16": 2, "float32": 4, "uint8": 1, "uint16": 2, "uint32": 4}
ITEMS, BOX, SCORE = "items", "box", "score"
"""Arrays of ragged shapes: labels of each sample; place and score of each box."""


def codec_of(encoding: Encoding, classes: int, basis: Basis | None = None) -> Codec:
    """What encodes and decodes labels of this kind; `basis` is needed where one is shared by a set."""
    match encoding:
        case Dense():
            return DenseCodec(encoding, classes)
        case TopK():
            return TopKCodec(encoding, classes)
        case LowRank():
            return LowRankCodec(encoding, classes, basis)
        case Sampled():
            return SampledCodec(encoding, classes)
        case Hard():
            return HardCodec(encoding, classes)
    assert_never(encoding)


def check_temperatures(encoding: Encoding, temperatures: Iterable[float]) -> None:
    """Raise StoreError for a temperature that labels of this kind cannot be read at."""
    for tau in temperatures:
        match encoding:
            case TopK():
                check_temperature(tau, encoding.temperatures, tempered=True)
            case Sampled():
                check_temperature(tau, (encoding.temperature,), tempered=False)
            case Hard():
                check_temperature(tau, (1.0,), tempered=True)
            case Dense() | LowRank():
                pass
            case _:
                assert_never(encoding)


def label_schema(
    classes: tuple[str, ...],
    encoding: Encoding,
    shape: LabelShape | None = None,
    extras: tuple[Extra, ...] = (),
    basis: Basis | None = None,
) -> LabelSchema:
    """What a label over these classes is, array by array."""
    shape = shape or LabelShape()
    fields = _of_shape(codec_of(encoding, len(classes), basis).fields(), shape)
    return LabelSchema(
        shape=shape,
        classes=classes,
        encoding=encoding,
        basis=None if basis is None else basis.digest,
        fields=(*fields, *_beside(shape), *(_extra(item, shape) for item in extras)),
    )


def check_schema(schema: LabelSchema, where: str) -> None:
    """Raise StoreError unless a schema holds the arrays that its shape and encoding have; extra ones may follow."""
    fields = codec_of(schema.encoding, len(schema.classes)).fields()
    wanted = [identity(field) for field in (*_of_shape(fields, schema.shape), *_beside(schema.shape))]
    if [identity(field) for field in schema.fields[: len(wanted)]] != wanted:
        raise StoreError(
            f"{where} describes other arrays than its encoding and shape have: it was edited, or written by another "
            "release. Label again with --force labels"
        )
    names = [field.name for field in schema.fields]
    known = {SAID: ("uint8", "uint16", "uint32")}
    strange = [
        field.name
        for field in schema.fields[len(wanted) :]
        if field.dtype not in known.get(field.name, ("float16", "float32"))
    ]
    if len(set(names)) < len(names) or strange:
        raise StoreError(f"{where} describes arrays that no release writes ({', '.join(strange or names)[:200]})")


def extras_of(schema: LabelSchema) -> tuple[FieldSchema, ...]:
    """A schema's fields beside those of its encoding and shape."""
    own = {field.name for field in label_schema(schema.classes, schema.encoding, schema.shape).fields}
    return tuple(field for field in schema.fields if field.name not in own)


def features_field(width: int, dtype: Literal["float16", "float32"]) -> Extra:
    """The extra field of a teacher's penultimate features (`stages.training.penultimate`)."""
    words = "What the teacher's head reads, one vector a sample."
    return Extra(name=FEATURES, width=width, dtype=dtype, per="sample", description=words)


def difficulty_fields(names: Iterable[str]) -> tuple[Extra, ...]:
    """The extra fields that say how hard a label is (`stages.labels.builder.difficulty`)."""
    words = {ENTROPY: "Entropy at temperature 1, in nats.", MARGIN: "Gap between the two largest probabilities."}
    return tuple(Extra(name=name, description=words[name]) for name in names)


def said_field(classes: int) -> Extra:
    """The extra field of what a teacher that is forced said, item by item: in the narrowest type that names a class."""
    dtype: Literal["uint8", "uint16", "uint32"] = (
        "uint8" if classes <= 2**8 else "uint16" if classes <= 2**16 else "uint32"
    )
    return Extra(
        name=SAID, dtype=dtype, description="The class that the teacher took, before it came to the next item."
    )


def _of_shape(fields: tuple[FieldSchema, ...], shape: LabelShape) -> tuple[FieldSchema, ...]:
    """An encoding's arrays; those of a grid's labels have a row of cells for each sample."""
    if shape.kind != "pixel":
        return fields
    cells = math.prod(shape.grid)
    return tuple(
        field.model_copy(update={"shape": (*shape.grid, *field.shape), "bytes_per_row": field.bytes_per_row * cells})
        if field.per == "label"
        else field
        for field in fields
    )


def _beside(shape: LabelShape) -> tuple[FieldSchema, ...]:
    """Arrays that a shape has in every encoding."""
    if not shape.ragged:
        return ()
    items = FieldSchema(
        name=ITEMS, dtype="uint32", bytes_per_row=4, per="sample", description=f"Labels of the sample ({shape.kind}s)."
    )
    if shape.kind == "token":
        return (items,)
    box = FieldSchema(
        name=BOX,
        dtype="float32",
        shape=(4,),
        bytes_per_row=16,
        description="Left, top, right, bottom as shares of the picture's width and height.",
    )
    score = FieldSchema(name=SCORE, dtype="float32", bytes_per_row=4, description="How sure the teacher is of the box.")
    return items, box, score


def _extra(extra: Extra, shape: LabelShape) -> FieldSchema:
    """The array of an extra field."""
    grid = shape.grid if shape.kind == "pixel" and extra.per == "label" else ()
    cells = math.prod(grid)
    return FieldSchema(
        name=extra.name,
        dtype=extra.dtype,
        shape=(*grid, *(() if extra.width is None else (extra.width,))),
        bytes_per_row=cells * (extra.width or 1) * _BYTES[extra.dtype],
        description=extra.description,
        per=extra.per,
    )
