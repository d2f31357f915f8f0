"""A label set as plain files for other programs: Parquet, JSON Lines, a Hugging Face dataset, WebDataset shards.

Every form has a row a sample with `sample_id` and `content_id` (left empty where it is not known), the class names and
the label card. What is written lies under a temporary name until it is whole; nothing is ever overwritten. Memory is
that of some thousand rows, or of one unit where labels are written as stored.

Shapes: B samples of a lot, N labels of them, C classes.
"""

from __future__ import annotations

import io
import json
import os
import shutil
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import chain, groupby
from operator import itemgetter
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import yaml

from schemas.canonical import digest
from schemas.errors import PlaceError, StoreError
from stages.labels.builder import AT_ONCE
from stages.labels.catalog import card, escaped
from stages.labels.decoded import Decoded, DenseLabels, smallest_temperature
from stages.labels.encodings import ITEMS, check_temperatures
from stages.labels.reader import LabelSet
from stages.labels.tables import unit_table
from stages.places import new_attempt
from stages.progress import Told

Form = Literal["parquet", "jsonl", "huggingface", "webdataset"]
As = Literal["stored", "logits", "probabilities"]
Lots = Iterator[tuple[int, pa.Table]]
"""(unit, some of its rows)."""
METADATA = b"crossdistill"
"""Key of a Parquet file's metadata under which class names and card stand, as JSON."""
LOWEST = -69.0
"""Log-probability that stands for minus infinity, which JSON and most programs have no number for (about 1e-30)."""
_ROW_GROUP = 16_384
_JSON_ROWS = 1024


def export_set(
    labels: LabelSet,
    to: str | Path,
    form: Form = "parquet",
    as_: As = "logits",
    temperature: float | None = None,
    view: int = 0,
    told: Told | None = None,
) -> Path:
    """One view of a set as a Parquet file, or as a folder of another form; the answer is where it is.

    `stored` gives the fields of the label schema. `probabilities` are softened by `temperature`. `logits` are those of
    dense and low-rank labels; of others, log-probabilities at `temperature` times it, the tail spread evenly. A
    temperature that is left out is 1, or the smallest that the labels are made for. Raises StoreError for one that they
    cannot be read at or that changes nothing, PlaceError if there is something at `to` already.
    """
    if not 0 <= view < labels.manifest.views.count:
        raise StoreError(f"label set {labels.fingerprint[:12]} has views 0 to {labels.manifest.views.count - 1}")
    if not labels.rows:
        raise StoreError(f"label set {labels.fingerprint[:12]} has no samples: there is nothing to export")
    tau = _temperature(labels, as_, temperature)
    target = Path(to)
    head = {
        "classes": list(labels.classes),
        "labels": as_,
        "temperature": tau,
        "view": view,
        "schema": labels.schema.dump(),
        "card": card(labels.manifest),
    }
    lots = _lots(labels, view, as_, tau, told)
    with _whole(target) as path:
        match form:
            case "parquet":
                _parquet(lots, head, path)
            case "jsonl":
                path.mkdir()
                _json_lines(lots, path / "labels.jsonl")
            case "huggingface":
                _huggingface(lots, head, path)
            case "webdataset":
                path.mkdir()
                _webdataset(lots, path)
        if form != "parquet":
            (path / "card.json").write_text(json.dumps(head, indent=2, ensure_ascii=False) + "\n", "utf-8")
    return target


def _temperature(labels: LabelSet, as_: As, asked: float | None) -> float | None:
    """The temperature that labels are read at; none where it makes no difference."""
    encoding = labels.schema.encoding
    free = as_ == "stored" or (as_ == "logits" and encoding.kind in ("dense", "low-rank"))
    if free and asked is not None:
        what = "labels as stored" if as_ == "stored" else f"the logits of {encoding.kind} labels"
        raise StoreError(f"{what} have no temperature: leave it out, or export probabilities")
    if free:
        return None
    if asked is not None:
        check_temperatures(encoding, (asked,))
        return asked
    return smallest_temperature(labels.decode(labels.gather(np.zeros(1, np.int64))))


@contextmanager
def _whole(target: Path) -> Iterator[Path]:
    """A name beside the target that becomes it at the end, or goes away."""
    if target.exists() or target.is_symlink():
        raise PlaceError(f"there is something at {target} already: export to another name, or remove it")
    if not target.parent.is_dir():
        raise PlaceError(f"there is no folder {target.parent}: make it first")
    path = target.parent / f".{target.name}.{new_attempt()}"
    try:
        yield path
        if path.is_dir():
            path.rename(target)  # fails if a folder with anything in it came there meanwhile
        else:
            os.link(path, target)  # fails if a file came there meanwhile
            path.unlink()
    except FileExistsError:
        raise PlaceError(f"something came to {target} meanwhile: export to another name") from None
    except OSError as error:
        raise PlaceError(f"{target} cannot be written: {error.strerror or error}") from None
    finally:
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)


# --- rows ----------------------------------------------------------------------------------------------------


