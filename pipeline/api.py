"""`plan` and `run` as functions: what the command line and notebooks call."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.planner import Plan, make_plan
from pipeline.runner import Listener, RunResult, Selection, execute
from pipeline.specs import LoadedSpec, load_spec
from schemas.errors import SpecError
from schemas.runs import Event
from stages.context import Context
from stages.places import Place

if TYPE_CHECKING:
    from pipeline.rounds._chains import Chain


def plan(
    spec: str | Path | LoadedSpec,
    workspace: str | None = None,
    overrides: Iterable[str] = (),
    *,
    listener: Listener | None = None,
    look_only: bool = False,
) -> Plan:
    """What a run of this spec would do, and why. Starts no Ray; `look_only` tries no models and writes nothing.

    Raises SpecError, ContractError or PlaceError with every fault that can be found before work starts.
    """
    loaded = _loaded(spec, overrides)
    context = _context(loaded, workspace, listener)
    if loaded.spec.rounds is not None:
        from pipeline.rounds._loop import plan_rounds

        return plan_rounds(loaded, context, look_only)[0]
    return make_plan(loaded, context, look_only)


def run(
    spec: str | Path | LoadedSpec,
    workspace: str | None = None,
    overrides: Iterable[str] = (),
    *,
    selection: Selection | None = None,
    listener: Listener | None = None,
    command: str = "crossdistill.run",
    update_lock: bool = False,
) -> RunResult:
    """Do what a spec asks and does not exist yet; go on where a killed run was.

    Label sets of other stores are locked beside the spec on first use; `update_lock` takes what their names mean now.

    Raises like `plan`, and Busy if another run works in the workspace. What failed inside is in the result.
    Ray is started if it is not up, and left running: call `ray.shutdown()` when you are done with it.
    """
    loaded = _loaded(spec, overrides)
    context = _context(loaded, workspace, listener)
    if loaded.spec.rounds is not None:
        from pipeline.rounds._loop import run_rounds

        chosen, listens = selection or Selection(), listener or _nobody
        return run_rounds(loaded, context, chosen, listens, command, update_lock)
    made = make_plan(loaded, context, update_lock=update_lock)
    if made.locked is not None:
        made.locked.write()
    return execute(made, context, selection or Selection(), listener or _nobody, command)


def chains_so_far(
    spec: str | Path | LoadedSpec, workspace: str | None = None, overrides: Iterable[str] = ()
) -> list[Chain]:
    """The rounds of each chain as far as they are measured. Writes nothing. Raises SpecError where there are none."""
    from pipeline.rounds._loop import plan_rounds

    loaded = _loaded(spec, overrides)
    if loaded.spec.rounds is None:
        raise SpecError(f"{loaded.path.name} has no `rounds`: give it some, such as {{policy: migration}}")
    return plan_rounds(loaded, _context(loaded, workspace, None), look_only=True)[1]


def _loaded(spec: str | Path | LoadedSpec, overrides: Iterable[str]) -> LoadedSpec:
    loaded = spec if isinstance(spec, LoadedSpec) else load_spec(spec, overrides)
    if str(loaded.folder) not in sys.path:
        sys.path.append(str(loaded.folder))  # last, so that nothing there shadows what is installed
    return loaded


def _context(loaded: LoadedSpec, workspace: str | None, listener: Listener | None) -> Context:
    place = Place(workspace or loaded.default_workspace, loaded.spec.storage)
    return Context(
        workspace=place,
        storage=loaded.spec.storage,
        resources=loaded.spec.resources,
        step="plan",
        sink=listener or _nobody,
    )


def _nobody(event: Event) -> None:
    """Nobody listens."""
