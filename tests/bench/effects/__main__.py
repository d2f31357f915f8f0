"""`make effects`: a table of method by label budget for each direction; JSON in bench-results/effects.json.

The plan and its time come first. Each direction runs in a process and a workspace of its own, kept under
bench-results/, so that a run that was ended goes on where it was. A cell is the mean difference to the best baseline of
that budget over both teachers, and the widest interval of the two (95%, bootstrap over seeds and test samples).
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from statistics import mean
from typing import Any

import yaml

from tests.bench.effects.specs import (
    BUDGETS,
    CONTROL,
    CONTROL_STEPS,
    DIRECTIONS,
    METHODS,
    SEEDS,
    STEPS,
    TEACHER_SEEDS,
    TEACHER_STEPS,
    spec,
)

STEP_S, TEACHER_STEP_S, EVALUATION_S = 0.0105, 0.032, 1.5
"""Seconds of a student's step, a teacher's, and of judging a student with its baselines, one core of a machine of 2
(2026-11): what the time of the plan is worked out from."""
RESULTS = Path("bench-results")
BASELINES = ("no-teacher", "source-only", "source-finetuned")


def main() -> None:
    parser = argparse.ArgumentParser(prog="effects", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="two methods, two budgets, few steps: shows that it works")
    parser.add_argument("--direction", choices=sorted(DIRECTIONS), help="do the runs of one direction (used inside)")
    arguments = parser.parse_args()
    quick = arguments.quick
    methods = {name: METHODS[name] for name in ("soft", "hard")} if quick else METHODS
    budgets, steps = ((0, 50), 20) if quick else (BUDGETS, STEPS)
    if arguments.direction:
        work(arguments.direction, methods, budgets, steps, quick)
        return
    print(plan(methods, budgets, steps), flush=True)
    began = time.monotonic()
    command = [sys.executable, "-m", "tests.bench.effects", *(["--quick"] if quick else []), "--direction"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    processes = [subprocess.Popen([*command, direction], env=environment) for direction in DIRECTIONS]
    if any(process.wait() for process in processes):
        raise SystemExit("a direction failed: see above; `make effects` again goes on where it was")
    found = {direction: json.loads(path_of(direction, quick).read_text()) for direction in DIRECTIONS}
    for direction, rows in found.items():
        print(f"\n{table(direction, rows, budgets)}")
    minutes = (time.monotonic() - began) / 60
    machine = {"cores": os.cpu_count(), "date": time.strftime("%Y-%m-%d"), "minutes": round(minutes, 1)}
    target = RESULTS / f"effects{'-quick' if quick else ''}.json"
    target.write_text(json.dumps({"machine": machine, "directions": found}, indent=2) + "\n")
    print(f"\n{machine['cores']} cores, {machine['date']}, {minutes:.1f} minutes; also in {target}")


def plan(methods: dict[str, Any], budgets: tuple[int, ...], steps: int) -> str:
    """What will be done and how long it takes on two cores."""
    students = len(budgets) * len(TEACHER_SEEDS) * len(methods)
    trainings = students * len(SEEDS) + len(budgets) * len(SEEDS) * (len(BASELINES) + 2)
    own = sum(len(SEEDS) for budget in budgets if budget)
    teachers = len(TEACHER_SEEDS) + own
    teaching = len(TEACHER_SEEDS) * TEACHER_STEPS + own * CONTROL_STEPS
    seconds = trainings * steps * STEP_S + teaching * TEACHER_STEP_S + students * EVALUATION_S
    return (
        f"{len(DIRECTIONS)} directions at once, {len(budgets)} label budgets each: {teachers} teachers, {trainings:,} "
        f"students of {steps} steps ({len(methods)} methods, {len(TEACHER_SEEDS)} teachers, {len(SEEDS)} seeds, and "
        f"baselines), about {seconds / 60:.0f} minutes on two cores"
    )


def path_of(direction: str, quick: bool) -> Path:
    """Where a direction leaves its rows."""
    return RESULTS / f"effects-{direction.replace(' ', '-')}{'-quick' if quick else ''}.json"


def work(direction: str, methods: dict[str, Any], budgets: tuple[int, ...], steps: int, quick: bool) -> None:
    """All runs of one direction, one after another."""
    from crossdistill import run

    source, target = DIRECTIONS[direction]
    workspace = path_of(direction, quick).with_suffix(".workspace")
    rows: list[dict[str, Any]] = []
    for budget in budgets:
        began = time.monotonic()
        workspace.mkdir(parents=True, exist_ok=True)
        file = workspace / f"budget-{budget}.yaml"
        file.write_text(
            yaml.safe_dump(
                spec(source, target, budget, methods, steps, 60 if quick else TEACHER_STEPS), sort_keys=False
            )
        )
        result = run(file, str(workspace))
        if result.failures:
            raise SystemExit("\n".join(f"{name}: {error}" for name, error in result.failures.items()))
        tables = {
            name.removeprefix("evaluation."): outputs.table
            for name, outputs in result.outputs.items()
            if name.startswith("evaluation.") and (".t" in name or f".{CONTROL}.s" in name)
        }
        rows += rows_of(budget, tables, methods)
        print(f"{direction}, budget {budget}: {(time.monotonic() - began) / 60:.1f} minutes", flush=True)
    path_of(direction, quick).write_text(json.dumps(rows, indent=2) + "\n")


def rows_of(budget: int, tables: dict[str, Any], methods: dict[str, Any]) -> list[dict[str, Any]]:
    """Figures of one budget: every method, the control, the teachers and the baselines."""
    rows: list[dict[str, Any]] = []
    first = tables[f"{next(iter(methods))}.t0"]
    rows += [
        {"budget": budget, "what": arm.arm, "accuracy": arm.mean["accuracy"]}
        for arm in first.arms
        if arm.arm in BASELINES and arm.mean
    ]
    teachers = [accuracy(tables[f"{next(iter(methods))}.t{seed}"], "teacher") for seed in TEACHER_SEEDS]
    rows.append({"budget": budget, "what": "teacher", "accuracy": mean(teachers)})
    for name in methods:
        pair = [tables[f"{name}.t{seed}"] for seed in TEACHER_SEEDS]
        row = {"budget": budget, "what": name, "accuracy": mean(accuracy(item, "distilled") for item in pair)}
        compared = [item.comparison for item in pair if item.comparison is not None]
        if compared:
            row |= {
                "baseline": compared[0].baseline,
                "gain": mean(item.difference.value for item in compared),
                "low": min(item.difference.low for item in compared),
                "high": max(item.difference.high for item in compared),
            }
        rows.append(row)
    control = [table for name, table in tables.items() if name.startswith(f"{CONTROL}.s")]
    if control:
        rows.append(
            {"budget": budget, "what": CONTROL, "accuracy": mean(accuracy(item, "distilled") for item in control)}
        )
    return rows


def accuracy(table: Any, arm: str) -> float:
    """Mean final accuracy of an arm over its seeds."""
    return float(next(item.mean["accuracy"] for item in table.arms if item.arm == arm))


def table(direction: str, rows: list[dict[str, Any]], budgets: tuple[int, ...]) -> str:
    """Markdown: absolute accuracies first, then what each method adds to the best baseline."""
    cells = {(row["what"], row["budget"]): row for row in rows}
    names = list(dict.fromkeys(row["what"] for row in rows))
    plain = [name for name in names if not any("gain" in row for row in rows if row["what"] == name)]
    shown = {CONTROL: "soft, its teacher trained on the budget alone (control)", "teacher": "teacher, carried over"}
    head = f"| {direction}, accuracy % | " + " | ".join(f"{budget} labels" for budget in budgets) + " |"
    lines = [head, "|---" * (len(budgets) + 1) + "|"]
    for name in [*plain, "soft"]:
        values = [cells.get((name, budget)) for budget in budgets]
        said = " | ".join("-" if value is None else f"{100 * value['accuracy']:.1f}" for value in values)
        lines.append(f"| {shown.get(name, name)} | {said} |")
    lines += ["", head.replace("accuracy %", "points over the best baseline"), lines[1]]
    for name in [name for name in names if name not in plain]:
        lines.append(f"| {name} | " + " | ".join(gain(cells.get((name, budget))) for budget in budgets) + " |")
    return "\n".join(lines)


def gain(row: dict[str, Any] | None) -> str:
    """`+3.3 [1.7, 4.9]`, marked where the interval is clear of zero."""
    if row is None or "gain" not in row:
        return "-"
    mark = "**" if row["low"] > 0 or row["high"] < 0 else ""
    return f"{mark}{100 * row['gain']:+.1f}{mark} [{100 * row['low']:.1f}, {100 * row['high']:.1f}]"


if __name__ == "__main__":
    main()
