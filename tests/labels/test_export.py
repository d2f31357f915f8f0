"""Label sets as plain files: read back by other programs' means, whole or not at all."""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import yaml

from schemas.encodings import Dense, Encoding, TopK
from schemas.errors import PlaceError, StoreError
from schemas.labels import LabelShape
from stages.labels import export
from stages.labels.export import METADATA, As, Form, export_set
from stages.labels.importing import import_set
from stages.labels.reader import LabelSet
from stages.places import Place
from tests.labels.fakes import CLASSES, FakeSamples, OracleTeacher, inputs_for, make_fake_set
from tests.labels.test_commands import refused, said
from tests.labels.test_shapes import write

ROWS = (3, 2)
TOP = TopK(kind="top-k", k=2, temperatures=(2.0, 4.0))
RAGGED = TopK(kind="top-k", k=None, mass=0.9, temperatures=(1.0,))


def make(folder: Path, encoding: Encoding) -> LabelSet:
    make_fake_set(Place(str(folder / "store")), FakeSamples(ROWS), OracleTeacher(), inputs_for(encoding))
    return LabelSet.open(str(folder / "store"))


def read(form: Form, path: Path, field: str) -> tuple[list[str], list[bytes | None], list[Any]]:
    """(sample ids, content ids, labels) by the means of those who have never heard of us."""
    if form in ("parquet", "huggingface"):
        files = [path] if form == "parquet" else sorted(path.glob("data/train-*.parquet"))
        rows = [row for file in files for row in pq.read_table(file).to_pylist()]
    elif form == "jsonl":
        rows = [json.loads(line) for line in (path / "labels.jsonl").read_text("utf-8").splitlines()]
    else:
        rows = []
        for shard in sorted(path.glob("labels-*.tar")):
            with tarfile.open(shard) as file:
                for member in file:
                    number, _, kind = member.name.partition(".")
                    data = file.extractfile(member)
                    assert data is not None
                    if kind == "json":
                        rows.append(json.load(data) | {"number": int(number)})
                    else:
                        rows[-1][kind.removesuffix(".npy")] = np.load(io.BytesIO(data.read()), allow_pickle=False)
        assert [row["number"] for row in rows] == list(range(len(rows)))
    content = [bytes.fromhex(item) if isinstance(item := row["content_id"], str) else item for row in rows]
    return [row["sample_id"] for row in rows], content, [row[field] for row in rows]


@pytest.mark.parametrize("form", ["parquet", "jsonl", "huggingface", "webdataset"])
@pytest.mark.parametrize(
    ("encoding", "as_"), [(Dense(dtype="float32"), "logits"), (TOP, "probabilities"), (RAGGED, "stored")]
)
def test_every_form_holds_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, form: Form, encoding: Encoding, as_: As
) -> None:
    monkeypatch.setattr(export, "AT_ONCE", 8)  # two rows of a unit at once
    labels, samples = make(tmp_path, encoding), FakeSamples(ROWS)
    told: list[int] = []
    where = export_set(labels, tmp_path / "out", form, as_, told=lambda done, total: told.append(done))
    ids, content, found = read(form, where, "ids" if as_ == "stored" else as_)
    assert ids == samples.sample_ids(0) + samples.sample_ids(1)
    assert content == [item.tobytes() for shard in (0, 1) for item in samples.content_ids(shard)]
    stored = labels.gather(np.arange(5))
    match as_:
        case "logits":
            assert np.array_equal(np.array(found, "f4"), stored["logits"])
        case "probabilities":
            assert np.allclose(np.array(found), np.exp(labels.decode(stored).log_probabilities(2.0)), atol=1e-6)
        case "stored":
            assert np.array_equal(np.concatenate([np.asarray(item) for item in found]), stored["ids"])
    if form in ("parquet", "huggingface"):
        file = where if form == "parquet" else where / "data/train-00000.parquet"
        head = json.loads(pq.read_schema(file).metadata[METADATA])
    else:
        head = json.loads((where / "card.json").read_text())
    assert (head["classes"], head["labels"]) == (list(CLASSES), as_)
    assert head["temperature"] == (2.0 if as_ == "probabilities" else None)
    assert head["card"]["root digest"] == labels.digest
    assert told == [1, 2]
    assert sorted(item.name for item in tmp_path.iterdir()) == ["out", "store"], "nothing is left beside it"


