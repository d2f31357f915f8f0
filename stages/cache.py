"""The node's cache: the one way in which an object of a remote place comes to this machine, verified, once for all.

Files lie under their checksum, so two label sets that share a unit share its files, wherever they were published.
Several processes may use one folder. A file is downloaded beside its name, under a lock that the kernel frees when its
holder dies, checked, and renamed; whoever wants it meanwhile waits for that lock. It is held shared from its check
until its reader has opened it, and never removed then; mapped files that are removed later stay valid as long as they
are mapped (POSIX). What was read longest ago goes first when the folder would outgrow its bound. A whole cache can be
removed at any time.

Where it is and how large: CROSSDISTILL_CACHE and CROSSDISTILL_CACHE_SIZE. Both are circumstances, in no fingerprint.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from functools import lru_cache
from pathlib import Path
from typing import IO

from pydantic import ByteSize, TypeAdapter, ValidationError

from schemas.artifacts import ObjectInfo
from schemas.errors import PlaceError, StoreError
from stages.places import Place, checksum_file, checksum_stream

FOLDER, SIZE = "CROSSDISTILL_CACHE", "CROSSDISTILL_CACHE_SIZE"
DOWNLOADS, KEYS_AHEAD = 8, 8
"""Objects that are downloaded at once ahead of need; units or shards of which they are at most."""
PART = ".part"
"""Ends the name of a file that is on its way."""
SCANS = 64
"""The folder is looked through each time that this process brought so many parts of its bound."""
SPARE = 16
"""A full cache is emptied by one part in so many, so that it is not looked through for each file."""


def cache_folder() -> Path:
    """Where downloaded files are kept: CROSSDISTILL_CACHE, else `~/.cache/crossdistill`."""
    return Path(os.environ.get(FOLDER) or "~/.cache/crossdistill").expanduser()


@contextmanager
def held(place: Place, info: ObjectInfo, name: str, mend: str, trusted: bool = False) -> Iterator[Path]:
    """The object `name` of a place as a local file, verified; open or map it before leaving.

    Its own file where the place is local, else that of this node's cache. `trusted`: this process has verified it
    before, and a file that is there is checked by its size alone. Raises StoreError ending with `mend` if the object is
    missing or damaged, PlaceError if the place does not answer or the cache cannot be written.
    """
    try:
        if place.is_local:
            path = place.file(name)
            with path.open("rb") as file:
                if not _whole(file, info, trusted):
                    raise _damaged(place, name, mend)
            yield path
        else:
            with node_cache().held(place, info, name, mend, trusted) as path:
                yield path
    except (FileNotFoundError, IsADirectoryError):
        raise StoreError(f"{place.uri}/{name} is missing: {mend}") from None


class Ahead:
    """What will be wanted in an order that is known, brought before it is, several objects at once.

    `keys` in that order; `coming` gives the downloads of one, which may be called in any thread.
    """

    def __init__(self, keys: Sequence[int], coming: Callable[[int], Iterable[Callable[[], object]]]) -> None:
        self._keys, self._coming = keys, coming
        self._number = {key: number for number, key in enumerate(keys)}
        self._begun: int | None = None
        self._futures: dict[int, list[Future[object]]] = {}
        self._pool = ThreadPoolExecutor(DOWNLOADS, "crossdistill-download")

    def __enter__(self) -> Ahead:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        """Bring nothing more; what is under way is waited for."""
        self._pool.shutdown(cancel_futures=True)

    def reach(self, *keys: int) -> None:
        """Wait until what is wanted of some keys is here, with the next `KEYS_AHEAD` on their way. Raises what failed.

        What comes before the first keys that are reached is not brought.
        """
        numbers = [self._number[key] for key in keys]
        begin, end = min(numbers) if self._begun is None else self._begun, max(numbers) + 1 + KEYS_AHEAD
        for begun in self._keys[begin:end]:
            self._futures[begun] = [self._pool.submit(download) for download in self._coming(begun)]
        self._begun = max(begin, end)
        for future in [future for key in keys for future in self._futures.pop(key, ())]:
            future.result()


def node_cache() -> Cache:
    """The cache that the environment names. Raises PlaceError for a size that is none."""
    return _cache(cache_folder() / "objects", os.environ.get(SIZE) or None)


@lru_cache(maxsize=8)
def _cache(folder: Path, size: str | None) -> Cache:
    try:
        return Cache(folder, None if size is None else int(TypeAdapter(ByteSize).validate_python(size)))
    except ValidationError:
        raise PlaceError(f"{SIZE} is '{size}': give a size such as 200GB, or leave it out") from None


class Cache:
    """Verified copies of remote objects in one folder: `limit` bytes at most; left out, half of what the disk has."""

    def __init__(self, folder: Path, limit: int | None = None) -> None:
        self.folder, self._limit = folder, limit
        self.downloads = 0
        """Objects that this process downloaded."""
        self._bound = 0
        self._used: int | None = None
        """Bytes in the folder as far as this process knows; None until it has looked."""
        self._brought = 0
        """Bytes that it brought since it looked."""

    @contextmanager
    def held(self, place: Place, info: ObjectInfo, name: str, mend: str, trusted: bool = False) -> Iterator[Path]:
        """As the function `held`, of a place that is not local. Raises FileNotFoundError for a missing object."""
        target = self.folder / info.checksum[:2] / f"{info.checksum}-{info.size}"
        while True:
            try:
                file = _locked(target, fcntl.LOCK_SH)
            except PermissionError as error:
                raise self._unfit(error) from None
            if file is None:
                trusted = self._bring(place, info, name, mend, target)
                continue
            with file:
                try:
                    if _whole(file, info, trusted):
                        _touch(target)
                        yield target
                        return
                finally:
                    fcntl.flock(file, fcntl.LOCK_UN)  # a process forked meanwhile holds the lock too
            target.unlink(missing_ok=True)

    def _bring(self, place: Place, info: ObjectInfo, name: str, mend: str, target: Path) -> bool:
        """Download an object, or wait for who does: whether it was this call (and the file is as good as read)."""
        part = target.with_name(target.name + PART)
        with self._opened(part) as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            try:
                if target.exists() or not _is(file, part):
                    return False
                self._make_room(info.size, place, name)
                try:
                    place.download(name, part)
                    if checksum_file(part) != (info.size, info.checksum):
                        raise _damaged(place, name, mend)
                except BaseException:
                    part.unlink(missing_ok=True)
                    raise
                part.replace(target)
                self.downloads += 1
                return True
            finally:
                fcntl.flock(file, fcntl.LOCK_UN)

    def _opened(self, part: Path) -> IO[bytes]:
        try:
            part.parent.mkdir(parents=True, exist_ok=True)
            return part.open("ab")
        except OSError as error:
            raise self._unfit(error) from None

    def _unfit(self, error: OSError) -> PlaceError:
        return PlaceError(
            f"downloaded files are kept in {self.folder}, which cannot be used ({error.strerror}): name another folder "
            f"by {FOLDER}"
        )

    def _make_room(self, size: int, place: Place, name: str) -> None:
        """Remove what was read longest ago until `size` bytes more fit. Raises PlaceError if the disk is full."""
        if self._used is None or self._used + size > self._bound or self._brought * SCANS > self._bound:
            files = sorted(self._files())
            self._used, self._brought = sum(bytes_ for _, bytes_, _ in files), 0
            most = self._used + shutil.disk_usage(self.folder).free
            self._bound = most // 2 if self._limit is None else min(self._limit, most)
            goal = self._bound - self._bound // SPARE if self._used + size > self._bound else self._bound
            for _, bytes_, path in files:
                if self._used + size <= goal:
                    break
                self._used -= bytes_ if _removed(path) else 0
            if (free := shutil.disk_usage(self.folder).free) < size:
                raise PlaceError(
                    f"{self.folder} has room for {free:,} bytes and {place.uri}/{name} has {size:,}: make some, or "
                    f"name another folder by {FOLDER}"
                )
        self._used, self._brought = self._used + size, self._brought + size

    def _files(self) -> Iterator[tuple[int, int, Path]]:
        """(when it was last read, bytes, path) of every file."""
        for folder in self.folder.iterdir():
            for path in folder.iterdir():
                try:
                    stat = path.stat()
                except FileNotFoundError:
                    continue
                yield stat.st_atime_ns, stat.st_size, path


def _locked(path: Path, how: int) -> IO[bytes] | None:
    """A file, opened and locked; None if it is not there, or cannot be locked where `how` does not wait."""
    try:
        file = path.open("rb")
    except (FileNotFoundError, NotADirectoryError):
        return None
    try:
        fcntl.flock(file, how)
        if _is(file, path):
            return file
    except BlockingIOError:
        pass
    file.close()
    return None


def _removed(path: Path) -> bool:
    """Whether a file is gone; one that somebody is bringing or about to map is not touched."""
    file = _locked(path, fcntl.LOCK_EX | fcntl.LOCK_NB)
    if file is None:
        return not path.exists()
    with file:
        path.unlink(missing_ok=True)
        fcntl.flock(file, fcntl.LOCK_UN)
    return True


def _is(file: IO[bytes], path: Path) -> bool:
    """Whether an open file is what stands at a path now."""
    try:
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    except FileNotFoundError:
        return False


def _whole(file: IO[bytes], info: ObjectInfo, trusted: bool) -> bool:
    size = os.fstat(file.fileno()).st_size
    return size == info.size and (trusted or checksum_stream(file) == (info.size, info.checksum))


def _touch(path: Path) -> None:
    """Note that a file is read now: file systems keep no exact count of it."""
    with suppress(PermissionError):  # a cache that somebody else fills
        os.utime(path, ns=(time.time_ns(), path.stat().st_mtime_ns))


def _damaged(place: Place, name: str, mend: str) -> StoreError:
    return StoreError(f"{place.uri}/{name} is damaged: {mend}")
