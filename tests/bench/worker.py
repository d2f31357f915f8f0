"""A process that answers a JSON line with a JSON line: how libraries of another environment are given turns."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

from stages.cluster import WORKER_ENV


class Worker:
    """`python -m MODULE ARGUMENTS…` on one thread, in the environment of our workers; its stderr goes to `log`."""

    def __init__(
        self,
        python: Path,
        module: str,
        arguments: list[Any],
        log: IO[bytes],
        environment: Mapping[str, str] | None = None,
    ) -> None:
        threads = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
        self.name, self._log = str(arguments[0]), log
        self._process = subprocess.Popen(
            [python, "-m", module, *map(str, arguments)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
            env={**os.environ, **WORKER_ENV, **threads, "PYTHONPATH": str(Path.cwd()), **(environment or {})},
        )

    def ask(self, do: str, **more: Any) -> dict[str, Any]:
        """Its answer to a command. Raises SystemExit with the log's end if it died."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        try:
            print(json.dumps({"do": do, **more}), file=self._process.stdin, flush=True)
        except BrokenPipeError:
            pass
        line = self._process.stdout.readline()
        if not line:
            said = Path(self._log.name).read_text(errors="replace").strip().splitlines()[-5:]
            raise SystemExit(f"{self.name} failed to {do}:\n" + "\n".join(said))
        answer: dict[str, Any] = json.loads(line)
        return answer

    def end(self) -> None:
        """Let it end, and wait for it."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        try:
            self._process.wait(20)
        except subprocess.TimeoutExpired:  # threads of a library that do not end by themselves
            self._process.kill()
            self._process.wait()
        self._process.stdout.close()
