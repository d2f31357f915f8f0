"""Ingest: identity, truth apart, bad rows, same bytes wherever it runs, and from where it was after a kill."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.domains import DomainInputs
from schemas.errors import DataError
from schemas.runs import Event
from schemas.spec import Source
from stages.artifacts import Attempt, find_artifact
from stages.context import Context
from stages.domains import kept
from stages.domains.kept import PACKED
from stages.domains.pack import occurrences, pack_slice
from stages.domains.reader import read_truth
from stages.domains.stage import DOMAINS
from stages.places import Place
from tests.domains.helpers import (
    IMAGES,
    WORDS,
    files_of,
    ingest,
    ingest_words,
    open_samples,
    pictures,
    write_csv,
    write_source,
)
from tests.faults.crash import changes, killed_at

TEXTS = ["a", "b", "a", "c", "a", "b", "d"]


def test_ids_count_occurrences_over_the_domain(local_context: Context, tmp_path: Path) -> None:
    outputs = ingest_words(local_context, tmp_path, [(text, "0") for text in TEXTS], shard_rows=2)
    samples = open_samples(local_context, outputs)
    ids = [name for shard in range(len(samples.shards)) for name in samples.sample_ids(shard)]
    assert [int(name.split("-")[1]) for name in ids] == [0, 0, 1, 0, 2, 1, 0]
    assert [name.split("-")[0] for name in ids] == [row.tobytes().hex() for row in samples.all_content_ids()]
    assert outputs.duplicates == samples.manifest.duplicates == 3
    whole = ingest_words(local_context, tmp_path, [(text, "0") for text in TEXTS], shard_rows=100)
    assert open_samples(local_context, whole).sample_ids(0) == ids


@given(st.lists(st.integers(0, 5), max_size=40))
def test_occurrences_count_earlier_rows(keys: list[int]) -> None:
    rows = np.array([[key] * 16 for key in keys], np.uint8).reshape(-1, 16)
    assert occurrences(rows).tolist() == [keys[:row].count(key) for row, key in enumerate(keys)]


def test_given_ids_are_kept_and_must_be_unique(local_context: Context, tmp_path: Path) -> None:
    rows = [(f"t{row}", "0", f"id{row}") for row in range(5)]
    path = write_csv(tmp_path / "a.csv", ["text", "label", "sample_id"], rows)
    outputs = ingest(local_context, Source(csv=str(path)), WORDS, shard_rows=2)
    assert open_samples(local_context, outputs).sample_ids(1) == ["id2", "id3"]
    write_csv(path, ["text", "label", "sample_id"], [*rows, ("x", "0", "id0"), ("y", "1", "id3"), ("z", "1", "")])
    with pytest.raises(DataError, match=r"2 rows have a sample_id .*first: id0, id3"):
        ingest(local_context, Source(csv=str(path)), WORDS, shard_rows=2, on_bad_row="quarantine")


def test_flipping_labels_leaves_the_samples_alone(local_context: Context, tmp_path: Path) -> None:
    rows = [(text, str(number % 2)) for number, text in enumerate(TEXTS)]
    flipped = [(text, "1" if label == "0" else "0") for text, label in rows]
    first = ingest_words(local_context, tmp_path / "a", rows, shard_rows=3)
    second = ingest_words(local_context, tmp_path / "b", flipped, shard_rows=3)
    assert first.samples.fingerprint != second.samples.fingerprint
    assert first.samples.digest == second.samples.digest
    assert first.truth is not None
    assert second.truth is not None
    assert first.truth.digest != second.truth.digest
    ours, theirs = files_of(local_context, first), files_of(local_context, second)
    assert {name for name in ours if ours[name] != theirs[name]} == {
        "manifest.json",
        *(name for name in ours if name.startswith("truth-")),
    }


def test_class_names_come_from_the_data_in_order(local_context: Context, tmp_path: Path) -> None:
    numbers = ingest_words(local_context, tmp_path, [("a", "10"), ("b", "9"), ("c", "")], shard_rows=1)
    assert numbers.classes == ("9", "10")
    assert numbers.truth is not None
    truth, _ = read_truth(local_context.place(numbers.truth), numbers.truth)
    assert truth.tolist() == [1, 0, -1]
    assert open_samples(local_context, numbers).manifest.class_counts == (1, 1)
    words = ingest_words(local_context, tmp_path, [("a", "x"), ("b", "10"), ("c", "9")])
    assert words.classes == ("10", "9", "x")


def test_a_domain_without_truth_is_legal(local_context: Context, tmp_path: Path) -> None:
    path = write_csv(tmp_path / "data.csv", ["text"], [["a"], ["b"]])
    outputs = ingest(local_context, Source(csv=str(path)), WORDS, classes=("x", "y"))
    assert outputs.truth is None
    assert outputs.classes == ("x", "y")
    assert ingest_words(local_context, tmp_path, [("a", ""), ("b", "")]).truth is None


def bad_source(folder: Path) -> Source:
    """Good, missing file, undecodable, empty cell, label out of the classes, unknown label (which is good)."""
    images, _ = pictures(6)
    source = write_source("csv", folder, images, ["0", "0", "1", "1", "seven", None])
    (folder / "files" / "001.png").unlink()
    (folder / "files" / "002.png").write_bytes(b"not a picture")
    path = folder / "data.csv"
    path.write_text(path.read_text().replace("files/003.png,", ","))
    return source


def test_bad_rows_are_refused_together_with_their_places(local_context: Context, tmp_path: Path) -> None:
    with pytest.raises(DataError) as error:
        ingest(local_context, bad_source(tmp_path / "s"), classes=("0", "1"), shard_rows=2)
    (message,) = error.value.problems
    assert message.startswith("4 of 6 rows of the source are bad")
    assert "data.csv line 3: the file 'files/001.png' is missing" in message
    for line in (4, 5, 6):
        assert f"data.csv line {line}: " in message
    assert "on_bad_row: quarantine" in message


def test_bad_rows_are_set_aside_where_the_spec_says_so(local_context: Context, tmp_path: Path) -> None:
    source = bad_source(tmp_path / "s")
    told: list[Event] = []
    context = replace(local_context, sink=told.append)
    outputs = ingest(context, source, classes=("0", "1"), shard_rows=2, on_bad_row="quarantine")
    assert (outputs.rows, outputs.quarantined, outputs.shards) == (2, 4, 2)
    (warning,) = [event.message for event in told if event.kind == "warning"]
    assert warning.startswith("4 bad rows of 6 are set aside")
    assert warning.endswith("quarantine.jsonl")
    lines = files_of(local_context, outputs)["quarantine.jsonl"].decode().splitlines()
    assert [json.loads(line)["place"] for line in lines] == [f"data.csv line {line}" for line in (3, 4, 5, 6)]
    assert str(tmp_path) not in "".join(lines)


def test_folder_and_its_csv_must_agree(local_context: Context, tmp_path: Path) -> None:
    source = write_source("folder-csv", tmp_path / "s", *pictures(4))
    (tmp_path / "s" / "files" / "000.png").rename(tmp_path / "s" / "files" / "zzz.png")
    with pytest.raises(DataError) as error:
        ingest(local_context, source)
    assert "2 of 5 rows" in str(error.value)
    assert "000.png: the file is missing (classes.csv line 2 names it)" in str(error.value)
    assert "zzz.png: the CSV of classes does not name it" in str(error.value)


def test_rows_of_another_shape_are_bad(local_context: Context, tmp_path: Path) -> None:
    path = tmp_path / "data.jsonl"
    path.write_text("\n".join(json.dumps({"text": text}) for text in ["a", 1, "b", None]))
    with pytest.raises(DataError, match=r"2 of 4 rows .*line 2: it is no text; .*line 4: 'text' has no value"):
        ingest(local_context, Source(jsonl=str(path)), WORDS, shard_rows=1)


@pytest.mark.parametrize("on_bad_row", ["refuse", "quarantine"])
def test_nothing_left_is_an_error(local_context: Context, tmp_path: Path, on_bad_row: Any) -> None:
    with pytest.raises(DataError, match="the source has no rows"):
        ingest_words(local_context, tmp_path, [], on_bad_row=on_bad_row)
    with pytest.raises(DataError, match="all 2 rows of the source are bad"):
        ingest_words(local_context, tmp_path, [("", "0"), ("", "1")], on_bad_row=on_bad_row)
    with pytest.raises(DataError, match="all 1 rows of the source are bad"):
        ingest_words(local_context, tmp_path, [("a", "0")], on_bad_row=on_bad_row, classes=("1",))


def asked(folder: Path, **more: Any) -> DomainInputs:
    """Ten pictures in four slices: the eighth is the second again, the last is none."""
    images, labels = pictures()
    images[7] = images[1]
    source = write_source("csv", folder, images, labels)
    (folder / "files" / "009.png").write_bytes(b"not a picture")
    inputs = DomainInputs(source=source, task=IMAGES, shard_rows=3, on_bad_row="quarantine", **more)
    return DOMAINS.with_digest(inputs, None)


def packing(monkeypatch: pytest.MonkeyPatch, at: int = -1) -> list[int]:
    """The slices that are packed from now on; the process is killed in one of them."""
    packed: list[int] = []

    def pack(job: Any, number: int, *rest: Any) -> Any:
        if number == at:
            raise KeyboardInterrupt
        packed.append(number)
        return pack_slice(job, number, *rest)

    monkeypatch.setattr(kept, "pack_slice", pack)
    return packed


def killed(*args: Any) -> Any:
    raise KeyboardInterrupt


def test_a_killed_ingest_goes_on_where_it_was(
    local_context: Context, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    inputs = asked(tmp_path / "s")
    folder = local_context.artifact_place("domains", DOMAINS.fingerprint(inputs))
    packed = packing(monkeypatch, at=2)
    with pytest.raises(KeyboardInterrupt):
        DOMAINS.run(local_context, inputs)
    assert packed == [0, 1]
    packed = packing(monkeypatch)
    with monkeypatch.context() as patch:
        patch.setattr(Attempt, "commit", killed)
        with pytest.raises(KeyboardInterrupt):
            DOMAINS.run(local_context, inputs)
    assert packed == [2, 3]
    assert find_artifact(folder) is None
    assert DOMAINS.find(local_context, inputs) is None
    outputs = DOMAINS.run(local_context, inputs)
    assert packed == [2, 3]
    assert folder.names(PACKED) == []
    other = Context(workspace=Place(str(tmp_path / "other")), resources=local_context.resources)
    whole = DOMAINS.run(other, inputs)
    assert (outputs.samples.digest, outputs.rows, outputs.quarantined) == (whole.samples.digest, 9, 1)
    files = {name: data for name, data in files_of(local_context, outputs).items() if data}
    assert files_of(other, whole).items() <= files.items()
    assert DOMAINS.run(local_context, inputs) == outputs == DOMAINS.find(local_context, inputs)


def test_given_ids_of_kept_slices_are_still_compared(
    local_context: Context, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = [(f"t{row}", "0", f"id{row % 4}") for row in range(6)]
    path = write_csv(tmp_path / "a.csv", ["text", "label", "sample_id"], rows)
    packing(monkeypatch, at=1)
    with pytest.raises(KeyboardInterrupt):
        ingest(local_context, Source(csv=str(path)), WORDS, shard_rows=4)
    packed = packing(monkeypatch)
    for _ in range(2):
        with pytest.raises(DataError, match="2 rows have a sample_id .*first: id0, id1"):
            ingest(local_context, Source(csv=str(path)), WORDS, shard_rows=4)
    assert packed == [1]


@pytest.mark.parametrize("name", ["00001.json", "00001/*/samples-00001.arrow", "00001/*/truth-00001.arrow"])
@pytest.mark.parametrize("how", ["cut", "gone"])
def test_what_is_damaged_is_packed_again(
    local_context: Context, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, how: str
) -> None:
    inputs = asked(tmp_path / "s")
    packing(monkeypatch, at=2)
    with pytest.raises(KeyboardInterrupt):
        DOMAINS.run(local_context, inputs)
    folder = local_context.artifact_place("domains", DOMAINS.fingerprint(inputs)).path / PACKED
    (path,) = folder.glob(name)
    path.write_bytes(path.read_bytes()[:-5]) if how == "cut" else path.unlink()
    packed = packing(monkeypatch)
    outputs = DOMAINS.run(local_context, inputs)
    assert packed == [1, 2, 3]
    samples = open_samples(local_context, outputs)
    assert sum(len(samples.sample_ids(shard)) for shard in range(3)) == outputs.rows == 9


def test_forced_ingest_takes_nothing_over(
    local_context: Context, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    inputs = asked(tmp_path / "s")
    packing(monkeypatch, at=2)
    with pytest.raises(KeyboardInterrupt):
        DOMAINS.run(local_context, inputs)
    DOMAINS.discard(local_context, inputs)
    packed = packing(monkeypatch)
    DOMAINS.run(local_context, inputs)
    assert packed == [0, 1, 2, 3]


@pytest.mark.parametrize("stride", [7, pytest.param(1, marks=pytest.mark.long)])
def test_killed_before_every_change_of_the_disk(local_context: Context, tmp_path: Path, stride: int) -> None:
    """And run again: the same files, and no slice that was kept is packed twice."""
    inputs = asked(tmp_path / "s")

    def at(folder: Path) -> Context:
        return Context(workspace=Place(str(folder)), resources=local_context.resources)

    whole = files_of(at(tmp_path / "first"), DOMAINS.run(at(tmp_path / "first"), inputs))
    moments = changes(tmp_path / "counted", lambda: DOMAINS.run(at(tmp_path / "counted"), inputs))
    assert sum(f"/{PACKED}/" in moment and moment.endswith(".json") for moment in moments) == 4
    for number in range(0, len(moments), stride):
        folder = tmp_path / f"at-{number}"
        killed_at(folder, lambda folder=folder: DOMAINS.run(at(folder), inputs), number)  # type: ignore[misc]
        outputs = DOMAINS.run(at(folder), inputs)
        artifact = find_artifact(at(folder).place(outputs.samples))
        assert artifact is not None
        own = at(folder).place(outputs.samples).path / artifact.attempt
        assert {path.name: path.read_bytes() for path in own.iterdir()} == whole, moments[number]


def test_what_is_asked_decides_the_fingerprint_not_where_the_source_is(tmp_path: Path) -> None:
    images, labels = pictures()
    sources = [write_source("csv", tmp_path / name, images, labels) for name in ("a", "b")]
    asked = [DomainInputs(source=source, task=IMAGES) for source in sources]
    assert DOMAINS.fingerprint(asked[0]) == DOMAINS.fingerprint(asked[1])
    fewer = asked[0].model_copy(update={"shard_rows": 3})
    assert DOMAINS.fingerprint(fewer) != DOMAINS.fingerprint(asked[0])


@pytest.mark.ray
def test_ray_gives_the_same_bytes(ray_context: Context, tmp_path: Path) -> None:
    images, labels = pictures()
    images[7] = images[1]
    source = write_source("csv", tmp_path / "s", images, labels)
    local = Context(
        workspace=Place(str(tmp_path / "local")), resources=ray_context.resources.model_copy(update={"mode": "local"})
    )
    ours, theirs = (ingest(context, source, shard_rows=3) for context in (local, ray_context))
    assert files_of(local, ours) == files_of(ray_context, theirs)
    assert ours.samples.digest == theirs.samples.digest
    assert ours.duplicates == 1
    with pytest.raises(DataError, match="4 of 6 rows"):
        ingest(ray_context, bad_source(tmp_path / "bad"), classes=("0", "1"), shard_rows=2)
