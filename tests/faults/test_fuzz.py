"""Damaged and hostile stores: whatever stands in a manifest, a reader answers or refuses in a sentence.

Two kinds of edits. Blind ones change a file and nothing else. Signed ones change a document and then make every
checksum and digest above it fit again, as somebody would who means harm: what is left are the reader's own checks.
"""

from __future__ import annotations

import copy
import json
import random
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from schemas.errors import ContractError, StoreError, UserError
from schemas.labels import Receipt, SetManifest
from stages.labels.index import from_parquet, to_parquet
from stages.labels.reader import LabelSet
from stages.labels.statistics import merge
from stages.labels.store import root_digest
from stages.places import Place, checksum
from tests.labels.fakes import FakeSamples, OracleTeacher, make_fake_set

ROWS = (3, 2)
TRIES = [pytest.param(700, id="some"), pytest.param(20_000, id="many", marks=pytest.mark.long)]
EVIL: list[Any] = [
    None, True, -1, 0, 1, 2**31, 2**63, 2**70, 1e308, "", "../../../etc/passwd", "/etc/passwd", "a\0b", "\x1b[2J",
    "0" * 32, "os:system", [], {}, [[[]]], ["x"] * 3, {"kind": "top-k", "k": 2**40}, {"kind": "pickle"}, "x" * 10_000,
]  # fmt: skip


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder: Path = tmp_path_factory.mktemp("whole") / "store"
    make_fake_set(Place(str(folder)), FakeSamples(ROWS), OracleTeacher())
    return folder


def read_all(folder: Path) -> None:
    """All that a set says."""
    labels = LabelSet.open(str(folder))
    labels.logits(np.arange(min(len(labels), 100)))
    for unit in range(len(labels.units)):
        labels.check_ids(unit)
        labels.exact(unit)


def refused_or_read(folder: Path, what: str) -> bool:
    """Whether reading was refused, which must be in one printable sentence."""
    try:
        read_all(folder)
    except UserError as error:
        for problem in error.problems:
            assert problem, what
            assert len(problem) < 12_000, what
        return True
    except Exception as error:
        raise AssertionError(f"{what}: {type(error).__name__}: {error}") from error
    return False


def mutated(value: Any, rng: random.Random) -> Any:
    """A copy of plain values with one place changed, dropped, doubled or made something else."""
    value = copy.deepcopy(value)
    holders: list[tuple[Any, Any]] = []

    def walk(item: Any) -> None:
        keys = list(item) if isinstance(item, dict) else range(len(item)) if isinstance(item, list) else ()
        for key in keys:
            holders.append((item, key))
            walk(item[key])

    walk(value)
    holder, key = rng.choice(holders)
    match rng.randrange(4):
        case 0:
            del holder[key]
        case 1 if isinstance(holder[key], int | float) and not isinstance(holder[key], bool):
            holder[key] += rng.choice([-1, 1, 0.5, 10**6])
        case 2 if isinstance(holder, dict):
            holder[f"{key}x"] = holder[key]
        case _:
            holder[key] = rng.choice(EVIL)
    return value


