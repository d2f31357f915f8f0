"""The format of a set, pinned byte for byte: a difference here means a new version of the layout."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from schemas.encodings import Dense
from stages.labels.reader import LabelSet
from stages.places import Place
from tests.labels.fakes import FakeSamples, OracleTeacher, inputs_for, make_fake_set

IDS_DIGEST = "148347003caee4cf0531a0a963a09e4c"
ALIKE = {
    "content_id/c/0/0": (68, "de60963326035cd7bfbd5fc915d88ff4"),
    "content_id/zarr.json": (902, "c17452050a782a1b6a8e80432a4bde62"),
    "fidelity_logits/c/0/0": (68, "58ef0aa5fdb142dc0c87dcb3b4567864"),
    "fidelity_logits/zarr.json": (982, "48c1bb688c9ddc33840008e3294848c1"),
    "fidelity_position/c/0": (32, "b1a545031f60d57fb86294457e8cd02b"),
    "fidelity_position/zarr.json": (947, "f9aef78e49141744d1a306e9a11fea82"),
    "sample_id/c/0/0": (59, "f2a0c835c08895f4823aa218bc8ce080"),
    "sample_id/zarr.json": (902, "e303fb9256605b8b045ed4054b2fd9e5"),
}
"""Objects that do not depend on the encoding: size and blake2b-128."""
PINNED = {
    "float16": (
        "5245562022175d933502a9554e3caa2f",
        "00cd61b0ead2e5b02263802724fbfaf1",
        {
            "logits/c/0/0": (44, "e5e44a86beea42d302fe4ad307a0313b"),
            "logits/zarr.json": (982, "66459c581ec9a533c89576932c7ce04c"),
            "zarr.json": (246, "bdc1c3bd5fab3304b1d2f5fa19b16064"),
        },
    ),
    "bfloat16": (
        "35e1c41c2f98d466325c6daff53ad11d",
        "ad160152c2698812e444f09bc025e82a",
        {
            "logits/c/0/0": (44, "37b55ccd842e30a2c47b8f5600d09311"),
            "logits/zarr.json": (979, "e472d0f1d0c776425ef235ab14b0cb7d"),
            "zarr.json": (247, "e92d921638aaa54e4e8d654e7adcfd5b"),
        },
    ),
    "float32": (
        "8b2d597a257b849c6fd98406e04bd1e0",
        "e7cb756efd4188c49a47ac7bb0280559",
        {
            "logits/c/0/0": (68, "58ef0aa5fdb142dc0c87dcb3b4567864"),
            "logits/zarr.json": (982, "48c1bb688c9ddc33840008e3294848c1"),
            "zarr.json": (246, "da2a80270a08e060263c770c2bdda68d"),
        },
    ),
}
"""By type: root digest, key of the one unit, and its objects."""


def ramp(batch: torch.Tensor) -> torch.Tensor:
    """Logits -1, -0.63, … over the whole batch."""
    return torch.arange(batch.numel()).reshape(batch.shape) * 0.37 - 1


@pytest.mark.parametrize("dtype", sorted(PINNED))
def test_a_tiny_set_is_these_bytes(tmp_path: Path, dtype: str) -> None:
    samples, inputs = FakeSamples((3,), zero=True), inputs_for(Dense.model_validate({"dtype": dtype}))
    manifest = make_fake_set(Place(str(tmp_path)), samples, OracleTeacher(ramp), inputs)
    receipt = LabelSet.open(str(tmp_path)).units[0].receipt
    root, key, objects = PINNED[dtype]
    assert {item.name: (item.size, item.checksum) for item in receipt.objects} == ALIKE | objects
    assert (receipt.key, receipt.ids_digest, manifest.digest) == (key, IDS_DIGEST, root)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["sets", "store.json", "units"]
    assert len(list(tmp_path.glob(f"units/{key}/*"))) == 2