@pytest.mark.parametrize("kind", ["token", "pixel", "box"])
def test_every_shape(tmp_path: Path, kind: Any) -> None:
    shape = LabelShape(kind=kind, grid=(2, 3) if kind == "pixel" else ())
    labels, everything = write(Place(str(tmp_path / "store")), Dense(dtype="float32"), shape, (4, 3), 0, 2)
    where = export_set(labels, tmp_path / "out.parquet")
    found = [np.asarray(row, "f4").reshape(-1, len(labels.classes)) for row in read("parquet", where, "logits")[2]]
    wanted = [item.logits.reshape(-1, len(labels.classes)) for item in everything]
    assert np.array_equal(np.concatenate(found), np.concatenate(wanted))
    if shape.ragged:
        assert [len(row) for row in found] == [
            int(n) for item in everything if item.items is not None for n in item.items
        ]


@pytest.mark.parametrize("as_", ["logits", "probabilities"])
def test_what_is_exported_can_be_imported(tmp_path: Path, as_: Any) -> None:
    labels = make(tmp_path, Dense(dtype="float32"))
    where = export_set(labels, tmp_path / "out.parquet", "parquet", as_)
    place = Place(str(tmp_path / "back"))
    manifest = import_set(where, place, Dense(dtype="float32"), are=as_)
    back = LabelSet.open(place, manifest.fingerprint)
    assert back.classes == labels.classes
    assert back.sample_ids(0) == labels.sample_ids(0) + labels.sample_ids(1)
    assert np.array_equal(back.content_ids(0), np.concatenate([labels.content_ids(unit) for unit in (0, 1)]))
    rows = np.arange(5)
    one, other = (item.decode(item.gather(rows)).log_probabilities() for item in (labels, back))
    assert np.allclose(one, other, atol=1e-6)
    if as_ == "logits":
        assert np.array_equal(back.logits(rows), labels.logits(rows))


def test_datasets_are_told_apart(tmp_path: Path) -> None:
    """Configurations of other labels have other names, since `datasets` caches by them."""
    labels = make(tmp_path, TOP)
    names = set()
    for number, (as_, tau) in enumerate([("stored", None), ("logits", 2.0), ("logits", 4.0), ("logits", None)]):
        where = export_set(labels, tmp_path / f"{number}", "huggingface", as_, tau)  # type: ignore[arg-type]
        text = (where / "README.md").read_text("utf-8")
        head = yaml.safe_load(text.split("---")[1])["configs"][0]
        assert head["data_files"] == "data/train-*.parquet"
        assert "in this order: a, b, c, d." in text
        names.add(head["config_name"])
    assert len(names) == 3, "a temperature that is left out is the smallest, 2"


def test_refusals_leave_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    labels = make(tmp_path, TOP)
    with pytest.raises(StoreError, match="temperature 1 lies below the smallest"):
        export_set(labels, tmp_path / "out", temperature=1.0)
    with pytest.raises(StoreError, match="labels as stored have no temperature"):
        export_set(labels, tmp_path / "out", as_="stored", temperature=2.0)
    with pytest.raises(StoreError, match="has views 0 to 0"):
        export_set(labels, tmp_path / "out", view=1)
    with pytest.raises(PlaceError, match="there is no folder"):
        export_set(labels, tmp_path / "no/out")

    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(export, "_add", full)
    with pytest.raises(PlaceError, match="out cannot be written: No space left on device"):
        export_set(labels, tmp_path / "out", "webdataset")
    assert [item.name for item in tmp_path.iterdir()] == ["store"]

    def came(done: int, total: int) -> None:
        (tmp_path / "out").write_text("theirs")

    with pytest.raises(PlaceError, match="something came to"):
        export_set(labels, tmp_path / "out", told=came)
    assert (tmp_path / "out").read_text() == "theirs"
    assert sorted(item.name for item in tmp_path.iterdir()) == ["out", "store"]


def test_as_a_person_types_it(tmp_path: Path) -> None:
    labels = make(tmp_path, TOP)
    words = (str(tmp_path / "store"), labels.fingerprint[:8], "--to", str(tmp_path / "out"))
    assert said("export", *words, "--format", "jsonl").startswith("5 samples of")
    assert "there is something at" in refused("export", *words)
