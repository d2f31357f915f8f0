"""`make bench-store`: a table here and JSON in bench-results/store.json. About 15 minutes; `--quick` about one.

Four parts, which can be asked for by name: `speed` (against other libraries), `size` (bytes against what is lost, on
a real teacher), `growth` (what a larger set costs, and a plan for 10^9 rows) and `remote` (from object storage).
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import platform
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

PARTS = ("speed", "size", "growth", "remote")


def main() -> None:
    parser = argparse.ArgumentParser(prog="bench-store", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("parts", nargs="*", choices=[[], *PARTS], help="which ones; all if none is named")
    parser.add_argument("--quick", action="store_true", help="a minute: shows that it works, its figures mean little")
    parser.add_argument("--python", type=Path, default=Path(".venv-bench/bin/python"), help="the peers' interpreter")
    arguments = parser.parse_args()
    parts = arguments.parts or PARTS
    if "speed" in parts and not arguments.python.exists():
        parser.error(f"{arguments.python} is not there, and the peers live in it: `make bench-store` installs them")
    machine = {"cores": os.cpu_count(), "machine": platform.machine(), "date": time.strftime("%Y-%m-%d")}
    table: list[dict[str, Any]] = []
    began = time.monotonic()
    for part in parts:
        print(f"# {part}", flush=True)
        with tempfile.TemporaryDirectory(prefix="crossdistill-bench-") as folder:
            module = importlib.import_module(f"tests.bench.store.{part}")
            for row in module.bench(arguments.quick, Path(folder), arguments.python.absolute()):
                table.append({"part": part, **row})
                print(line(row), flush=True)
    target = Path("bench-results/store.json")
    target.parent.mkdir(exist_ok=True)
    result = {"machine": machine, "quick": arguments.quick, "rows": table}
    target.write_text(json.dumps(result, indent=2) + "\n")
    minutes = (time.monotonic() - began) / 60
    print(f"\n{machine['cores']} cores, {machine['date']}, {minutes:.1f} minutes; also in {target}", file=sys.stderr)


def line(row: dict[str, Any]) -> str:
    """A row as people read it."""
    value = row["value"]
    figure = f"{value:>14,.0f}" if abs(value) >= 1000 else f"{value:>14.4g}"
    aim = ""
    if row["aim"] is not None:
        aim = f"   aim {'<=' if row['at_most'] else '>='} {row['aim']:g}: {'met' if row['met'] else 'MISSED'}"
    return f"{row['what']:<78} {figure} {row['unit']}{aim}"


if __name__ == "__main__":
    main()
