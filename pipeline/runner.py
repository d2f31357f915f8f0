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
from schemas.errors import CrossdistillError, InternalError, MissingUpstream, SpecError, did_you_mean
from schemas.runs import Event
from stages import cluster
from stages.base import STAGES, get_stage
from stages.context import Context

POLL_S = 0.25
DATA_STAGES = ("domains", "splits", "budgets")
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
        steps = {step.name for step in graph.steps.values() if name in (step.stage, step.name)}
        if not steps:
            raise SpecError(f"no stage or step is called '{name}'{did_you_mean(name, [*STAGES, *graph.steps])}")
        found |= steps
    return found


def execute(plan: Plan, context: Context, selection: Selection, listener: Listener, command: str) -> RunResult:
    """Do what the plan lacks. Raises MissingUpstream, Busy, or the failure itself where nothing else went on."""
    wanted, forced = selection.wanted(plan.graph), selection.forced(plan.graph)
    missing = {name for name in wanted if plan.steps[name].state != "present"}
    todo = missing | forced | (plan.graph.downstream(forced) & wanted)
    _check_upstream(plan, todo)
    if not todo:
        return RunResult(outputs=plan.outputs)
    with held_lease(context.workspace, command), _events(context, listener) as emit:
        return _Run(plan, replace(context, sink=emit), todo, forced).go()


def _check_upstream(plan: Plan, todo: set[str]) -> None:
    for name in sorted(todo):
        for need in plan.graph.steps[name].needs:
            if need in todo or plan.steps[need].state == "present":
                continue
            makeable = all(plan.steps[up].state == "present" for up in plan.graph.steps[need].needs)
            command = f"crossdistill run {plan.loaded.path.name}" + (f" --only {need}" if makeable else "")
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
        self.result = RunResult(outputs=plan.outputs)
        for name in todo:
            self.result.outputs.pop(name, None)
        self.finished: queue.Queue[tuple[str, Any, bool, BaseException | None, float]] = queue.Queue()
        self.running: set[str] = set()
        self.checked = False

    def go(self) -> RunResult:
        self._prepare()
        try:
            while True:
                self._start_ready()
                if not self.running:
                    break
                self._collect()
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

    def _start_ready(self) -> None:
        outputs = self.result.outputs
        for name in [name for name in self.plan.graph.steps if name in self.todo]:
            step = self.plan.graph.steps[name]
            if name in self.running or name in outputs or name in self.result.failures:
                continue
            if self.context.local and self.running:
                return
            if not all(need in outputs for need in step.needs) or any(
                item in self.todo and item not in outputs for item in step.after
            ):
                continue
            if step.stage not in DATA_STAGES and not self._models_are_fit():
                return
            self.running.add(name)
            threading.Thread(target=self._do, args=(step,), daemon=True, name=name).start()

    def _models_are_fit(self) -> bool:
        """Once the classes are known, models are tried again with them, before anything is trained."""
        if not self.checked:
            self.checked = True
            problems = try_models(self.plan.loaded, self.result.outputs, self.context)
            if problems:
                raise SpecError(*problems)
        return True

    def _do(self, step: Step) -> None:
        started = time.monotonic()
        try:
            context = replace(self.context, step=step.name)
            planned = look(step, self.result.outputs, context)
            assert planned.inputs is not None, "all that it needs is there"
            stage = get_stage(step.stage)
            if step.name in self.forced:
                stage.discard(context, planned.inputs)
            outputs, made = (
                (planned.outputs, False)
                if planned.outputs is not None and step.name not in self.forced
                else (None, True)
            )
            if made:
                context.tell("started")
                outputs = stage.run(context, planned.inputs)
            write_record(context.workspace, record_of(step, planned.inputs, planned.fingerprints))
            self.finished.put((step.name, outputs, made, None, time.monotonic() - started))
        except BaseException as error:  # noqa: BLE001 (handed to the main thread, which judges it)
            self.finished.put((step.name, None, True, error, time.monotonic() - started))

    def _collect(self) -> None:
        try:
            name, outputs, made, error, seconds = self.finished.get(timeout=POLL_S)
        except queue.Empty:
            self._drain()
            return
        self._drain()
        self.running.discard(name)
        context = replace(self.context, step=name)
        if error is not None:
            self.result.failures[name] = told(error, name)
            context.tell("failed", message=str(self.result.failures[name]), seconds=seconds)
            return
        self.result.outputs[name] = outputs
        if made:
            self.result.made.append(name)
        context.tell("done" if made else "skipped", seconds=seconds)

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
    seen: BaseException | None = error
    while seen is not None:
        if isinstance(seen, CrossdistillError):
            return seen
        seen = getattr(seen, "cause", None) or seen.__cause__
    wrapped = InternalError(f"{step}: {type(error).__name__}: {error}")
    wrapped.__cause__ = error
    return wrapped
