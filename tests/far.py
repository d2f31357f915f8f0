"""A place that is not on this machine's disk, as far as anybody can tell, and tells what was downloaded from it."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass, replace
from pathlib import Path

from stages.places import Place


@dataclass(frozen=True)
class Far(Place):
    """A folder that readers take for object storage; every process that reaches it counts into one file."""

    slow_s: float = 0.0
    """How long a download stands half done."""
    log: Path = Path(os.devnull)

    @property
    def is_local(self) -> bool:
        return False

    def __truediv__(self, name: str) -> Place:
        return replace(self, uri=super().__truediv__(name).uri)

    def download(self, name: str, path: Path) -> None:
        with self.log.open("a") as log:
            log.write(f"{name}\n")
        if self.slow_s:
            path.write_bytes(b"half")
            time.sleep(self.slow_s)
        super().download(name, path)

    @property
    def downloads(self) -> list[str]:
        """Names of all objects that were asked for, by anybody."""
        return self.log.read_text().splitlines() if self.log.exists() else []
