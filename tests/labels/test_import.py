"""A team's own outputs become a full label set; every fault of a file is named, and nothing is written then."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.numpy import save_file

from schemas.encodings import Dense, LowRank, Sampled, TopK
from schemas.errors import DataError
from stages.labels import importing
from stages.labels.alignment import AlignedLabels
from stages.labels.importing import import_set
from stages.labels.reader import LabelSet
from stages.labels.verify import verify
from stages.places import Place
from tests.labels.fakes import FakeSamples
from tests.labels.test_commands import refused, said

NAMES = ["cat", "dog", "räv"]
IDS = [f"picture-{row}" for row in range(11)]
LOGITS = np.random.default_rng(0).normal(size=(11, 3)).astype("f4") * 3
EXACT = Dense(dtype="float32")


def npy(path: Path) -> Path:
    np.save(path.with_suffix(".npy"), LOGITS)
    return path.with_suffix(".npy")


def lists(path: Path) -> Path:
    table = pa.table({"sample_id": IDS, "logits": list(LOGITS)})
    pq.write_table(table, path.with_suffix(".parquet"), row_group_size=3)
    return path.with_suffix(".parquet")


def columns(path: Path) -> Path:
    table = pa.table({"sample_id": IDS, **{name: LOGITS[:, c] for c, name in enumerate(NAMES)}})
    pq.write_table(table, path.with_suffix(".parquet"), row_group_size=4)
    return path.with_suffix(".parquet")


def tensors(path: Path) -> Path:
    width = max(map(len, IDS))
    ids = np.array([list(name.encode().ljust(width, b"\0")) for name in IDS], np.uint8)
    save_file({"logits": LOGITS, "ids": ids}, path.with_suffix(".safetensors"), {"classes": "\n".join(NAMES)})
    return path.with_suffix(".safetensors")


@pytest.fixture(autouse=True)
def small_units(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importing, "UNIT_ROWS", 4)


@pytest.mark.parametrize("write", [npy, lists, columns, tensors])
def test_every_form_gives_the_same_set(tmp_path: Path, write: Callable[[Path], Path]) -> None:
    place, path = Place(str(tmp_path / "store")), write(tmp_path / "outputs")
    manifest = import_set(path, place, EXACT, NAMES, IDS)
    labels = LabelSet.open(place)
    assert np.array_equal(labels.logits(np.arange(11)), LOGITS)
    assert sum((labels.sample_ids(unit) for unit in range(3)), []) == IDS  # noqa: RUF017
    assert labels.classes == tuple(NAMES)
    assert manifest.statistics.fidelity_rows == 11
    assert verify(labels, deep=True) == []
    assert import_set(npy(tmp_path / "other"), place, EXACT, NAMES, IDS) == manifest
    assert len(place.names("units")) == 3
    if write is not npy:
        own = None if write is lists else NAMES
        assert import_set(path, place, EXACT, None if own else NAMES) == manifest


@given(k=st.integers(1, 3), seed=st.integers(0, 3))
@settings(max_examples=8, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_probabilities_are_what_they_say(tmp_path: Path, k: int, seed: int) -> None:
    wide = np.random.default_rng(seed).dirichlet([0.3] * 3, size=5).astype("f4")
    wide[0] = [0, 1, 0]
    path = tmp_path / f"{k}-{seed}.npy"
    np.save(path, wide)
    place = Place(str(tmp_path / f"store-{k}-{seed}"))
    encoding = TopK(kind="top-k", k=k, temperatures=(1.0,))
    import_set(path, place, encoding, NAMES, IDS[:5], "probabilities")
    labels = LabelSet.open(place)
    found = np.exp(labels.decode(labels.gather(np.arange(5))).log_probabilities(1.0))
    top = np.argsort(-wide, axis=1)[:, :k]
    assert np.allclose(np.take_along_axis(found, top, 1), np.take_along_axis(wide, top, 1), atol=2e-3)


def test_a_set_without_content_ids_draws_by_name(tmp_path: Path) -> None:
    """Else every row would draw the same numbers, and all or none would be measured."""
    many = np.zeros((4000, 3), "f4")
    np.save(tmp_path / "many.npy", many)
    importing.UNIT_ROWS = 1000  # restored by the fixture
    place, encoding = Place(str(tmp_path / "store")), Sampled(kind="sampled", draws=4)
    manifest = import_set(tmp_path / "many.npy", place, encoding, NAMES, [str(row) for row in range(4000)])
    assert 2000 <= manifest.statistics.fidelity_rows < 2600
    stored = LabelSet.open(place).read(0)
    assert len({tuple(row) for row in np.asarray(stored["kept"]).reshape(1000, -1).tolist()}) > 1


def test_it_is_aligned_by_sample_id_alone(tmp_path: Path) -> None:
    samples = FakeSamples((4, 3))
    ids = samples.sample_ids(1) + samples.sample_ids(0)
    place = Place(str(tmp_path / "store"))
    import_set(npy(tmp_path / "outputs"), place, EXACT, NAMES, ids + IDS[:4])
    aligned = LabelSet.open(place).align(samples)
    assert isinstance(aligned, AlignedLabels)
    assert np.array_equal(aligned.logits(np.arange(7)), LOGITS[[3, 4, 5, 6, 0, 1, 2]])


def test_low_rank_from_a_file(tmp_path: Path) -> None:
    place = Place(str(tmp_path / "store"))
    import_set(lists(tmp_path / "outputs"), place, LowRank(kind="low-rank", rank=2, dtype="float16"), NAMES)
    found, centred = LabelSet.open(place).logits(np.arange(11)), LOGITS - LOGITS.mean(axis=1, keepdims=True)
    assert np.allclose(found - found.mean(axis=1, keepdims=True), centred, atol=1e-2)


def spoil(name: str) -> Callable[[Path], tuple[Path, dict[str, Any]]]:
    def write(folder: Path) -> tuple[Path, dict[str, Any]]:
        values, path = LOGITS.copy(), folder / "outputs.npy"
        given: dict[str, Any] = {"classes": NAMES, "ids": IDS}
        match name:
            case "nan":
                values[9, 1] = np.nan
            case "negative" | "sum":
                values = np.full((11, 3), 1 / 3, "f4")
                values[5] = [-1, 1, 1] if name == "negative" else [0.2, 0.2, 0.2]
                given["are"] = "probabilities"
            case "twice":
                given["ids"] = [*IDS[:10], IDS[0]]
            case "ids":
                given["ids"] = IDS[:10]
            case "no-ids":
                given["ids"] = None
            case "no-classes":
                given["classes"] = None
            case "classes":
                given["classes"] = NAMES[:2]
            case "pickle":
                np.save(path, np.array([[{}]], object), allow_pickle=True)
                return path, given
            case "cut":
                np.save(path, values)
                path.write_bytes(path.read_bytes()[:-20])
                return path, given
            case "flat":
                values = values[0]
            case "words":
                values = values.astype("S")
            case "empty":
                values, given["ids"] = values[:0], []
            case "other":
                path = folder / "outputs.csv"
                path.write_text("1,2")
                return path, given
            case "gone":
                return path, given
            case "no-logits":
                path = folder / "outputs.safetensors"
                save_file({"x": values}, path)
                return path, given
            case "ragged":
                path = folder / "outputs.parquet"
                rows = [list(map(float, row)) for row in values]
                rows[7] = rows[7][:2]
                pq.write_table(pa.table({"sample_id": IDS, "logits": rows}), path)
                return path, given
            case "holes":
                path = folder / "outputs.parquet"
                pq.write_table(pa.table({"sample_id": IDS, "cat": [None, *map(float, range(10))]}), path)
                return path, {"classes": None}
            case "no-id-column":
                path = folder / "outputs.parquet"
                pq.write_table(pa.table({"cat": [1.0]}), path)
                return path, given
        np.save(path, values)
        return path, given

    return write


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("nan", r"row 9 .* not finite"),
        ("negative", r"row 5 .* negative"),
        ("sum", r"row 5 .* add up to 1"),
        ("twice", r"'picture-0' stands there twice"),
        ("ids", r"11 rows, and there are 10 ids"),
        ("no-ids", r"holds no ids .* --ids"),
        ("no-classes", r"does not name its classes.*--classes"),
        ("classes", r"3 numbers a row, and there are 2 class names"),
        ("pickle", r"cannot be read: .*Python objects"),
        ("cut", r"cannot be read"),
        ("flat", r"no table"),
        ("words", r"\|S\d+ numbers"),
        ("empty", r"nothing to import"),
        ("other", r"none of .npy, .parquet, .safetensors"),
        ("gone", r"No such file"),
        ("no-logits", r"no tensor 'logits'"),
        ("ragged", r"row 7 .* another number of logits"),
        ("holes", r"empty cells"),
        ("no-id-column", r"no column 'sample_id'"),
    ],
)
def test_faults_are_named_before_anything_is_written(tmp_path: Path, name: str, message: str) -> None:
    path, given = spoil(name)(tmp_path)
    with pytest.raises(DataError, match=message):
        import_set(path, Place(str(tmp_path / "store")), EXACT, **given)
    assert not (tmp_path / "store").exists()


def test_as_a_person_types_it(tmp_path: Path) -> None:
    path, store = npy(tmp_path / "outputs"), str(tmp_path / "store")
    (tmp_path / "classes.txt").write_text("\n".join(NAMES) + "\n")
    (tmp_path / "ids.txt").write_text("\n".join(IDS))
    names = ("--classes", str(tmp_path / "classes.txt"), "--ids", str(tmp_path / "ids.txt"))
    shown = said("import", str(path), "--to", store, *names, "--encoding", "top-k k=2")
    assert "11 of 11 samples" in shown
    assert "räv" in said("show", store, shown.split()[3])
    assert "--are" in refused("import", str(path), "--to", store, *names, "--are", "guesses")
    assert "cannot be read" in refused("import", str(path), "--to", store, "--classes", str(tmp_path / "none"))
    assert "does not name" in refused("import", str(path), "--to", store)
