"""Label sets as tables: every shape, and the same rows from Arrow, pandas and Ray."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from schemas.encodings import TopK
from stages.context import Context
from stages.labels.reader import LabelSet
from stages.places import Place
from tests.labels.fakes import FakeSamples, OracleTeacher, inputs_for, make_fake_set

ROWS = (3, 2)
RAGGED = TopK(kind="top-k", k=None, mass=0.9, temperatures=(1.0,))


def make(folder: Path, encoding: TopK | None = None) -> LabelSet:
    make_fake_set(Place(str(folder)), FakeSamples(ROWS), OracleTeacher(), inputs_for(encoding))
    return LabelSet.open(str(folder))


def test_arrow_and_pandas(tmp_path: Path) -> None:
    labels, samples = make(tmp_path), FakeSamples(ROWS)
    table = labels.to_arrow()
    assert table.column_names == ["sample_id", "content_id", "logits"]
    assert table["sample_id"].to_pylist() == samples.sample_ids(0) + samples.sample_ids(1)
    assert table["content_id"][3].as_py() == samples.content_ids(1)[0].tobytes()
    stored = labels.gather(np.arange(5))["logits"]
    assert np.array_equal(np.array(table["logits"].to_pylist(), "f2"), stored)
    frame = labels.to_pandas()
    assert np.array_equal(np.stack(frame["logits"]), stored)
    assert labels.card["labels"].startswith("5 of 5")


def test_lists_of_their_own_lengths(tmp_path: Path) -> None:
    labels = make(tmp_path, RAGGED)
    table, stored = labels.to_arrow(), labels.gather(np.arange(5))
    counts = [len(item) for item in table["ids"].to_pylist()]
    assert counts == stored["kept"].tolist()
    assert len(set(counts)) > 1
    assert np.array_equal(np.concatenate(table["ids"].to_pylist()), stored["ids"])


@pytest.mark.ray
def test_ray_reads_a_unit_a_task(ray_context: Context, tmp_path: Path) -> None:
    labels = make(tmp_path)
    found = {row["sample_id"]: row["logits"] for row in labels.to_ray().take_all()}
    assert list(found) == labels.to_arrow()["sample_id"].to_pylist()
    assert np.array_equal(np.array(list(found.values()), "f2"), labels.gather(np.arange(5))["logits"])
