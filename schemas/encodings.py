"""Encodings: how one label is kept. A closed set, since every reader must know each."""

from __future__ import annotations

from typing import Literal

from schemas.base import Contract


class Dense(Contract):
    """All raw logits of a row. Temperature stays the student's choice."""

    kind: Literal["dense"] = "dense"
    """Tag of the encoding."""
    dtype: Literal["float32", "float16", "bfloat16"] = "float16"
    """Type of one logit; bfloat16 is stored as uint16 of its bits."""


Encoding = Dense
"""The closed set; more members make it a union on `kind`."""
