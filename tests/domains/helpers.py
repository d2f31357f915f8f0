"""A tiny text task, and the same ten pictures as every kind of source."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from schemas.base import Contract, Part
from schemas.domains import DomainInputs, DomainOutputs
from schemas.spec import Source
from stages.context import Context
from stages.domains.reader import Samples
from stages.domains.stage import DOMAINS
from stages.tasks.base import BadRow, Column, Sample, Task

IMAGES = Part.model_validate({"name": "image-classification", "image_size": 8, "channels": 1})
WORDS = Part(name="words")


class Empty(Contract):
    """No settings."""


class Words(Task):
    """Texts, kept as UTF-8; enough of a task to pack with."""

    Config = Prepare = Preprocessing = Augmentation = Empty
    roles = ("text",)
    files = frozenset()
    metrics = ()
    models = ()

    def pack(self, row: Mapping[str, Any], prepare: Any) -> Sample:
        if not isinstance(row["text"], str):
            raise BadRow("it is no text")
        data = row["text"].encode()
        return Sample({"text": data}, {"text": Column("encoded")}, data)

    def pack_truth(self, value: Any, classes: Sequence[str]) -> int:
        if str(value) not in classes:
            raise BadRow(f"'{value}' is none of the classes")
        return classes.index(str(value))

    def class_name(self, value: Any) -> str:
        return str(value)

    def _none(self, *args: Any) -> Any:
        raise NotImplementedError

    batch = augmented = fake_batch = build = score = score_rows = _none  # type: ignore[assignment]


TASK = Words
WORDS_TARGET = "tests.domains.helpers:TASK"


def pictures(rows: int = 10, seed: int = 0) -> tuple[np.ndarray, list[str]]:
    """uint8 (rows, 8, 8, 1) and class names."""
    rng = np.random.default_rng(seed)
    return rng.integers(0, 256, (rows, 8, 8, 1), np.uint8), [str(row % 3) for row in range(rows)]


def png(picture: np.ndarray) -> bytes:
    """The picture as a file."""
    sink = io.BytesIO()
    Image.fromarray(picture[:, :, 0]).save(sink, "png")
    return sink.getvalue()


def write_source(kind: str, folder: Path, images: np.ndarray, labels: Sequence[str | None]) -> Source:
    """The pictures as a source of that kind."""
    folder.mkdir(parents=True, exist_ok=True)
    names = [f"{row:03d}.png" for row in range(len(images))]
    match kind:
        case "arrays" | "arrays-compressed":
            save = np.savez_compressed if kind == "arrays-compressed" else np.savez
            save(folder / "data.npz", image=images, label=np.array(labels))
            return Source(arrays=str(folder / "data.npz"))
        case "parquet" | "parquet-folder":
            table = pa.table({"image": [png(picture) for picture in images], "label": labels})
            if kind == "parquet":
                pq.write_table(table, folder / "data.parquet", row_group_size=4)
                return Source(parquet=str(folder / "data.parquet"))
            for part in range(0, len(images), 6):
                pq.write_table(table.slice(part, 6), folder / f"part-{part}.parquet")
            return Source(parquet=str(folder))
        case "folder":
            for name, picture, label in zip(names, images, labels, strict=True):
                (folder / str(label)).mkdir(exist_ok=True)
                (folder / str(label) / name).write_bytes(png(picture))
            return Source(image_folder=str(folder))
    (folder / "files").mkdir()
    for name, picture in zip(names, images, strict=True):
        (folder / "files" / name).write_bytes(png(picture))
    if kind == "folder-csv":
        write_csv(folder / "classes.csv", ["file", "class"], zip(names, labels, strict=True))
        return Source(image_folder=str(folder / "files"), labels=str(folder / "classes.csv"))
    rows = [(f"files/{name}", label) for name, label in zip(names, labels, strict=True)]
    if kind == "csv":
        write_csv(folder / "data.csv", ["image", "label"], rows)
        return Source(csv=str(folder / "data.csv"))
    lines = (json.dumps({"image": image, "label": label}) for image, label in rows)
    (folder / "data.jsonl").write_text("\n".join(lines))
    return Source(jsonl=str(folder / "data.jsonl"))


KINDS = ("arrays", "arrays-compressed", "parquet", "parquet-folder", "folder", "folder-csv", "csv", "jsonl")


def write_csv(path: Path, header: Sequence[str], rows: Any) -> Path:
    """A CSV file as Python writes it."""
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([header, *rows])
    return path


def ingest(context: Context, source: Source, task: Part = IMAGES, **more: Any) -> DomainOutputs:
    """Pack a source."""
    return DOMAINS.run(context, DomainInputs(source=source, task=task, **more))


def ingest_words(context: Context, folder: Path, rows: Sequence[Sequence[Any]], **more: Any) -> DomainOutputs:
    """Pack rows of (text, label) given as a CSV; `context.workspace` is shared."""
    folder.mkdir(parents=True, exist_ok=True)
    path = write_csv(folder / "data.csv", ["text", "label"], rows)
    return ingest(context, Source(csv=str(path)), WORDS, **more)


def open_samples(context: Context, outputs: DomainOutputs) -> Samples:
    """Their reader."""
    return Samples.open(context.place(outputs.samples), outputs.samples)


def files_of(context: Context, outputs: DomainOutputs) -> dict[str, bytes]:
    """Every file of the artifact's attempt, by name."""
    folder = context.place(outputs.samples).path
    return {path.name: path.read_bytes() for path in sorted(folder.glob("*/*"))}
