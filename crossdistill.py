"""crossdistill: the public door. Names resolve on first use, so that importing this costs almost nothing.

from crossdistill import LabelSet, run
"""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

PUBLIC: dict[str, str] = {
    "CrossdistillError": "schemas.errors:CrossdistillError",
    "LabelSet": "stages.labels.reader:LabelSet",
    "Spec": "schemas.spec:Spec",
    "load_spec": "pipeline.specs:load_spec",
    "plan": "pipeline.api:plan",
    "run": "pipeline.api:run",
}
"""Every public name, and where it lives."""

HOUSE = Path(__file__).resolve().parent
PACKAGES = ("schemas", "stages", "pipeline")
MARK = '"""crossdistill:'

__all__ = sorted(PUBLIC)


class ShadowedError(ImportError):
    """A foreign package stands where one of ours should."""


def check_house() -> None:
    """Refuse to go on if a foreign package shadows one of ours.

    Costs three look-ups of the import path. Raises ShadowedError naming the foreign package and the mend.
    """
    import importlib.util

    for name in PACKAGES:
        spec = importlib.util.find_spec(name)
        origin = Path(spec.origin) if spec and spec.origin else None
        if (
            origin is not None
            and origin.resolve().parent.parent == HOUSE
            and origin.read_text("utf-8").startswith(MARK)
        ):
            continue
        where = origin.parent if origin else (list(spec.submodule_search_locations or [])[:1] if spec else None)
        raise ShadowedError(
            f"crossdistill's own package '{name}' is shadowed by {where or 'nothing: it is missing'}. "
            f"Rename that folder, leave it out of PYTHONPATH, or uninstall the package that brought it; "
            f"ours is {HOUSE / name}"
        )


def __getattr__(name: str) -> Any:
    if name not in PUBLIC:
        raise AttributeError(f"module 'crossdistill' has no attribute '{name}'")
    check_house()
    module, _, attribute = PUBLIC[name].partition(":")
    value = getattr(importlib.import_module(module), attribute)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*globals(), *PUBLIC])


def main() -> None:
    """The console script."""
    import sys

    try:
        check_house()
    except ShadowedError as error:
        print(f"Error: {error}", file=sys.stderr)
        raise SystemExit(2) from None
    from pipeline.cli import main as command_line

    raise SystemExit(command_line())
