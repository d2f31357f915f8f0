"""What a token's label costs at a translator's vocabulary, and how exact it is then."""

from __future__ import annotations

import numpy as np
import pytest

from schemas.encodings import TopK
from schemas.labels import LabelShape
from stages.labels.encodings import codec_of, label_schema
from stages.labels.statistics import fidelity

BOUND = 114
"""Bytes a token, the token that was said included."""
VOCABULARIES = (16_384, 32_768)
ENCODINGS = (
    TopK(kind="top-k", k=32, values="uint8"),  # 64 + 32 + 4 + 12 bytes
    TopK(kind="top-k", k=24, values="float16"),  # 48 + 48 + 12 bytes
)


def said_token(vocabulary: int) -> int:
    """Bytes of the narrowest integer that names a token."""
    return np.min_scalar_type(vocabulary - 1).itemsize


@pytest.mark.parametrize("encoding", ENCODINGS)
@pytest.mark.parametrize("vocabulary", VOCABULARIES)
def test_a_token_costs_114_bytes_at_most(encoding: TopK, vocabulary: int) -> None:
    """By the schema, and by the arrays that are written."""
    schema = label_schema(tuple(map(str, range(vocabulary))), encoding, LabelShape(kind="token"))
    declared = sum(field.bytes_per_row for field in schema.fields if field.per == "label")
    logits_NC = np.random.default_rng(0).normal(size=(3, vocabulary)).astype(np.float32)
    arrays = codec_of(encoding, vocabulary).encode(logits_NC, np.zeros((3, 4), np.uint32))
    assert sum(array.nbytes for array in arrays.values()) == 3 * declared
    assert declared + said_token(vocabulary) <= BOUND


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_it_stays_close_to_a_peaked_distribution(encoding: TopK) -> None:
    """Logits that fall like a translator's: a few likely tokens, and thousands that hold little together."""
    rng, vocabulary = np.random.default_rng(0), 16_384
    ranks = np.array([rng.permutation(vocabulary) for _ in range(64)])
    exact_NC = (-2.5 * np.log1p(ranks) + rng.normal(0, 0.3, ranks.shape)).astype(np.float32)
    codec = codec_of(encoding, vocabulary)
    measured = fidelity(exact_NC, codec.decode(codec.encode(exact_NC, np.zeros((64, 4), np.uint32))))
    assert measured.bucket_kl_sums["1"] / 64 < 1e-4
    assert measured.full_kl_sums["1"] / 64 < 0.03
    assert measured.top1_agreements == 64