def spoilt(data: bytes, suffix: str, rng: random.Random) -> bytes:
    """A file's bytes with a bit flipped, cut, added to, doubled in part, or edited as JSON."""
    place = rng.randrange(len(data))
    match rng.randrange(5):
        case 0:
            return data[:place] + bytes([data[place] ^ (1 << rng.randrange(8))]) + data[place + 1 :]
        case 1:
            return data[:place]
        case 2:
            return data[:place] + rng.randbytes(4) + data[place:]
        case 3:
            return data[:place] + data[place // 2 :]
        case _:
            return json.dumps(mutated(json.loads(data), rng)).encode() if suffix == ".json" else b""


@pytest.mark.parametrize("tries", TRIES)
def test_blind_edits(whole: Path, tmp_path: Path, tries: int) -> None:
    """Bytes flipped, cut, added or doubled anywhere in any file that reading touches, and JSON edited."""
    rng, folder = random.Random(tries), tmp_path / "store"
    shutil.copytree(whole, folder)
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    refused = 0
    for number in range(tries):
        path = rng.choice(files)
        data = path.read_bytes()
        path.write_bytes(spoilt(data, path.suffix, rng))
        refused += refused_or_read(folder, f"edit {number} of {path.relative_to(folder)}")
        path.write_bytes(data)
    assert refused > tries / 2
    read_all(folder)


@pytest.mark.parametrize("tries", TRIES)
def test_signed_edits_of_arrays(whole: Path, tmp_path: Path, tries: int) -> None:
    """The metadata of an array or its rows are changed, and receipt, index, root digest and manifest made to fit."""
    rng, folder = random.Random(tries + 1), tmp_path / "store"
    shutil.copytree(whole, folder)
    (manifest_path,) = folder.glob("sets/*/set.json")
    manifest = SetManifest.parse_json(manifest_path.read_bytes(), "set.json")
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    units = from_parquet((manifest_path.parent / manifest.index.name).read_bytes(), "index")
    refused = 0
    for number in range(tries // 2):
        at = rng.randrange(len(units))
        unit = units[at]
        item = rng.choice(unit.receipt.objects)
        path = folder / "units" / unit.receipt.key / unit.receipt.attempt / item.name
        data = path.read_bytes()
        if path.suffix == ".json":
            data = json.dumps(mutated(json.loads(data), rng)).encode()
        else:
            data = rng.choice([data[: rng.randrange(len(data))], data + rng.randbytes(8), rng.randbytes(len(data))])
        path.write_bytes(data)
        info = item.model_copy(update={"size": len(data), "checksum": checksum(data)})
        objects = tuple(info if other is item else other for other in unit.receipt.objects)
        changed = [*units]
        changed[at] = replace(unit, receipt=unit.receipt.model_copy(update={"objects": objects}))
        sign(manifest_path, manifest, changed)
        refused += refused_or_read(folder, f"edit {number} of {item.name}: {data[:300]!r}")
        restore(folder, before)
    assert refused > tries / 8


@pytest.mark.parametrize("tries", TRIES)
def test_signed_edits_of_receipts_and_schema(whole: Path, tmp_path: Path, tries: int) -> None:
    """Rows, objects, names, classes, encodings and fields are changed, and everything above made to fit."""
    rng, folder = random.Random(tries + 2), tmp_path / "store"
    shutil.copytree(whole, folder)
    (manifest_path,) = folder.glob("sets/*/set.json")
    manifest = SetManifest.parse_json(manifest_path.read_bytes(), "set.json")
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    units = from_parquet((manifest_path.parent / manifest.index.name).read_bytes(), "index")
    refused = 0
    for number in range(tries // 2):
        changed, told, value = [*units], manifest, manifest.dump()
        try:
            if rng.random() < 0.5:
                at = rng.randrange(len(units))
                receipt = Receipt.parse(mutated(units[at].receipt.dump(), rng), "receipt")
                changed[at] = replace(units[at], receipt=receipt)
            else:
                value["label_schema"] = mutated(value["label_schema"], rng)
                told = SetManifest.parse(value, "set.json")
            sign(manifest_path, told, changed)
        except (ContractError, StoreError, OverflowError):  # numbers that no index can hold
            refused += 1
            continue
        refused += refused_or_read(folder, f"edit {number}: {json.dumps(value['label_schema'])[:600]}")
        restore(folder, before)
    assert refused > tries / 8


def sign(path: Path, manifest: SetManifest, units: list[Any]) -> None:
    """Write index and manifest so that every digest in them fits these units."""
    data = to_parquet(units)
    index = manifest.index.model_copy(
        update={"name": f"index-{checksum(data)}.parquet", "size": len(data), "checksum": checksum(data)}
    )
    (path.parent / index.name).write_bytes(data)
    signed = manifest.model_copy(
        update={
            "index": index,
            "digest": root_digest(manifest.label_schema, units),
            "rows": sum(unit.receipt.rows for unit in units),
            "units": len(units),
            "statistics": merge(unit.receipt.statistics for unit in units),
        }
    )
    path.write_bytes(signed.model_copy(update={"seal": signed.unsealed()}).to_json())


def restore(folder: Path, before: dict[Path, bytes]) -> None:
    """Every file as it was; others removed."""
    for path in folder.rglob("*"):
        if path.is_file() and path not in before:
            path.unlink()
    for path, data in before.items():
        if path.read_bytes() != data:
            path.write_bytes(data)
