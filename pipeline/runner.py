"""The runner: starts each step when all that it needs exists, as many at once as the cluster takes.

Steps run in threads of this process; the work itself is in Ray's workers. A step that fails stops those that rest
on it and no other. Everything that a step finished is kept: a killed run goes on where it was.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

from pipeline.graph import Graph, Step
from pipeline.planner import Plan, look, record_of
from pipeline.probing import try_models
from pipeline.workspace import EventLog, held_lease, write_record
from schemas.errors import CrossdistillError, InternalError, Interrupted, MissingUpstream, SpecError, did_you_mean
from schemas.runs import Event
from schemas.spec import Storage
from stages import cluster
from stages.base import STAGES, get_stage
from stages.context import Context

POLL_S = 0.25
DATA_STAGES = ("domains", "splits", "budgets")
TRAINING_STAGES = ("teachers", "halving", "students")
"""Stages that fill as many cores as they are given: those that run at the same time share them."""
Listener = Callable[[Event], None]


@dataclass
class RunResult:
    """What a run came to."""

    outputs: dict[str, Any] = field(default_factory=dict)
    """Outputs of every step that exists, by its name."""
    made: list[str] = field(default_factory=list)
    """Steps that this run did."""
    failures: dict[str, CrossdistillError] = field(default_factory=dict)
    """What failed, by step."""
    not_done: list[str] = field(default_factory=list)
    """Steps that were wanted and rest on what failed."""
    storage: Storage = field(default_factory=Storage)
    """Where the object storage answers that outputs may name."""
    report_command: str = ""
    """The command line that shows the report, for people."""


@dataclass(frozen=True)
class Selection:
    """Which steps a run may do; names of stages or of steps."""

    only: tuple[str, ...] = ()
    start: tuple[str, ...] = ()
    force: tuple[str, ...] = ()

    def wanted(self, graph: Graph) -> set[str]:
        """Steps to do if they do not exist. Raises SpecError for a name that is neither stage nor step."""
        if self.only:
            return _matching(graph, self.only)
        if self.start:
            return graph.downstream(_matching(graph, self.start))
        return set(graph.steps)

    def forced(self, graph: Graph) -> set[str]:
        """Steps to do though they exist."""
        return _matching(graph, self.force)


def _matching(graph: Graph, names: tuple[str, ...]) -> set[str]:
    found: set[str] = set()
    for name in names:
        steps = graph.named(name)
        if not steps:
            raise SpecError(f"no stage or step is called '{name}'{did_you_mean(name, [*STAGES, *graph.names])}")
        found |= steps
    return found


def execute(plan: Plan, context: Context, selection: Selection, listener: Listener, command: str) -> RunResult:
    """Do what the plan lacks. Raises MissingUpstream, Busy, StoreError for what is damaged and not forced, or the
    failure itself where nothing else went on.
    """
    wanted, forced = selection.wanted(plan.graph), selection.forced(plan.graph)
    plan.check_whole(forced)
    missing = {name for name in wanted if plan.steps[name].state != "present"}
    todo = missing | forced | (plan.graph.downstream(forced) & wanted)
    _check_upstream(plan, todo)
    if not todo:
        return RunResult(plan.outputs, storage=context.storage, report_command=plan.command("report"))
    with held_lease(context.workspace, command), _events(context, listener) as emit:
        return _Run(plan, replace(context, sink=emit), todo, forced).go()


def _check_upstream(plan: Plan, todo: set[str]) -> None:
    for name in sorted(todo):
        for need in plan.graph.steps[name].needs:
            if need in todo or plan.steps[need].state == "present":
                continue
            makeable = all(plan.steps[up].state == "present" for up in plan.graph.steps[need].needs)
            command = plan.command("run", "--only", need) if makeable else plan.command()
            raise MissingUpstream(f"{name} needs {need}, which does not exist. Make it: `{command}`")


@contextmanager
def _events(context: Context, listener: Listener) -> Iterator[Listener]:
    log = EventLog(context.workspace)

    def emit(event: Event) -> None:
        log.write(event)
        listener(event)

    try:
        yield emit
    finally:
        log.flush()


class _Run:
    def __init__(self, plan: Plan, context: Context, todo: set[str], forced: set[str]) -> None:
        self.plan, self.context, self.todo, self.forced = plan, context, todo, forced
        self.result = RunResult(outputs=plan.outputs, storage=context.storage)
        for name in todo:
            self.result.outputs.pop(name, None)
        self.finished: queue.Queue[tuple[str, dict[str, Any], list[str], BaseException | None, float]] = queue.Queue()
        self.running: dict[str, list[str]] = {}
        self.checked = False
        self.remarked = set(plan.graph.remarks(plan.outputs))
        """What the plan said already."""
        self.cores = 1

    def go(self) -> RunResult:
        self._prepare()
        try:
            while True:
                self._start_ready()
                if not self.running:
                    break
                self._collect()
        except KeyboardInterrupt:
            kept = len(self.result.outputs)
            running = f"; {', '.join(self.running)} goes on from its last checkpoint" if self.running else ""
            raise Interrupted(
                f"Interrupted. {kept} of {len(self.plan.graph.steps)} steps are finished and kept{running}: "
                f"`{self.plan.command()}`"
            ) from None
        finally:
            self._drain()
        failed = set(self.result.failures)
        self.result.not_done = sorted(self.todo - failed - set(self.result.outputs))
        return self.result

    def _prepare(self) -> None:
        if self.context.local:
            return
        self.context.tell("note", "starting Ray")
        cluster.start(self.context.resources, self.plan.loaded.folder)
        self.context = replace(self.context, bulletin=cluster.new_bulletin())
        self.cores = cluster.cores()

    def _start_ready(self) -> None:
        ready = self._ready_groups()
        if not ready or (self.context.local and self.running):
            return
        if any(steps[0].stage not in DATA_STAGES for steps in ready.values()):
            self._check_models()
        training = sum(name.split(".")[0] in TRAINING_STAGES for name in [*self.running, *ready])
        context = replace(self.context, width=max(1, self.cores // max(1, training)))
        for name, steps in list(ready.items())[: 1 if self.context.local else None]:
            self.running[name] = [step.name for step in steps]
            threading.Thread(target=self._do, args=(name, steps, context), daemon=True, name=name).start()

    def _ready_groups(self) -> dict[str, list[Step]]:
        """Steps that can start, those of one group together; a group waits for all of it that can still come."""
        busy = {name for names in self.running.values() for name in names}
        lost = self.plan.graph.downstream(set(self.result.failures))
        waiting: set[str] = set()
        ready: dict[str, list[Step]] = {}
        for step in self.plan.graph.steps.values():
            if step.name not in self.todo or step.name in self.result.outputs or step.name in busy or step.name in lost:
                continue
            key = step.group or step.name
            before = [*step.needs, *(item for item in step.after if item in self.todo and item not in lost)]
            if all(item in self.result.outputs for item in before):
                ready.setdefault(key, []).append(step)
            else:
                waiting.add(key)
        return {key: steps for key, steps in ready.items() if key not in waiting}

    def _check_models(self) -> None:
        """Once the classes are known, models are tried again with them, before anything is trained."""
        if self.checked:
            return
        self.checked = True
        problems = try_models(self.plan.loaded, self.result.outputs, self.context)
        if problems:
            raise SpecError(*problems)

    def _do(self, name: str, steps: list[Step], context: Context) -> None:
        started = time.monotonic()
        try:
            context = replace(context, step=name)
            stage = get_stage(steps[0].stage)
            for step in steps:
                if step.name in self.forced:
                    stage.discard(context, step.inputs(self.result.outputs))
            planned = [look(step, self.result.outputs, context) for step in steps]
            asked = {step.name: plan.inputs for step, plan in zip(steps, planned, strict=True)}
            outputs = {step.name: plan.outputs for step, plan in zip(steps, planned, strict=True)}
            missing = [step for step, found in outputs.items() if found is None]
            if missing:
                context.tell("started")
                made = stage.run_together(context, [asked[step] for step in missing])
                outputs |= dict(zip(missing, made, strict=True))
            for step, plan in zip(steps, planned, strict=True):
                assert plan.inputs is not None, "all that it needs is there"
                write_record(context.workspace, record_of(step, plan.inputs, plan.fingerprints))
            self.finished.put((name, outputs, missing, None, time.monotonic() - started))
        except BaseException as error:  # noqa: BLE001 (handed to the main thread, which judges it)
            self.finished.put((name, {}, [], error, time.monotonic() - started))

    def _collect(self) -> None:
        try:
            name, outputs, made, error, seconds = self.finished.get(timeout=POLL_S)
        except queue.Empty:
            self._drain()
            return
        self._drain()
        steps = self.running.pop(name)
        context = replace(self.context, step=name)
        if error is not None:
            failure = told(error, name)
            self.result.failures |= dict.fromkeys(steps, failure)
            context.tell("failed", message=str(failure), seconds=seconds)
            return
        self.result.outputs |= outputs
        self.result.made += made
        for failed in [
            student for out in outputs.values() for student in getattr(out, "students", ()) if student.failure
        ]:
            context.tell("warning", f"{failed.name} ({failed.arm}, seed {failed.seed}) failed: {failed.failure}")
        self._remark(context)
        context.tell("done" if made else "skipped", seconds=seconds)

    def _remark(self, context: Context) -> None:
        """Tell what has shown itself now of how the spec is understood, and of what it is worth."""
        for remark in self.plan.graph.remarks(self.result.outputs):
            if remark not in self.remarked:
                self.remarked.add(remark)
                context.tell("warning", remark)

    def _drain(self) -> None:
        """Pass on what workers told."""
        if self.context.bulletin is None:
            return
        import ray

        if not ray.is_initialized():
            return
        for event in ray.get(self.context.bulletin.drain.remote()):
            self.context.sink(event)


def told(error: BaseException, step: str) -> CrossdistillError:
    """Our own errors as they are, also out of a Ray task; anything else is our failure."""
    if (ours := cluster.own_error(error)) is not None:
        return ours
    wrapped = InternalError(f"{step}: {type(error).__name__}: {error}")
    wrapped.__cause__ = error
    return wrapped
