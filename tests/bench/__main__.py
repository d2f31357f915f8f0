"""`make bench`: every benchmark, one table, the same as JSON under bench-results/.

A benchmark is a module beside this one with `bench(quick) -> list[dict]`; a row names what was measured, the figure
with its unit, the aim where there is one, and what it was compared with. Comparisons are made in turns in one run.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import platform
import time
from pathlib import Path
from typing import Any

BENCHES = ("runs", "labels", "students", "formats", "losses")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("names", nargs="*", choices=[[], *BENCHES], help="which ones; all if none is named")
    parser.add_argument("--quick", action="store_true", help="seconds instead of minutes: shows that it works")
    arguments = parser.parse_args()
    machine = {"cores": os.cpu_count(), "machine": platform.machine(), "date": time.strftime("%Y-%m-%d")}
    rows: list[dict[str, Any]] = []
    for name in arguments.names or BENCHES:
        print(f"# {name}", flush=True)
        for row in importlib.import_module(f"tests.bench.{name}").bench(arguments.quick):
            rows.append({"bench": name, **row})
            aim = f"   (aim: {row['aim']})" if row.get("aim") else ""
            print(f"{row['what']:<72} {row['value']:>12,.3f} {row['unit']}{aim}", flush=True)
    target = Path("bench-results")
    target.mkdir(exist_ok=True)
    name = "-".join(arguments.names) or "all"
    (target / f"{name}.json").write_text(json.dumps({"machine": machine, "rows": rows}, indent=2) + "\n")
    print(f"\n{machine['cores']} cores, {machine['date']}; also in {target / name}.json")


if __name__ == "__main__":
    main()
