"""The plan: what each step would ask, whether it exists, and what changed since it last ran. Starts no Ray.

Walks the graph once; each step costs one or two small reads. Costs no torch, unless a model must be tried.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from typing import Any, Literal

from pipeline.checks import check_spec
from pipeline.checks.labels import given_faults
from pipeline.checks.places import check_places, read_givens
from pipeline.graph import Graph, Judge, Step, build_graph, judge_all
from pipeline.lock import Locked, resolve
from pipeline.probing import try_models
from pipeline.specs import LoadedSpec
from pipeline.workspace import last_record
from schemas.base import Document
from schemas.canonical import identity
from schemas.errors import ContractError, SpecError, StoreError, UserError
from schemas.runs import StepRecord
from stages.base import get_stage
from stages.code import one_look
from stages.context import Context

State = Literal["present", "missing", "damaged", "unknown"]


@dataclass
class PlannedStep:
    """One step as a plan sees it."""

    step: Step
    state: State
    inputs: Document | None = None
    """What it would ask; none while something that it needs does not exist."""
    outputs: Any = None
    """What it gave, where it exists."""
    fingerprints: dict[str, str] = field(default_factory=dict)
    why: str = ""
    """Why it must run, what is damaged and the mend, or what its fingerprint waits for."""


@dataclass
class Plan:
    """All steps, in the order of the work."""

    loaded: LoadedSpec
    graph: Graph
    workspace: str
    steps: dict[str, PlannedStep]
    locked: Locked | None = None
    """Label sets of other stores; a run writes the lock."""

    @property
    def notes(self) -> list[str]:
        """What people must know about how the spec was understood."""
        notes = [*self.graph.notes, *self.graph.remarks(self.outputs)]
        if self.locked is None or not self.locked.changed:
            return notes
        names = ", ".join(f"{item.name} -> {item.fingerprint[:12]}" for item in self.locked.lock.labels.values())
        return [*notes, f"a run locks {names} in {self.locked.path.name}"]

    def command(self, verb: str = "run", *more: str) -> str:
        """The command line that does `verb` with this spec, workspace and overrides, to be shown to people."""
        return self.loaded.command(verb, self.workspace, *more)

    @property
    def to_do(self) -> list[str]:
        """Steps that do not exist yet."""
        return [name for name, planned in self.steps.items() if planned.state != "present"]

    def check_whole(self, forced: Collection[str] = ()) -> None:
        """Raise StoreError with every damaged step but those that are made anew anyway."""
        damaged = [
            planned.why for name, planned in self.steps.items() if planned.state == "damaged" and name not in forced
        ]
        if damaged:
            raise StoreError(*dict.fromkeys(damaged))

    @property
    def outputs(self) -> dict[str, Any]:
        """Outputs of the steps that exist."""
        return {name: planned.outputs for name, planned in self.steps.items() if planned.state == "present"}


def make_plan(
    loaded: LoadedSpec,
    context: Context,
    look_only: bool = False,
    update_lock: bool = False,
    judge: Judge = judge_all,
) -> Plan:
    """Check everything that can be checked, then look at what exists; `look_only` writes nothing at all.

    `judge` adds the steps that judge what is made.

    Raises SpecError with every fault found, PlaceError for an unsafe place.
    """
    with one_look():
        return _make(loaded, context, look_only, update_lock, judge)


def _make(loaded: LoadedSpec, context: Context, look_only: bool, update_lock: bool, judge: Judge) -> Plan:
    check_spec(loaded, context.workspace)
    if not look_only:
        check_places(loaded, context.workspace)
    locked = resolve(loaded, update_lock)
    graph = build_graph(loaded.spec, *read_givens(loaded, context.workspace), locked.given, judge)
    plan = Plan(loaded, graph, context.workspace.uri, {}, locked)
    problems: list[str] = []
    for name, given in locked.given.items():
        problems += given_faults(loaded.spec, name, given.schema, given.views.count)
    for step in graph.steps.values():
        try:
            plan.steps[step.name] = look(step, plan.outputs, context)
        except UserError as error:
            problems += error.problems
            plan.steps[step.name] = PlannedStep(step, "unknown", why="cannot be asked: see the error")
    if not look_only:
        problems += try_models(loaded, plan.outputs, context)
    if problems:
        raise SpecError(*dict.fromkeys(problems))
    return plan


def look(step: Step, done: dict[str, Any], context: Context) -> PlannedStep:
    """One step, given the outputs of those before it."""
    waiting = [name for name in step.needs if name not in done]
    if waiting:
        return PlannedStep(step, "unknown", why=f"known once {waiting[0]} exists")
    inputs = step.inputs(done)
    stage = get_stage(step.stage)
    fingerprints = stage.fingerprints(inputs)
    try:
        outputs = stage.find(context, inputs)
    except (StoreError, ContractError) as error:
        return PlannedStep(step, "damaged", inputs, None, fingerprints, str(error))
    if outputs is not None:
        return PlannedStep(step, "present", inputs, outputs, fingerprints)
    record = last_record(context.workspace, step.name)
    why = explain_change(record, record_of(step, inputs, fingerprints)) if record else "new"
    return PlannedStep(step, "missing", inputs, None, fingerprints, why)


def record_of(step: Step, inputs: Document, fingerprints: dict[str, str]) -> StepRecord:
    """What a step asks, to be compared with the next time."""
    parts = get_stage(step.stage).parts(inputs)
    return StepRecord(
        step=step.name,
        fingerprints=fingerprints,
        inputs={part: identity(asked) for part, asked in parts.items()},
    )


def explain_change(old: StepRecord, new: StepRecord) -> str:
    """The fields that differ, in words: `method.temperature: 2.0 -> 4.0 (5 of 15 parts)`."""
    changes: Counter[str] = Counter()
    for part, fingerprint in new.fingerprints.items():
        if part not in old.fingerprints:
            changes["new"] += 1
        elif old.fingerprints[part] != fingerprint:
            fields = list(_differences(old.inputs.get(part), new.inputs.get(part), ""))
            changes.update(fields or ["the code of a plug-in, or of the stage, changed"])
    if not changes:
        return "not finished, or removed"
    parts = len(new.fingerprints)
    shown = [change if count == parts else f"{change} ({count} of {parts} parts)" for change, count in changes.items()]
    return "; ".join(shown[:3]) + (f"; and {len(shown) - 3} more" if len(shown) > 3 else "")


def _differences(old: Any, new: Any, where: str) -> Iterator[str]:
    if isinstance(old, dict) and isinstance(new, dict):
        for key in dict.fromkeys([*old, *new]):
            if old.get(key) != new.get(key):
                yield from _differences(old.get(key), new.get(key), f"{where}.{key}".lstrip("."))
    elif isinstance(old, list) and isinstance(new, list) and len(old) == len(new):
        for index, (one, other) in enumerate(zip(old, new, strict=True)):
            if one != other:
                yield from _differences(one, other, f"{where}[{index}]")
    elif where.endswith("digest"):
        yield f"{_field(where.removesuffix('.digest')) or 'its input'} has new content"
    else:
        yield f"{_field(where)}: {_short(old)} -> {_short(new)}"


def _field(where: str) -> str:
    """A field as people know it: a part of a cohort holds one student."""
    return where.removeprefix("students[0].")


def _short(value: Any) -> str:
    text = "none" if value is None else str(value)
    return text if len(text) <= 40 else f"{text[:37]}..."
