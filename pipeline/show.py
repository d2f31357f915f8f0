"""What the commands print: plans, results, reports, schemas and label sets, for people and as JSON."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from pipeline.planner import Plan
from pipeline.runner import RunResult
from schemas.base import Document
from schemas.errors import ContractError, MissingUpstream, did_you_mean
from schemas.evaluation import Report, ReportOutputs
from schemas.rounds import Measured
from schemas.spec import Storage
from stages.places import Place

if TYPE_CHECKING:
    from pipeline.rounds._chains import Chain

WIDE = 500
"""Columns where the output is no terminal."""


def _console() -> Any:
    """A console; tables in a file or a pipe are as wide as they need to be, since nobody greps half a fingerprint."""
    from rich.console import Console

    console = Console(highlight=False)
    return console if console.is_terminal else Console(highlight=False, width=WIDE)


def plan_json(plan: Plan) -> dict[str, Any]:
    """A plan as JSON: steps in order, with state, fingerprints, why, and the inputs that `crossdistill stage` takes."""
    return {
        "spec": plan.loaded.spec.name,
        "notes": plan.notes,
        "steps": [
            {
                "step": name,
                "stage": planned.step.stage,
                "state": planned.state,
                "group": planned.step.group,
                "fingerprints": planned.fingerprints,
                "why": planned.why,
                "inputs": planned.inputs.dump() if planned.inputs else None,
            }
            for name, planned in plan.steps.items()
        ],
    }


def print_plan(plan: Plan) -> None:
    """A table of the steps, and what a run would do."""
    from rich.table import Table

    table = Table(box=None, pad_edge=False, header_style="bold")
    for title in ("step", "state", "fingerprint", "why"):
        table.add_column(title, overflow="fold")
    styles = {"present": "green", "missing": "yellow", "damaged": "red", "unknown": "dim"}
    for name, planned in plan.steps.items():
        prints = list(planned.fingerprints.values())
        shown = "" if not prints else prints[0][:12] + (f" +{len(prints) - 1}" if len(prints) > 1 else "")
        table.add_row(name, f"[{styles[planned.state]}]{planned.state}[/]", shown, _safe(planned.why))
    console = _console()
    console.print(table)
    if len(plan.graph.cohorts) > 1 or any(len(cohort.members) > 1 for cohort in plan.graph.cohorts):
        console.print("")
        rows = [(item.name, item.stream, _members(plan, item.members)) for item in plan.graph.cohorts]
        print_table(("cohort", "trains on one stream of", "students"), rows)
        console.print("")
    for note in plan.notes:
        console.print(f"Note: {_safe(note)}", soft_wrap=True)
    todo = plan.to_do
    console.print(
        f"{len(todo)} of {len(plan.steps)} steps to do: {_safe(plan.command())}"
        if todo
        else "Nothing to do: everything exists.",
        soft_wrap=True,
    )


def _members(plan: Plan, names: Sequence[str]) -> str:
    """The students of a cohort, the points of a grid by their number."""
    points = Counter(point.grid if (point := plan.loaded.spec.students[name].point) else name for name in names)
    grids = {student.point.grid for student in plan.loaded.spec.students.values() if student.point}
    return ", ".join(f"{name} ({count} points)" if name in grids else name for name, count in points.items())


def print_result(result: RunResult) -> None:
    """The table at the end of a run; one line if there was nothing to do."""
    console = _console()
    if not result.made and not result.failures:
        console.print(f"Nothing to do: everything exists. See it: {_safe(result.report_command)}", soft_wrap=True)
        return
    outputs = result.outputs.get("report")
    if isinstance(outputs, ReportOutputs):
        print_report(_read_report(outputs, result.storage))
        console.print(f"\nThe report: {outputs.report.uri}", soft_wrap=True)
    if result.not_done:
        console.print(f"Not done, since they rest on what failed: {', '.join(result.not_done)}", soft_wrap=True)


def result_json(result: RunResult) -> dict[str, Any]:
    """What a run came to, as JSON."""
    return {
        "made": result.made,
        "failures": {name: list(error.problems) for name, error in result.failures.items()},
        "not_done": result.not_done,
        "outputs": {name: out.dump() for name, out in result.outputs.items() if isinstance(out, Document)},
    }


def history_json(chains: Sequence[Chain]) -> list[dict[str, Any]]:
    """The rounds of each chain as JSON."""
    return [
        {
            "seed": chain.seed,
            "rounds": [record.dump() for record in chain.records],
            "best": chain.best if chain.past else None,
            "ended": chain.ended,
        }
        for chain in chains
    ]


def print_history(chains: Sequence[Chain]) -> None:
    """One line a round, with selection quality alone, and below why rounds were what they were."""
    rows, words = [], []
    for chain in chains:
        metric = chain.base.metric
        for past, record in zip(chain.past, chain.records, strict=True):
            students = [f"{name} {_worth(one, metric)}" for name, one in past.students.items()]
            sets = [f"{name} {_worth(one, metric)}" for name, one in past.sets.items()]
            mark = "best" if past.number == chain.best else ""
            rows.append((str(chain.seed), str(past.number), ", ".join(students), ", ".join(sets), mark))
            if past.number > 1:
                words.append(f"chain {chain.seed}, round {past.number}: {record.decision}")
        if chain.ended is not None:
            words.append(f"chain {chain.seed} ends: {chain.ended}")
        elif len(chain.asked) > len(chain.past):
            words.append(f"chain {chain.seed}: round {len(chain.asked)} is to do")
    print_table(("chain", "round", "students (selection)", "their labels", ""), rows)
    for line in words:
        _console().print(_safe(line), soft_wrap=True)


def _worth(one: Measured, metric: str) -> str:
    if one.failure is not None:
        return "failed"
    if metric in one.quality:
        return f"{one.quality[metric]:.3f}"
    known = {"agreement": one.agreement, "confidence": one.confidence}
    return " ".join(f"{name} {value:.3f}" for name, value in known.items() if value is not None) or "-"


def report_of(plan: Plan) -> Report:
    """The report of a finished run. Raises MissingUpstream if it is not finished, StoreError if it is damaged."""
    plan.check_whole()
    outputs = plan.outputs.get("report")
    if not isinstance(outputs, ReportOutputs):
        todo = plan.to_do
        shown = ", ".join(todo[:4]) + (", …" if len(todo) > 4 else "")
        raise MissingUpstream(
            f"there is no report yet: {len(todo)} steps are to do ({shown}). Make it: `{plan.command()}`"
        )
    return _read_report(outputs, plan.loaded.spec.storage)


def _read_report(outputs: ReportOutputs, storage: Storage) -> Report:
    from stages.evaluation.reader import read_report

    return read_report(Place(outputs.report.uri, storage), outputs.report)


def print_report(report: Report) -> None:
    """The report's tables on the terminal."""
    from stages.evaluation.render import render_terminal

    console = _console()
    for item in render_terminal(report):
        console.print(item)


