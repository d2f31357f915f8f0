"""Ingest: identity, truth apart, bad rows, same bytes wherever it runs, nothing after a kill."""

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
from stages.domains import ingest as ingest_module
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


def test_a_kill_leaves_no_artifact_and_a_rerun_the_same(
    local_context: Context, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = write_source("csv", tmp_path / "s", *pictures())
    inputs = DOMAINS.with_digest(DomainInputs(source=source, task=IMAGES, shard_rows=3), None)
    folder = local_context.artifact_place("domains", DOMAINS.fingerprint(inputs))
    pack = pack_slice

    def killed_in_the_third(job: Any, number: int, *rest: Any) -> Any:
        if number == 2:
            raise KeyboardInterrupt
        return pack(job, number, *rest)

    def killed(*args: Any) -> Any:
        raise KeyboardInterrupt

    for where, what in ((ingest_module, "pack_slice"), (Attempt, "commit")):
        with monkeypatch.context() as patch:
            patch.setattr(where, what, killed_in_the_third if what == "pack_slice" else killed)
            with pytest.raises(KeyboardInterrupt):
                DOMAINS.run(local_context, inputs)
        assert find_artifact(folder) is None
        assert DOMAINS.find(local_context, inputs) is None
    outputs = DOMAINS.run(local_context, inputs)
    other = Context(workspace=Place(str(tmp_path / "other")), resources=local_context.resources)
    assert DOMAINS.run(other, inputs).samples.digest == outputs.samples.digest
    assert DOMAINS.run(local_context, inputs) == outputs == DOMAINS.find(local_context, inputs)


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
