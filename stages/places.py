"""Places: a directory or a bucket prefix, with the one guarantee that commits rest on: put-if-absent.

Local: temporary file, fsync, hard link. S3: a conditional PUT (`If-None-Match: *`). Memory: a lock (tests).
Credentials of object storage come from the environment or the usual config files, and stand in no message.
A name that exists is never written again; what must change is a numbered log of such names (`Log`).
"""

from __future__ import annotations

import hashlib
import os
import posixpath
import random
import re
import secrets
import shutil
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import IO, Any

import fsspec
from fsspec.implementations.local import LocalFileSystem

from schemas.artifacts import ObjectInfo
from schemas.canonical import DIGEST_BYTES
from schemas.errors import PlaceError
from schemas.spec import Storage

_memory_lock = threading.Lock()
RACERS = 16
"""Concurrent creates of one key in the probe of a place; exactly one may win."""
S3_CONFIG: dict[str, Any] = {
    "retries": {"mode": "standard", "total_max_attempts": 4},  # a server that is down is told of within about 7 s
    "max_pool_connections": 32,
}
CONFLICT_TRIES = 8
"""Attempts at a conditional write while the server says that another one is under way (409)."""


def new_attempt() -> str:
    """128 random bits in hexadecimal: the name of work in progress."""
    return secrets.token_hex(16)


def checksum(data: bytes) -> str:
    """blake2b-128 of bytes, as in `ObjectInfo`."""
    return hashlib.blake2b(data, digest_size=DIGEST_BYTES).hexdigest()


def checksum_stream(file: IO[bytes]) -> tuple[int, str]:
    """(bytes, blake2b-128) of what is left of an open file, in bounded memory."""
    hasher, size = hashlib.blake2b(digest_size=DIGEST_BYTES), 0
    while chunk := file.read(1 << 20):
        hasher.update(chunk)
        size += len(chunk)
    return size, hasher.hexdigest()


def checksum_file(path: Path) -> tuple[int, str]:
    """(bytes, blake2b-128) of a local file, in bounded memory."""
    with path.open("rb") as file:
        return checksum_stream(file)


@dataclass(frozen=True)
class Stat:
    """What a place says of a file without reading it."""

    size: int
    """Bytes."""
    version: str
    """Changes whenever the file is written again: times of change on a disk, the ETag in object storage."""
    folder: bool = False
    """Whether it is a folder."""


