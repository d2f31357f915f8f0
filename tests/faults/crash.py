"""A process that ends before its k-th change of the disk: killed, not unwound, so nothing cleans up after it.

The work runs in a forked child. Python's audit hooks tell of every file opened for writing, link, rename, removal and
folder below a path, from whatever library; at the k-th the child ends at once (`os._exit`), with what is not flushed
lost. Ending after one operation is ending before the next.
"""

from __future__ import annotations

import os
import sys
import traceback
import warnings
from collections.abc import Callable
from pathlib import Path

KILLED, FAILED = 9, 1
CHANGES = frozenset({"os.link", "os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.truncate", "os.symlink"})


def changes(folder: Path, work: Callable[[], object]) -> list[str]:
    """Every change of the disk below a folder that the work makes, in order; the work is done to its end."""
    log = folder.with_name(f"{folder.name}.changes")
    code = _child(folder, work, -1, log)
    assert code == 0, f"the work ended with {code}"
    return log.read_text("utf-8").splitlines()


def killed_at(folder: Path, work: Callable[[], object], at: int) -> None:
    """Do the work in a process that ends before its change number `at`."""
    code = _child(folder, work, at, None)
    assert code == KILLED, f"the work ended with {code} before change {at}"


def _child(folder: Path, work: Callable[[], object], at: int, log: Path | None) -> int:
    with warnings.catch_warnings():  # newer Pythons warn of threads: those of the parent are not needed in the child
        warnings.simplefilter("ignore", DeprecationWarning)
        pid = os.fork()
    if pid == 0:
        _run(folder, work, at, log)
    _, status = os.waitpid(pid, 0)
    return os.waitstatus_to_exitcode(status)


def _run(folder: Path, work: Callable[[], object], at: int, log: Path | None) -> None:
    below, seen = f"{folder}{os.sep}", list[str]()

    def hook(event: str, args: tuple[object, ...]) -> None:
        if event == "open":
            if not isinstance(args[2], int) or not args[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):
                return
        elif event not in CHANGES:
            return
        path = os.fsdecode(args[1] if event in ("os.link", "os.rename") else args[0])  # type: ignore[arg-type]
        if path.startswith(below):
            if len(seen) == at:
                os._exit(KILLED)
            seen.append(f"{event} {path.removeprefix(below)}")

    code = FAILED
    try:
        sys.addaudithook(hook)
        work()
        if log is not None:
            log.write_text("\n".join(seen), "utf-8")
        code = 0
    except BaseException:  # noqa: BLE001 (the child must not return into the parent's test)
        traceback.print_exc()
    finally:
        os._exit(code)
