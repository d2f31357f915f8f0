"""Two label sets compared: figures by hand, by scipy's formula, and on sets that share only some samples."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional

from schemas.encodings import Dense, TopK
from schemas.errors import StoreError
from stages.labels.diff import diff_sets
from stages.labels.importing import import_set
from stages.labels.reader import LabelSet
from stages.places import Place
from tests.labels.test_commands import refused, said

NAMES = ["a", "b", "c"]
IDS = [f"s{row}" for row in range(6)]
LOGITS = np.random.default_rng(1).normal(size=(6, 3)).astype("f4") * 2


def make(folder: Path, name: str, logits: np.ndarray, ids: list[str], classes: list[str] = NAMES) -> LabelSet:
    np.save(folder / f"{name}.npy", logits)
    place = Place(str(folder / "store"))
    manifest = import_set(folder / f"{name}.npy", place, Dense(dtype="float32"), classes, ids)
    return LabelSet.open(place, manifest.fingerprint)


def test_figures_are_torchs(tmp_path: Path) -> None:
    """Other rows, other order of samples and of classes."""
    other = LOGITS[::-1] * 0.5 + np.arange(3, dtype="f4")
    first = make(tmp_path, "first", LOGITS, IDS)
    second = make(tmp_path, "second", other[:5][:, [2, 0, 1]], IDS[::-1][:5], ["c", "a", "b"])
    found = diff_sets(first, second, 2.0)
    p, q = (functional.log_softmax(torch.from_numpy(x.copy()) / 2, 1) for x in (LOGITS[1:], other[:5][::-1]))
    kl, back = (functional.kl_div(b, a, reduction="none", log_target=True).sum(1) for a, b in ((p, q), (q, p)))
    assert (found.common, found.only_first, found.only_second, found.other_content) == (5, 1, 0, 0)
    assert found.kl == pytest.approx(float(kl.mean()), rel=1e-5)
    assert found.kl_back == pytest.approx(float(back.mean()), rel=1e-5)
    same = p.argmax(1) == q.argmax(1)
    assert found.agreement == pytest.approx(float(same.float().mean()))
    assert sum(item.samples for item in found.classes) == 5
    assert found.worst[0][0] == IDS[1 + int((kl + back).argmax())]
    assert found.worst[0][1] == pytest.approx(float((kl + back).max()), rel=1e-5)


def test_a_set_and_itself(tmp_path: Path) -> None:
    first = make(tmp_path, "first", LOGITS, IDS)
    found = diff_sets(first, first)
    assert (found.agreement, found.kl, found.kl_back) == (1.0, 0.0, 0.0)


def test_what_cannot_be_compared(tmp_path: Path) -> None:
    first = make(tmp_path, "first", LOGITS, IDS)
    with pytest.raises(StoreError, match=r"same classes: 2 stand on one side only \(first: 'c'\)"):
        diff_sets(first, make(tmp_path, "second", LOGITS, IDS, ["a", "b", "d"]))
    with pytest.raises(StoreError, match=r"no sample in common \(6 and 6 samples\)"):
        diff_sets(first, make(tmp_path, "third", LOGITS, [f"t{row}" for row in range(6)]))


def test_as_a_person_types_it(tmp_path: Path) -> None:
    first = make(tmp_path, "first", LOGITS, IDS)
    place = Place(str(tmp_path / "other"))
    sparse = import_set(tmp_path / "first.npy", place, TopK(kind="top-k", k=1), NAMES, IDS)
    words = ("diff", str(tmp_path / "store"), first.fingerprint[:8], sparse.fingerprint[:8], "--in", place.uri)
    shown = said(*words)
    assert "6 samples in both" in shown
    assert "1.0000 agree" in shown
    found = json.loads(said(*words, "--json"))
    assert found["kl"] > 0
    assert "temperature 0.5 lies below" in refused(*words, "--temperature", "0.5")
