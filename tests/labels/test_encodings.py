"""Encodings: round trips to the last bit they keep, and refusal of what does not fit."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from schemas.encodings import Dense
from schemas.errors import StoreError
from stages.labels.encodings import codec_of, label_schema

LOGITS = arrays("f4", st.tuples(st.integers(1, 5), st.integers(1, 7)), elements=st.floats(-60000, 60000, width=32))
NOBODY = np.zeros((5, 4), np.uint32)
"""Counters for encodings that draw nothing."""
UNIT = {"float32": 0.0, "float16": 2.0**-11, "bfloat16": 2.0**-8}
"""Half a unit in the last place of each type, relative."""


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
@given(logits_BC=LOGITS)
def test_dense_keeps_what_its_type_holds(dtype: str, logits_BC: np.ndarray) -> None:
    codec = codec_of(Dense.model_validate({"dtype": dtype}), logits_BC.shape[1])
    encoded = codec.encode(logits_BC, NOBODY)
    decoded_BC = codec.decode(encoded).dense()
    assert decoded_BC.dtype == np.float32
    error = np.abs(decoded_BC.astype("f8") - logits_BC)
    assert (error <= UNIT[dtype] * np.abs(logits_BC.astype("f8")) + 2.0**-25).all()
    again = codec.encode(decoded_BC, NOBODY)
    assert all(np.array_equal(again[name], encoded[name]) for name in encoded)


@given(logits_BC=LOGITS)
def test_bfloat16_rounds_as_torch_does(logits_BC: np.ndarray) -> None:
    bits = codec_of(Dense(dtype="bfloat16"), logits_BC.shape[1]).encode(logits_BC, NOBODY)["logits"]
    expected = torch.from_numpy(logits_BC.copy()).bfloat16().view(torch.uint16).numpy()
    assert np.array_equal(bits, expected)


@pytest.mark.parametrize(("dtype", "fits", "too_large"), [("float16", 65504.0, 65505.0), ("bfloat16", 3.3e38, 3.4e38)])
def test_a_logit_that_does_not_fit_is_refused_with_the_mend(dtype: str, fits: float, too_large: float) -> None:
    codec = codec_of(Dense.model_validate({"dtype": dtype}), 2)
    assert np.isfinite(codec.decode(codec.encode(np.array([[-fits, 0.0]], "f4"), NOBODY)).dense()).all()
    with pytest.raises(StoreError, match="`dtype` to float32"):
        codec.encode(np.array([[0.0, -too_large]], "f4"), NOBODY)


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_schema_states_the_bytes_of_a_row(dtype: str) -> None:
    encoding = Dense.model_validate({"dtype": dtype})
    schema = label_schema(("a", "b", "c"), encoding)
    encoded = codec_of(encoding, 3).encode(np.zeros((5, 3), "f4"), NOBODY)
    for field in schema.fields:
        stored = encoded[field.name]
        assert (stored.dtype.name, stored.shape[1:], stored.nbytes // 5) == (
            field.dtype,
            field.shape,
            field.bytes_per_row,
        )