@dataclass(frozen=True)
class Place:
    """A folder, local or in object storage; cheap to make, safe to send to a worker."""

    uri: str
    storage: Storage = field(default_factory=Storage)

    def __post_init__(self) -> None:
        if "://" not in self.uri:
            object.__setattr__(self, "uri", str(Path(self.uri).expanduser().absolute()))
        elif not self.uri.partition("://")[2].strip("/"):
            raise PlaceError(f"{self.uri} names no bucket and no folder")
        else:
            object.__setattr__(self, "uri", self.uri.rstrip("/").removeprefix("file://"))

    def __truediv__(self, name: str) -> Place:
        """The folder `name` in this one. Raises PlaceError if it would leave it."""
        return Place(f"{self.uri}/{_inside(name)}", self.storage)

    @property
    def is_local(self) -> bool:
        """Whether files can be opened and mapped in place."""
        return "://" not in self.uri

    @property
    def path(self) -> Path:
        """The local folder. Raises PlaceError for object storage."""
        if not self.is_local:
            raise PlaceError(f"{self.uri} is not on this machine's disk")
        return Path(self.uri)

    def read(self, name: str) -> bytes:
        """Bytes of an object. Raises FileNotFoundError if absent, PlaceError if the place does not answer."""
        with _told(self.uri):
            data: bytes = self._fs.cat_file(self._full(name))
            return data

    def read_or_none(self, name: str) -> bytes | None:
        """Bytes of an object, or None if absent."""
        try:
            return self.read(name)
        except FileNotFoundError:
            return None

    def exists(self, name: str) -> bool:
        """Whether an object or folder is there."""
        if self.is_local:
            with _told(self.uri):
                return bool(self._fs.exists(self._full(name)))
        return self.stat(name) is not None  # s3fs says of a bucket that is not there only that nothing is in it

    def names(self, folder: str = "") -> list[str]:
        """Sorted names right below a folder, files and folders; empty if it does not exist."""
        with _told(self.uri):
            fs = self._fs
            root = self._full(folder) if folder else fs._strip_protocol(self.uri)
            if not isinstance(fs, LocalFileSystem):
                fs.invalidate_cache()
            try:
                found = fs.ls(root, detail=False)
            except (FileNotFoundError, NotADirectoryError) as error:
                if _no_bucket(error):
                    raise
                return []
        below = {str(item).rstrip("/") for item in found} - {root.rstrip("/")}  # an empty folder may list itself
        names = {posixpath.basename(item) for item in below}
        return sorted(name for name in names if name and not name.startswith(".tmp-"))

    def open(self, name: str) -> IO[bytes]:
        """An object opened for reading; it can be sought in. Raises FileNotFoundError if absent."""
        with _told(self.uri):
            file: IO[bytes] = self._fs.open(self._full(name), "rb")
            return file

    def stat(self, name: str) -> Stat | None:
        """What is known of an object or folder without reading it, or None if absent."""
        with _told(self.uri):
            try:
                return _stat(self._fs.info(self._full(name)))
            except FileNotFoundError as error:
                if _no_bucket(error):
                    raise
                return None

    def stats(self) -> dict[str, Stat]:
        """Every file below this folder, at any depth, by name. One listing."""
        with _told(self.uri):
            root: str = self._fs._strip_protocol(self.uri)
            return {path[len(root) :].lstrip("/"): _stat(info) for path, info in _files(self._fs, root).items()}

    def put_new(self, name: str, data: bytes) -> bool:
        """Create an object whole, or leave what is there: True if this call made it."""
        with _told(self.uri):
            fs, full = self._fs, self._full(name)
            if isinstance(fs, LocalFileSystem):
                return _link_new(Path(full), data)
            if "memory" in _protocols(fs):
                with _memory_lock:
                    if fs.exists(full):
                        return False
                    fs.pipe_file(full, data)
                    return True
            return _create(fs, full, data)

    def put(self, name: str, data: bytes) -> None:
        """Write an object below an attempt's own name, where nobody else writes."""
        with _told(self.uri):
            fs, full = self._fs, self._full(name)
            if isinstance(fs, LocalFileSystem):
                Path(full).parent.mkdir(parents=True, exist_ok=True)
                with Path(full).open("wb") as file:
                    file.write(data)
                    file.flush()
                    os.fsync(file.fileno())
            else:
                fs.pipe_file(full, data)

    def copy(self, name: str, to: str) -> None:
        """Give an object that nobody writes any more a second name, below an attempt's own: a hard link on a disk, a
        copy by the server elsewhere. Raises FileNotFoundError if it is gone."""
        with _told(self.uri):
            fs, full, target = self._fs, self._full(name), self._full(to)
            if isinstance(fs, LocalFileSystem):
                Path(target).parent.mkdir(parents=True, exist_ok=True)
                os.link(full, target)
                _fsync_folder(Path(target).parent)
            else:
                fs.cp_file(full, target)

    @contextmanager
    def writing(self, name: str) -> Iterator[Path]:
        """A local folder or file path to write to; what stands there at the end is in the place.

        Local places are written in place (below an attempt's own name); others are uploaded on leaving.
        """
        if self.is_local:
            target = self.path / _inside(name)
            target.parent.mkdir(parents=True, exist_ok=True)
            yield target
            return
        with TemporaryDirectory(prefix="crossdistill-") as scratch:
            local = Path(scratch) / posixpath.basename(name)
            yield local
            with _told(self.uri):
                for path in sorted(local.rglob("*")) if local.is_dir() else [local]:
                    if path.is_file():
                        rest = path.relative_to(local).as_posix() if local.is_dir() else ""
                        self._fs.put_file(str(path), self._full(f"{name}/{rest}" if rest else name))

    def file(self, name: str) -> Path:
        """The path of an object. Raises PlaceError for object storage."""
        return self.path / _inside(name)

    def download(self, name: str, path: Path) -> None:
        """Write the object's bytes to a local file. Raises FileNotFoundError if absent."""
        with _told(self.uri):
            self._fs.get_file(self._full(name), str(path))

    def objects(self, folder: str) -> Iterator[ObjectInfo]:
        """Every file below a folder, with size and checksum, sorted by name. Reads all bytes."""
        with _told(self.uri):
            fs, root = self._fs, self._full(folder)
            for path in _files(fs, root):
                name = path[len(root) :].lstrip("/")
                if isinstance(fs, LocalFileSystem):
                    size, digest = checksum_file(Path(path))
                else:
                    data = fs.cat_file(path)
                    size, digest = len(data), checksum(data)
                yield ObjectInfo(name=name, size=size, checksum=digest)

    def remove(self, name: str) -> None:
        """Remove an object or folder; no error if absent."""
        with _told(self.uri):
            if self.is_local:
                path = self.path / _inside(name)
                if path.is_dir():
                    shutil.rmtree(path, ignore_errors=True)
                else:
                    path.unlink(missing_ok=True)
            elif _is_s3(self.uri):
                for found in _files(self._fs, self._full(name)):
                    self._fs.rm_file(found)  # its recursive `rm` passes over what it may not remove
            elif self._fs.exists(self._full(name)):
                self._fs.rm(self._full(name), recursive=True)

    def unwritable(self) -> str | None:
        """Why a local place cannot be written, told without writing; None if it can, or is not local."""
        if not self.is_local:
            return None
        there = next(path for path in (self.path, *self.path.parents) if path.exists())
        if not there.is_dir():
            return f"{self.uri} cannot be a folder: {there} is a file"
        return None if os.access(there, os.W_OK | os.X_OK) else f"{self.uri} cannot be written: check {there}"

    def probe(self) -> None:
        """Try the place: 16 concurrent creates of one key must have exactly one winner.

        Raises PlaceError naming the place if it cannot be written, or if it lets two writers win.
        """
        key = f"probes/{new_attempt()}"
        with ThreadPoolExecutor(RACERS) as pool:
            try:
                wins = list(pool.map(lambda racer: self.put_new(key, str(racer).encode()), range(RACERS)))
            except PlaceError:
                raise
            except Exception as error:  # noqa: BLE001 (whatever a backend raises, the place is unfit)
                raise PlaceError(f"{self.uri} cannot be written: {error}") from None
        try:
            winner = self.read(key)
        finally:
            self.remove(key)
        if wins.count(True) != 1 or winner != str(wins.index(True)).encode():
            raise PlaceError(
                f"{self.uri} let {wins.count(True)} of {RACERS} writers create one object: commits would not be "
                "safe there. Use a local directory, or a store with conditional writes (If-None-Match)"
            )

    @property
    def _fs(self) -> Any:
        return _filesystem(self.uri, self.storage)

    def _full(self, name: str) -> str:
        root: str = self._fs._strip_protocol(self.uri)
        return f"{root}/{_inside(name)}"


