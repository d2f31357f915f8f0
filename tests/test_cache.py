"""The node's cache: whole files, downloaded once by whoever is first, bounded, and mended."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from schemas.artifacts import ObjectInfo
from schemas.errors import PlaceError, StoreError
from stages.cache import DOWNLOADS, KEYS_AHEAD, Ahead, Cache, held, node_cache
from stages.places import Place, checksum
from tests.far import Far

MEND = "make it again"
SIZE = 100


@pytest.fixture
def far(tmp_path: Path) -> Far:
    return Far(str(tmp_path / "far"), log=tmp_path / "downloads")


def put(place: Place, name: str) -> ObjectInfo:
    """An object whose bytes are its own."""
    data = name.encode().ljust(SIZE, b".")
    place.put(name, data)
    return ObjectInfo(name=name, size=SIZE, checksum=checksum(data))


def read(cache: Cache, place: Place, info: ObjectInfo) -> bytes:
    with cache.held(place, info, info.name, MEND) as path:
        return path.read_bytes()


def files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


def forked(work: Callable[[], object]) -> multiprocessing.process.BaseProcess:
    process = multiprocessing.get_context("fork").Process(target=work)
    process.start()
    return process


def wait_for(true: Callable[[], object]) -> None:
    deadline = time.monotonic() + 20
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def test_an_object_is_downloaded_once_for_all_who_hold_its_bytes(far: Far, node_cache: Path) -> None:
    info = put(far, "one")
    far.put("copies/other name", far.read("one"))
    with held(far, info, "one", MEND) as first, held(far, info, "copies/other name", MEND) as second:
        assert first == second
        assert first.read_bytes() == far.read("one")
    assert far.downloads == ["one"]
    assert files(node_cache) == [first]


def test_a_local_object_is_read_where_it_is(tmp_path: Path, node_cache: Path) -> None:
    place = Place(str(tmp_path / "here"))
    info = put(place, "one")
    with held(place, info, "one", MEND) as path:
        assert path == place.path / "one"
    assert not node_cache.exists()


@pytest.mark.parametrize("where", ["far", "here"])
def test_what_is_missing_or_damaged_is_named(where: str, far: Far, node_cache: Path) -> None:
    place = far if where == "far" else Place(far.uri)
    info = put(place, "one")
    place.put("one", b"x" * SIZE)
    with pytest.raises(StoreError, match=r"far/one is damaged: make it again"):
        with held(place, info, "one", MEND):
            pass
    place.remove("one")
    with pytest.raises(StoreError, match=r"far/one is missing: make it again"):
        with held(place, info, "one", MEND):
            pass
    assert files(node_cache) == []


@pytest.mark.parametrize("harm", [lambda path: path.write_bytes(b"y" * SIZE), lambda path: os.truncate(path, 7)])
def test_a_damaged_copy_is_downloaded_again(harm: Callable[[Path], None], far: Far, tmp_path: Path) -> None:
    cache, info = Cache(tmp_path / "cache"), put(far, "one")
    wanted = read(cache, far, info)
    (path,) = files(cache.folder)
    harm(path)
    assert read(cache, far, info) == wanted
    assert (cache.downloads, len(far.downloads)) == (2, 2)


def test_threads_and_processes_that_want_one_object_download_it_once(far: Far, tmp_path: Path) -> None:
    slow = Far(far.uri, slow_s=0.2, log=far.log)
    info, cache = put(slow, "one"), Cache(tmp_path / "cache")

    def want(_: int = 0) -> None:
        assert read(cache, slow, info) == slow.read("one")

    others = [forked(want) for _ in range(2)]
    with ThreadPoolExecutor(3) as pool:
        list(pool.map(want, range(3)))
    for process in others:
        process.join(20)
        assert process.exitcode == 0
    assert slow.downloads == ["one"]


def test_a_killed_download_leaves_nothing_that_is_believed(far: Far, tmp_path: Path) -> None:
    info, cache = put(far, "one"), Cache(tmp_path / "cache")
    process = forked(lambda: read(cache, Far(far.uri, slow_s=60, log=far.log), info))
    wait_for(lambda: any(path.read_bytes() == b"half" for path in files(cache.folder)))
    assert process.pid is not None
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    assert read(cache, far, info) == far.read("one")
    assert [path.suffix for path in files(cache.folder)] == [""]


def test_what_a_killed_download_left_goes_as_others_do(far: Far, tmp_path: Path) -> None:
    infos, cache = [put(far, name) for name in "abc"], Cache(tmp_path / "cache", 250)
    dead = cache.folder / "aa" / "left.part"
    dead.parent.mkdir(parents=True)
    dead.write_bytes(b"x" * SIZE)
    os.utime(dead, ns=(0, 0))
    for info in infos:
        read(cache, far, info)
    assert not dead.exists()


def test_the_least_recently_read_goes_first_and_the_bound_holds(far: Far, tmp_path: Path) -> None:
    cache, infos = Cache(tmp_path / "cache", 350), {name: put(far, name) for name in "abcdef"}
    for name in "abcadeafa":
        read(Cache(cache.folder, 350) if name == "d" else cache, far, infos[name])  # as another process would
        assert sum(path.stat().st_size for path in files(cache.folder)) <= 350
    assert far.downloads == ["a", "b", "c", "d", "e", "f"]  # `a` was always read again before its turn came
    kept = {path.read_bytes()[:1].decode() for path in files(cache.folder)}
    assert kept == {"a", "e", "f"}


def test_what_is_being_opened_is_not_removed_and_what_is_mapped_stays_valid(far: Far, tmp_path: Path) -> None:
    cache, infos = Cache(tmp_path / "cache", 150), [put(far, name) for name in "abc"]
    with cache.held(far, infos[0], "a", MEND) as path:
        read(cache, far, infos[1])
        assert path.exists()
        mapped = np.memmap(path, np.uint8, "r")
    read(cache, far, infos[2])
    assert not path.exists()
    assert mapped.tobytes() == far.read("a")


def test_a_process_forked_during_a_download_keeps_no_lock(far: Far, tmp_path: Path) -> None:
    slow, cache = Far(far.uri, slow_s=0.3, log=far.log), Cache(tmp_path / "cache")
    info = put(far, "one")
    with ThreadPoolExecutor(1) as pool:
        download = pool.submit(read, cache, slow, info)
        wait_for(lambda: far.downloads)
        child = forked(lambda: time.sleep(60))
        download.result()
    with cache.held(far, info, "one", MEND):
        pass
    assert cache.downloads == 1
    (path,) = files(cache.folder)
    Cache(cache.folder, 0)._make_room(0, far, "none")  # takes every lock
    assert not path.exists()
    child.kill()
    child.join()


def test_a_cache_that_cannot_be_written_is_told(far: Far, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("x")
    monkeypatch.setenv("CROSSDISTILL_CACHE", str(tmp_path / "file"))
    with pytest.raises(PlaceError, match=r"kept in .*file.objects, which cannot be used .*by CROSSDISTILL_CACHE"):
        with held(far, put(far, "one"), "one", MEND):
            pass


def test_its_size_is_said_as_people_say_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CROSSDISTILL_CACHE_SIZE", "1.5GB")
    assert node_cache()._limit == 1_500_000_000
    monkeypatch.setenv("CROSSDISTILL_CACHE_SIZE", "much")
    with pytest.raises(PlaceError, match="CROSSDISTILL_CACHE_SIZE is 'much': give a size such as 200GB"):
        node_cache()


def test_a_full_disk_is_told(far: Far, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    info = put(far, "one").model_copy(update={"size": 2**60})
    with pytest.raises(PlaceError, match=r"cache has room for [\d,]+ bytes and .*far/one has 1,152,9.*: make some"):
        read(Cache(tmp_path / "cache"), far, info)
    assert far.downloads == []


# --- ahead of need -----------------------------------------------------------------------------------------------


def test_several_objects_come_at_once_and_no_more_than_are_near() -> None:
    together, begun = threading.Barrier(DOWNLOADS), []

    def coming(key: int) -> list[Callable[[], object]]:
        begun.append(key)
        return [lambda: together.wait(20)] if key in keys[:DOWNLOADS] else []

    keys = list(range(2 * DOWNLOADS))[::-1]
    with Ahead(keys, coming) as ahead:
        for key in keys[:DOWNLOADS]:
            ahead.reach(key)  # would break the barrier if fewer ran together
            ahead.reach(key)
            assert begun == keys[: keys.index(key) + 1 + KEYS_AHEAD]


def test_what_failed_is_raised_where_it_is_wanted() -> None:
    def fail() -> None:
        raise StoreError("gone")

    with Ahead([3, 1, 2], lambda key: [fail] if key == 1 else []) as ahead:
        ahead.reach(3)
        with pytest.raises(StoreError, match="gone"):
            ahead.reach(1)


def test_an_order_that_is_entered_late_brings_nothing_before() -> None:
    begun: list[int] = []

    def coming(key: int) -> list[Callable[[], object]]:
        begun.append(key)
        return []

    with Ahead(range(100), coming) as ahead:
        ahead.reach(51, 50)
        ahead.reach(40, 53)
    assert begun == list(range(50, 54 + KEYS_AHEAD))
