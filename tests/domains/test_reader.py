"""Readers: any row in any order, whole or refused by name, from wherever it lies."""

from __future__ import annotations

import shutil
from pathlib import Path

import fsspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from schemas.errors import DataError, StoreError
from stages.context import Context
from stages.domains.reader import Samples, read_truth
from stages.places import Place
from tests.domains.helpers import files_of, ingest, ingest_words, open_samples, pictures, write_source

TEXTS = [f"text {row}" for row in range(11)]


@pytest.fixture(scope="module")
def words(tmp_path_factory: pytest.TempPathFactory) -> Samples:
    from schemas.spec import Resources

    folder = tmp_path_factory.mktemp("words")
    context = Context(workspace=Place(str(folder / "workspace")), resources=Resources(mode="local"))
    with pytest.MonkeyPatch.context() as patch:
        from stages.tasks import TASKS
        from tests.domains.helpers import WORDS_TARGET

        patch.setitem(TASKS._targets, "words", WORDS_TARGET)
        return open_samples(context, ingest_words(context, folder, [(text, "0") for text in TEXTS], shard_rows=4))


@settings(deadline=None)
@given(st.lists(st.integers(0, 10), max_size=20))
def test_gather_takes_any_rows_in_any_order(words: Samples, positions: list[int]) -> None:
    found = words.gather(np.array(positions, np.int64))["text"]
    assert found == [TEXTS[row].encode() for row in positions]


def test_offsets_and_bounds(words: Samples) -> None:
    assert words.offsets.tolist() == [0, 4, 8, 11]
    assert words.read(2)["text"] == [text.encode() for text in TEXTS[8:]]
    for outside in ([-1], [11]):
        with pytest.raises(IndexError, match="0 to 10"):
            words.gather(np.array(outside))


def test_raw_columns_are_not_copied(local_context: Context, tmp_path: Path) -> None:
    images, labels = pictures()
    samples = open_samples(
        local_context, ingest(local_context, write_source("arrays", tmp_path, images, labels), shard_rows=4)
    )
    first = samples.read(1)["image"]
    assert np.array_equal(first, images[4:8])
    assert not first.flags.writeable
    assert first.ctypes.data == samples.read(1)["image"].ctypes.data
    order = np.random.default_rng(0).integers(0, 10, 50)
    assert np.array_equal(samples.gather(order)["image"], images[order])


@pytest.mark.parametrize("harm", ["flip", "cut", "remove"])
def test_a_harmed_shard_is_named(harm: str, local_context: Context, tmp_path: Path) -> None:
    outputs = ingest(local_context, write_source("arrays", tmp_path, *pictures()), shard_rows=4)
    (path,) = local_context.place(outputs.samples).path.glob("*/samples-00001.arrow")
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    match harm:
        case "flip":
            path.write_bytes(data)
        case "cut":
            path.write_bytes(data[:-8])
        case _:
            path.unlink()
    samples = open_samples(local_context, outputs)
    samples.read(0)
    with pytest.raises(StoreError, match=r"samples-00001\.arrow is (damaged|missing): .*--force domains"):
        samples.read(1)


def test_harmed_truth_and_foreign_references_are_refused(local_context: Context, tmp_path: Path) -> None:
    outputs = ingest(local_context, write_source("arrays", tmp_path, *pictures()))
    place, truth = local_context.place(outputs.samples), outputs.truth
    assert truth is not None
    for field, said in (("digest", "run again"), ("fingerprint", "was referred to")):
        with pytest.raises(DataError, match=said):
            Samples.open(place, outputs.samples.model_copy(update={field: "0" * 32}))
        with pytest.raises(DataError, match=said):
            read_truth(place, truth.model_copy(update={field: "0" * 32}))
    (path,) = place.path.glob("*/truth-00000.arrow")
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(StoreError, match=r"truth-00000\.arrow is damaged"):
        read_truth(place, truth)
    shutil.rmtree(place.path)
    with pytest.raises(DataError, match="no artifact"):
        Samples.open(place, outputs.samples)


def test_samples_are_read_without_their_truth(local_context: Context, tmp_path: Path) -> None:
    outputs = ingest(local_context, write_source("arrays", tmp_path, *pictures()))
    for path in local_context.place(outputs.samples).path.glob("*/truth-*"):
        path.unlink()
    samples = open_samples(local_context, outputs)
    assert set(samples.gather(np.arange(10))) == {"image"}


def test_a_domain_in_object_storage_is_fetched_once(local_context: Context, tmp_path: Path) -> None:
    images, labels = pictures()
    outputs = ingest(local_context, write_source("arrays", tmp_path, images, labels), shard_rows=4)
    memory = fsspec.filesystem("memory")
    folder = local_context.place(outputs.samples)
    memory.put(str(folder.path), "/domain-reader-test", recursive=True)
    place = Place("memory://domain-reader-test")
    samples = Samples.open(place, outputs.samples)
    assert np.array_equal(samples.gather(np.array([9, 0]))["image"], images[[9, 0]])
    for name in files_of(local_context, outputs):
        if name.startswith("samples-"):
            (found,) = (path for path in memory.find("/domain-reader-test") if path.endswith(name))
            memory.rm(found)
    again = Samples.open(place, outputs.samples)
    assert np.array_equal(again.gather(np.array([9]))["image"], images[[9]])
    with pytest.raises(StoreError, match=r"samples-00001\.arrow is missing"):
        again.read(1)