def schema_names() -> list[str]:
    """Everything that has a schema: contracts, then plug-ins' settings as kind:name."""
    from schemas.registry import contracts

    return [*contracts(), *_plugin_configs()]


def schema_of(name: str) -> dict[str, Any]:
    """JSON Schema of a contract, or of a plug-in's settings. Raises ContractError for an unknown name."""
    from schemas.registry import contracts

    known: dict[str, Any] = {**contracts(), **_plugin_configs()}
    found = next((value for key, value in known.items() if name.lower() in (key.lower(), key.split(":")[-1])), None)
    if found is None:
        raise ContractError(f"nothing called '{name}' has a schema{did_you_mean(name, list(known))}")
    schema: dict[str, Any] = found.model_json_schema(by_alias=True)
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema}


def _plugin_configs() -> dict[str, Any]:
    from stages.students.methods import METHODS
    from stages.tasks import TASKS

    found: dict[str, Any] = {}
    for name in TASKS.names():
        task = TASKS.get(name)
        found |= {
            f"task:{name}": task.Config,
            f"task:{name}.prepare": task.Prepare,
            f"task:{name}.preprocessing": task.Preprocessing,
            f"task:{name}.augmentation": task.Augmentation,
        }
    return found | {f"method:{name}": METHODS.get(name).Config for name in METHODS.names()}


def print_table(titles: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """A table on the terminal; cells are shown as they are."""
    from rich.table import Table

    table = Table(box=None, pad_edge=False, header_style="bold")
    for title in titles:
        table.add_column(title, overflow="fold")
    for row in rows:
        table.add_row(*(_safe(cell) for cell in row))
    _console().print(table)


def _safe(text: str) -> str:
    from rich.markup import escape

    return escape(text)