@dataclass(frozen=True)
class Log:
    """A numbered log of put-if-absent entries: the highest number wins, history for free."""

    place: Place

    def last(self) -> tuple[int, bytes | None]:
        """(number, bytes) of the newest entry; (0, None) if there is none."""
        numbers = sorted(int(name.split(".")[0]) for name in self.place.names() if name.split(".")[0].isdigit())
        for number in reversed(numbers):
            if (data := self.place.read_or_none(self._name(number))) is not None:
                return number, data
        return 0, None

    def append(self, number: int, data: bytes) -> bool:
        """Create entry `number`: True if this call made it."""
        return self.place.put_new(self._name(number), data)

    def forget(self, number: int) -> None:
        """Remove an entry that a later one of the same writer replaced."""
        self.place.remove(self._name(number))

    @staticmethod
    def _name(number: int) -> str:
        return f"{number:06d}.json"


def _inside(name: str) -> str:
    parts = name.strip("/").split("/")
    if not name.strip("/") or any(part in ("", ".", "..") for part in parts) or name.startswith("/") or "\\" in name:
        raise PlaceError(f"the path {name!r} leaves its folder")
    return "/".join(parts)


def _link_new(target: Path, data: bytes) -> bool:
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.parent / f".tmp-{new_attempt()}"
    try:
        with temporary.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        try:
            os.link(temporary, target)
        except FileExistsError:
            return False
        _fsync_folder(target.parent)
        return True
    finally:
        temporary.unlink(missing_ok=True)