def _lots(labels: LabelSet, view: int, as_: As, tau: float | None, told: Told | None) -> Lots:
    """(unit, some of its rows), in order; the last lot of a unit is told."""
    count = len(labels.offsets) - 1
    for number in range(count):
        unit = number + view * count
        if as_ == "stored":
            yield number, _readable(unit_table(labels, unit))
        else:
            rows = labels.units[unit].receipt.rows
            labels_each = max(1, labels.units[unit].receipt.statistics.labels // max(1, rows))
            size = max(1, AT_ONCE // (len(labels.classes) * labels_each))
            for begin in range(0, rows, size):
                yield number, _decoded(labels, unit, begin, min(begin + size, rows), as_, tau)
        if told is not None:
            told(number + 1, count)


def _decoded(labels: LabelSet, unit: int, begin: int, end: int, as_: As, tau: float | None) -> pa.Table:
    """Some rows of a unit with a number for every class of each label."""
    arrays, offsets = labels.mapped(unit)
    stored = labels.layout.cut(arrays, offsets, begin, end)
    values_NC = _values(labels.decode(stored), as_, tau)
    column = pa.FixedSizeListArray.from_arrays(pa.array(values_NC.ravel()), len(labels.classes))
    if offsets.labels is not None:
        starts = np.concatenate([[0], np.cumsum(stored[ITEMS], dtype=np.int64)])
        column = pa.LargeListArray.from_arrays(pa.array(starts), column)
    for size in reversed(labels.schema.shape.grid):
        column = pa.FixedSizeListArray.from_arrays(column, size)
    content = np.ascontiguousarray(labels.content_ids(unit)[begin:end])
    table = {
        "sample_id": pa.array(labels.sample_ids(unit)[begin:end], pa.string()),
        "content_id": pa.array([item.tobytes() for item in content], pa.binary(16)),
        as_: column,
    }
    return _readable(pa.table(table))


def _values(decoded: Decoded, as_: As, tau: float | None) -> np.ndarray:
    """Float32 (N, C)."""
    if tau is None:
        return decoded.dense()
    logp = np.maximum(decoded.log_probabilities(tau), LOWEST)
    if as_ == "logits":
        return np.asarray(logp * tau, np.float32)
    p = np.exp(logp) if not isinstance(decoded, DenseLabels) else np.exp(decoded.log_probabilities(tau))
    return np.asarray(p, np.float32)


def _readable(table: pa.Table) -> pa.Table:
    """A table whose unknown content ids are empty cells."""
    place = table.schema.get_field_index("content_id")
    values = [None if item == bytes(16) else item for item in table.column(place).to_pylist()]
    return table.set_column(place, "content_id", pa.array(values, pa.binary(16)))


# --- forms ---------------------------------------------------------------------------------------------------


def _parquet(lots: Lots, head: dict[str, Any], path: Path) -> None:
    """One file; class names and card stand in its metadata."""
    _, first = next(lots)
    schema = first.schema.with_metadata({METADATA: json.dumps(head).encode()})
    with pq.ParquetWriter(path, schema, compression="zstd", use_dictionary=False, write_page_checksum=True) as writer:
        for _, table in chain([(0, first)], lots):
            writer.write_table(table.cast(schema), row_group_size=_ROW_GROUP)


def _json_lines(lots: Lots, path: Path) -> None:
    """One object a line; content ids in hexadecimal."""
    with path.open("w", encoding="utf-8") as file:
        for _, table in lots:
            for batch in table.to_batches(_JSON_ROWS):
                for row in batch.to_pylist():
                    row["content_id"] = row["content_id"] and row["content_id"].hex()
                    file.write(json.dumps(row, ensure_ascii=False) + "\n")


def _huggingface(lots: Lots, head: dict[str, Any], path: Path) -> None:
    """A folder that `datasets.load_dataset` reads: `data/train-*.parquet`, one a unit, and a README with the card.

    Its columns are Arrow's. The configuration is called after the labels: `datasets` 5.2 answers from its cache where
    two folders of one name hold configurations of one name, whatever is in them (tried).
    """
    (path / "data").mkdir(parents=True)
    for unit, group in groupby(lots, key=itemgetter(0)):
        _parquet(group, head, path / f"data/train-{unit:05d}.parquet")
    name = f"{head['card']['root digest'][:12]}-{digest([head['labels'], head['temperature'], head['view']])[:8]}"
    described = {"configs": [{"config_name": name, "data_files": "data/train-*.parquet"}]}
    lines = [f"- {heading}: {line}" for heading, line in head["card"].items()]
    classes = ", ".join(escaped(name) for name in head["classes"])
    text = f"---\n{yaml.safe_dump(described, sort_keys=False)}---\n\n# Soft labels\n\n"
    text += "\n".join(lines) + f"\n\nThe numbers of a label are in this order: {classes}.\n"
    (path / "README.md").write_text(text, "utf-8")


def _webdataset(lots: Lots, path: Path) -> None:
    """`labels-000000.tar` and on, one a unit: for each sample its ids as `N.json`, each array as `N.NAME.npy`.

    N is the sample's position, since ids may hold what file names cannot. Bytes depend on the labels alone.
    """
    position = 0
    for unit, group in groupby(lots, key=itemgetter(0)):
        with tarfile.open(path / f"labels-{unit:06d}.tar", "x", format=tarfile.USTAR_FORMAT) as file:
            for batch in (batch for _, table in group for batch in table.to_batches(_JSON_ROWS)):
                for row in batch.to_pylist():
                    content = row.pop("content_id")
                    ids = {"sample_id": row.pop("sample_id"), "content_id": content and content.hex()}
                    _add(file, f"{position:09d}.json", json.dumps(ids, ensure_ascii=False).encode())
                    for name, value in row.items():
                        data = io.BytesIO()
                        np.save(data, _array(value, batch.schema.field(name).type), allow_pickle=False)
                        _add(file, f"{position:09d}.{name}.npy", data.getvalue())
                    position += 1


def _array(value: Any, kind: pa.DataType) -> np.ndarray:
    """A cell as an array of its own type; entries of a ragged grid as one row of them."""
    while pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind):
        kind = kind.value_type
    try:
        return np.asarray(value, kind.to_pandas_dtype())
    except ValueError:
        return np.concatenate([_array(item, kind).ravel() for item in value])


def _add(file: tarfile.TarFile, name: str, data: bytes) -> None:
    info = tarfile.TarInfo(name)
    info.size = len(data)
    file.addfile(info, io.BytesIO(data))
