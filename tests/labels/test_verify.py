"""Is every fault found and named? Every byte of a tiny set, every object, every document."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from schemas.encodings import TopK
from schemas.errors import UserError
from stages.labels.reader import LabelSet
from stages.labels.verify import verify
from stages.places import Place
from tests.labels.fakes import FakeSamples, OracleTeacher, inputs_for, make_fake_set


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder: Path = tmp_path_factory.mktemp("whole") / "store"
    encoding = TopK(kind="top-k", k=None, mass=0.9, temperatures=(1.0,))
    make_fake_set(Place(str(folder)), FakeSamples((2, 1)), OracleTeacher(), inputs_for(encoding))
    return folder


@pytest.fixture
def folder(whole: Path, tmp_path: Path) -> Path:
    """A copy to spoil."""
    return Path(shutil.copytree(whole, tmp_path / "store"))


def faults(folder: Path, deep: bool = True) -> list[str]:
    """What is wrong, however it is told."""
    try:
        return verify(LabelSet.open(str(folder)), deep)
    except UserError as error:
        return list(error.problems)


def files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


def test_a_whole_set_has_no_fault(folder: Path) -> None:
    assert faults(folder) == faults(folder, deep=False) == []


@pytest.mark.parametrize("stride", [pytest.param(23, id="some"), pytest.param(1, id="every", marks=pytest.mark.long)])
def test_every_flipped_byte_is_found(folder: Path, stride: int) -> None:
    """Of every file but what its format ignores: blanks and order of JSON keep their meaning, and are told apart."""
    tried = 0
    for path in files(folder):
        data = path.read_bytes()
        for place in range(tried % stride, len(data), stride):
            flipped = data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :]
            path.write_bytes(flipped)
            found = faults(folder)
            path.write_bytes(data)
            tried += 1
            if not found:
                assert path.suffix == ".json", f"{path.relative_to(folder)}, byte {place}"
                assert json.loads(flipped) == json.loads(data), f"{path.relative_to(folder)}, byte {place}"
            else:
                named = path.name if path.parent == folder else path.relative_to(folder).as_posix()
                assert any(named in fault for fault in found) or path.name in ("set.json", "store.json"), found
    assert tried > 100
    assert faults(folder) == []


@pytest.mark.parametrize("fault", ["missing", "cut", "longer", "extra"])
def test_every_object_by_name(folder: Path, fault: str) -> None:
    for path in files(folder / "units"):
        data, name = path.read_bytes(), path.relative_to(folder).as_posix()
        other = path.with_name("extra.bin")
        if path.name == "receipt.json":
            continue
        if fault == "missing":
            path.unlink()
        elif fault == "extra":
            other.write_bytes(b"?")
            name = other.relative_to(folder).as_posix()
        else:
            path.write_bytes(data[:-1] if fault == "cut" else data + b"x")
        found = faults(folder, deep=False)
        assert any(name in item for item in found), (name, found)
        other.unlink(missing_ok=True)
        path.write_bytes(data)


def test_swapped_receipts_and_edited_documents(folder: Path) -> None:
    receipts = sorted(folder.glob("units/*/receipt.json"))
    one, other = (path.read_bytes() for path in receipts)
    receipts[0].write_bytes(other)
    assert any("is the receipt of another unit" in item for item in faults(folder))
    receipts[0].write_bytes(one.replace(b'"rows": ', b'"rows": 1'))
    assert any("is not the one that the set lists" in item for item in faults(folder))
    receipts[0].unlink()
    assert any(f"{receipts[0]} is missing" in item for item in faults(folder))
    receipts[0].write_bytes(one)
    (plan,) = folder.glob("sets/*/plan.json")
    text = plan.read_text()
    plan.write_text(text.replace("shard-00000", "shard-00009"))
    assert any("plans another set" in item for item in faults(folder, deep=False))
    plan.write_text(text)
    (folder / "sets" / plan.parent.name / "more.json").write_text("{}")
    assert any("more.json belongs to no set" in item for item in faults(folder, deep=False))