def _fsync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _create(fs: Any, full: str, data: bytes) -> bool:
    """A conditional write to object storage: True if this call made the object."""
    for attempt in range(1, CONFLICT_TRIES + 1):
        try:
            fs.pipe_file(full, data, mode="create")
            return True
        except FileExistsError:
            return False
        except OSError as error:
            status = _answer(error).get("ResponseMetadata", {}).get("HTTPStatusCode")
            if status == 412:  # s3fs makes FileExistsError only of AWS's own wording
                return False
            if status != 409 or attempt == CONFLICT_TRIES:
                raise
        time.sleep(random.uniform(0.5, 1) * min(0.05 * 2**attempt, 2))
    raise AssertionError("the last attempt returns or raises")


def _files(fs: Any, root: str) -> dict[str, dict[str, Any]]:
    """What a file system says of each file below a folder, or of the file `root`, by full path, sorted."""
    found = fs.find(root, detail=True)
    return {str(path): found[path] for path in sorted(found) if found[path].get("type") != "directory"}


def _answer(error: BaseException) -> dict[str, Any]:
    """What the server answered, out of an error that s3fs made of it; empty if it is of another kind."""
    answer = getattr(error.__cause__, "response", None)
    return answer if isinstance(answer, dict) else {}


def _no_bucket(error: BaseException) -> bool:
    return bool(_answer(error).get("Error", {}).get("Code") == "NoSuchBucket")


def _stat(info: dict[str, Any]) -> Stat:
    marks = [str(info[key]) for key in ("ETag", "mtime", "created", "LastModified") if info.get(key) is not None]
    return Stat(size=int(info.get("size") or 0), version=" ".join(marks), folder=info.get("type") == "directory")


def _protocols(fs: Any) -> tuple[str, ...]:
    return (fs.protocol,) if isinstance(fs.protocol, str) else tuple(fs.protocol)


def _filesystem(uri: str, storage: Storage) -> Any:
    if "://" not in uri:
        return _local
    protocol = uri.split("://", 1)[0]
    options: dict[str, Any] = {}
    if _is_s3(uri):
        client = {"region_name": storage.region} if storage.region else {}
        options = {"client_kwargs": client, "config_kwargs": S3_CONFIG, "use_listings_cache": False}
        if storage.endpoint_url:  # else the environment or a config file may name one
            options["endpoint_url"] = storage.endpoint_url
    try:
        return fsspec.filesystem(protocol, **options)
    except (ValueError, ImportError) as error:
        raise PlaceError(f"{uri}: no file system for '{protocol}://': {error}") from None


def _is_s3(uri: str) -> bool:
    return uri.startswith(("s3://", "s3a://"))


_local = LocalFileSystem(auto_mkdir=True)


@contextmanager
def _told(uri: str) -> Iterator[None]:
    """Failures of a place as PlaceError, one sentence each; FileNotFoundError passes."""
    try:
        yield
    except PlaceError:
        raise
    except FileNotFoundError as error:
        if _no_bucket(error):
            raise PlaceError(f"{uri} cannot be used: its bucket does not exist. Make it, or check the name") from None
        raise
    except IsADirectoryError as error:  # as in object storage, a folder is no object
        raise FileNotFoundError(str(error)) from None
    except PermissionError as error:
        raise PlaceError(f"{uri} may not be used: {_said(error)}. Check its permissions or your credentials") from None
    except OSError as error:
        raise PlaceError(f"{uri} cannot be used: {_said(error)}") from None
    except Exception as error:
        clients = type(error).__module__.split(".")[0] in ("botocore", "aiobotocore", "aiohttp")
        if not clients and not (isinstance(error, ValueError) and "endpoint" in str(error)):
            raise
        raise PlaceError(f"{uri} cannot be used: {_said(error)}{_MENDS.get(type(error).__name__, '')}") from None


_MENDS = {
    "NoCredentialsError": ". Set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE",
    "EndpointConnectionError": ". Is that its server (`storage.endpoint_url`, --endpoint-url or AWS_ENDPOINT_URL), "
    "and up?",
}
"""What mends a failure of the client, by its name."""


def _said(error: BaseException) -> str:
    """An error's message on one line, without a closing full stop, and without a password that an URL carries."""
    return re.sub(r"(?<=//)[^/@\s]+@|[^/@\s\"']+:[^/@\s]+@", "", " ".join(str(error).split()).rstrip("."))
