"""Places: one suite for every kind; put-if-absent has one winner, nothing leaves its folder."""

from __future__ import annotations

import uuid
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from schemas.errors import PlaceError
from stages.places import Log, Place, checksum
from tests.s3 import Server, s3_server

__all__ = ["s3_server"]


@pytest.fixture(params=["local", "memory", "s3"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    if request.param == "s3":
        server: Server = request.getfixturevalue("s3_server")
        return server.new_place()
    return Place(str(tmp_path / "a place")) if request.param == "local" else Place(f"memory://{uuid.uuid4().hex}")


def test_put_new_creates_once(place: Place) -> None:
    assert place.put_new("a/b.json", b"one")
    assert not place.put_new("a/b.json", b"two")
    assert place.read("a/b.json") == b"one"
    assert place.read_or_none("a/c.json") is None
    assert place.names("a") == ["b.json"]
    assert place.names("none") == []


def test_one_of_many_racers_wins(place: Place) -> None:
    with ThreadPoolExecutor(16) as pool:
        wins = list(pool.map(lambda n: place.put_new("key", str(n).encode()), range(16)))
    assert wins.count(True) == 1
    assert place.read("key") == str(wins.index(True)).encode()


def test_probe_passes_and_leaves_nothing(place: Place) -> None:
    place.probe()
    assert place.names("probes") == []


def test_probe_refuses_a_place_where_two_win(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    def careless(self: Place, name: str, data: bytes) -> bool:
        self.put(name, data)
        return True

    monkeypatch.setattr(Place, "put_new", careless)
    with pytest.raises(PlaceError, match="let 16 of 16 writers create one object"):
        place.probe()


def test_a_place_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("x")
    with pytest.raises(PlaceError, match="file.*cannot be used"):
        Place(str(file / "below")).probe()
    with pytest.raises(PlaceError, match="no file system for 'nowhere://'"):
        Place("nowhere://x").read("y")


def test_a_place_that_cannot_be_written_is_told_without_writing(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("x")
    assert "file is a file" in str(Place(str(file / "below/deeper")).unwritable())
    assert Place(str(tmp_path / "new/deeper")).unwritable() is None
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("name", ["../x", "a/../../x", "/etc/passwd", "", "a//b", "./a", "a\\b"])
def test_paths_cannot_leave_their_folder(place: Place, name: str) -> None:
    with pytest.raises(PlaceError, match="leaves its folder"):
        place.read(name)
    with pytest.raises(PlaceError, match="leaves its folder"):
        place.put_new(name, b"x")


def test_writing_and_objects(place: Place) -> None:
    with place.writing("attempt/sub") as folder:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "one").write_bytes(b"1")
        (folder / "deep").mkdir()
        (folder / "deep/two").write_bytes(b"22")
    found = {item.name: (item.size, item.checksum) for item in place.objects("attempt/sub")}
    assert found == {"one": (1, checksum(b"1")), "deep/two": (2, checksum(b"22"))}
    place.remove("attempt")
    assert not place.exists("attempt/sub/one")
    place.remove("attempt")


def test_a_copy_stays_when_the_first_name_goes(place: Place) -> None:
    place.put("kept/a/file", b"whole")
    place.copy("kept/a/file", "attempt/file")
    place.remove("kept")
    assert place.read("attempt/file") == b"whole"
    assert place.read_or_none("kept/a/file") is None
    with pytest.raises(FileNotFoundError):
        place.copy("kept/a/file", "attempt/other")


def test_an_object_is_downloaded(place: Place, tmp_path: Path) -> None:
    place.put("x/y.bin", b"abc")
    place.download("x/y.bin", tmp_path / "here")
    assert (tmp_path / "here").read_bytes() == b"abc"
    with pytest.raises(FileNotFoundError):
        place.download("x/none.bin", tmp_path / "there")


def test_log_keeps_history_and_the_highest_wins(place: Place) -> None:
    log = Log(place / "tags/name")
    assert log.last() == (0, None)
    assert log.append(1, b"one")
    assert not log.append(1, b"other")
    assert log.append(12, b"twelve")
    assert log.last() == (12, b"twelve")
    log.forget(12)
    assert log.last() == (1, b"one")
