"""What memory there is for a cohort and what its students take: measured where it starts, not guessed from shapes.

On a CPU the resident set of the process counts (its peak is set back before each student; two small reads of /proc),
on an accelerator the allocator's own peak. Elsewhere nothing is known, and nothing is limited.
"""

from __future__ import annotations

import ctypes
import gc
import os
from pathlib import Path
from typing import Protocol

import torch

HEADROOM = 0.9
"""Share of the free memory that students may take: others start on this node, and Ray ends workers at 95%."""


class Memory(Protocol):
    """The memory of the device that a cohort trains on."""

    limit: int | None
    """Bytes that this process may hold; none: unknown."""

    def give_back(self) -> None:
        """Return what was freed to the system. About 0.1 s."""

    def begin(self) -> None:
        """Forget the peak so far."""

    def held(self) -> int:
        """Bytes that this process holds now."""

    def peak(self) -> int:
        """The most bytes that it held since `begin`."""


class HostMemory:
    """Memory of the host, as far as its kernel and its container tell."""

    def __init__(self) -> None:
        self.limit: int | None = None
        self._resets = True
        if (free := host_free()) is not None:
            self.limit = self.held() + int(HEADROOM * free / int(os.environ.get("LOCAL_WORLD_SIZE", "1")))

    def give_back(self) -> None:
        gc.collect()
        try:
            ctypes.CDLL(None).malloc_trim(0)  # glibc keeps what is freed, the more with our thresholds
        except (OSError, AttributeError):
            pass

    def begin(self) -> None:
        try:
            Path("/proc/self/clear_refs").write_text("5")
        except OSError:
            self._resets = False

    def held(self) -> int:
        return _kilobytes("/proc/self/status", "VmRSS") or 0

    def peak(self) -> int:
        peak = _kilobytes("/proc/self/status", "VmHWM") if self._resets else None
        return peak or self.held()


class DeviceMemory:
    """Memory of an accelerator."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self.limit: int | None = self.held() + int(HEADROOM * torch.cuda.mem_get_info(device)[0])

    def give_back(self) -> None:
        gc.collect()
        torch.cuda.empty_cache()

    def begin(self) -> None:
        torch.cuda.reset_peak_memory_stats(self._device)

    def held(self) -> int:
        return torch.cuda.memory_allocated(self._device)

    def peak(self) -> int:
        return torch.cuda.max_memory_allocated(self._device)


class Unlimited:
    """Memory that nobody counts."""

    limit: int | None = None

    def give_back(self) -> None:
        """Nothing is counted."""

    def begin(self) -> None:
        """Nothing is counted."""

    def held(self) -> int:
        return 0

    def peak(self) -> int:
        return 0


UNLIMITED = Unlimited()


def memory_of(device: torch.device) -> Memory:
    """The memory that counts on a device."""
    return DeviceMemory(device) if device.type == "cuda" else HostMemory()


def host_free() -> int | None:
    """Bytes that are free on this host, or in this container where that is less; None where nobody tells."""
    free = _kilobytes("/proc/meminfo", "MemAvailable")
    limit, used = (_number(f"/sys/fs/cgroup/memory.{name}") for name in ("max", "current"))
    if limit is None or used is None:
        return free
    # What the page cache holds within the container's share is given up when it is needed.
    inside = limit - used + (_statistic("/sys/fs/cgroup/memory.stat", "inactive_file") or 0)
    return inside if free is None else min(free, inside)


def _kilobytes(file: str, field: str) -> int | None:
    """A field such as `VmRSS:    1234 kB`, in bytes."""
    value = _statistic(file, f"{field}:")
    return None if value is None else value * 1024


def _statistic(file: str, field: str) -> int | None:
    try:
        lines = Path(file).read_text().splitlines()
    except OSError:
        return None
    return next((int(words[1]) for line in lines if (words := line.split())[:1] == [field]), None)


def _number(file: str) -> int | None:
    try:
        return int(Path(file).read_text())
    except (OSError, ValueError):  # `max` where there is no limit
        return None
