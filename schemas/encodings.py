"""Encodings: how one label is kept. A closed set, since every reader must know each."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AfterValidator, Field, NonNegativeInt, PositiveFloat, PositiveInt

from schemas.base import Contract


def _rising(values: tuple[float, ...]) -> tuple[float, ...]:
    if list(values) != sorted(set(values)):
        raise ValueError("temperatures rise, each once")
    return values


Temperatures = Annotated[tuple[PositiveFloat, ...], Field(min_length=1, max_length=8), AfterValidator(_rising)]
"""Temperatures in rising order, each once."""


class Dense(Contract):
    """All raw logits of a row. Temperature stays the student's choice."""

    kind: Literal["dense"] = "dense"
    """Tag of the encoding."""
    dtype: Literal["float32", "float16", "bfloat16"] = "float16"
    """Type of one logit; bfloat16 is stored as uint16 of its bits."""


class TopK(Contract):
    """The largest logits of a row, and for each declared temperature one number that holds all the others."""

    kind: Literal["top-k"]
    """Tag of the encoding."""
    k: PositiveInt | None = 64
    """Classes kept per row, at most all of them. With `mass` the most that are kept; null for no such bound."""
    mass: Annotated[float, Field(gt=0, le=1)] | None = None
    """Share of probability (at temperature 1) that the kept classes hold at least; rows then differ in length."""
    values: Literal["float16", "uint8"] = "float16"
    """Type of one kept logit; uint8 is affine between the smallest and the largest kept logit of its row."""
    temperatures: Temperatures = (1.0, 2.0, 4.0)
    """Temperatures whose log-sum-exp of the classes not kept is stored. Students may use these and any above."""


class LowRank(Contract):
    """A few numbers per row, and one basis per set that makes logits of them."""

    kind: Literal["low-rank"]
    """Tag of the encoding."""
    rank: PositiveInt = 64
    """Numbers per row, at most one less than classes. For a teacher whose head reads d features, d is exact."""
    dtype: Literal["int8", "float16"] = "int8"
    """Type of one number; int8 is scaled per row."""


class Sampled(Contract):
    """Classes drawn from the teacher's distribution with their counts: unbiased in expectation, for large vocabularies.

    Random Sampling Knowledge Distillation in "Sparse Logit Sampling" (Anshumann et al. 2025, arXiv:2503.16870).
    """

    kind: Literal["sampled"]
    """Tag of the encoding."""
    draws: Annotated[int, Field(ge=1, le=65535)] = 50
    """Draws per row with replacement; a row holds each class that came at least once."""
    temperature: PositiveFloat = 1.0
    """Temperature of the distribution that is drawn from, and the only one that students can use."""
    seed: NonNegativeInt = 0
    """Seed of the draws, which belong to a sample's content."""


class Hard(Contract):
    """The most likely class and its probability."""

    kind: Literal["hard"]
    """Tag of the encoding."""


Encoding = Annotated[Dense | TopK | LowRank | Sampled | Hard, Field(discriminator="kind")]
"""The closed set."""
