"""`make rounds`: every policy against one pass, in both directions between digits; JSON in bench-results/rounds.json.

The plan and its time come first. Each direction runs in a process and a workspace of its own, kept under
bench-results/, so that a run that was ended goes on where it was. A chain is a seed: its own teacher, draw of the label
budget, and decisions. Gains are paired over chains and test samples (95%, bootstrap): against the same chain's first
round, which is one pass, against one pass with the steps of all rounds, and against the best baseline.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from statistics import mean
from typing import Any

import numpy as np
import yaml
from numpy.typing import NDArray

from tests.bench.rounds.specs import DIRECTIONS, LONG, MAX_ROUNDS, POLICIES, SEEDS, STEPS, TASK, TEACHER_STEPS, spec

STEP_S, TEACHER_S = 0.0045, 45.0
"""Seconds of a student's step and of a teacher, one core of a machine of 2 (2026-11): what the plan's time rests on."""
RESULTS = Path("bench-results")
STUDENT, METRIC, DRAWS = "mobile", "accuracy", 1000


def main() -> None:
    parser = argparse.ArgumentParser(prog="rounds", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="two policies, two seeds, few steps: shows that it works")
    parser.add_argument("--direction", choices=sorted(DIRECTIONS), help="do the runs of one direction (used inside)")
    arguments = parser.parse_args()
    quick = arguments.quick
    if arguments.direction:
        work(arguments.direction, quick)
        return
    print(plan(quick), flush=True)
    began = time.monotonic()
    command = [sys.executable, "-m", "tests.bench.rounds", *(["--quick"] if quick else []), "--direction"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    processes = [subprocess.Popen([*command, direction], env=environment) for direction in DIRECTIONS]
    if sum(process.wait() for process in processes):
        raise SystemExit("a direction failed: see above; `make rounds` again goes on where it was")
    found = {direction: json.loads(path_of(direction, quick).read_text()) for direction in DIRECTIONS}
    for direction, rows in found.items():
        print(f"\n{table(direction, rows)}")
    minutes = (time.monotonic() - began) / 60
    machine = {"cores": os.cpu_count(), "date": time.strftime("%Y-%m-%d"), "minutes": round(minutes, 1)}
    target = RESULTS / f"rounds{'-quick' if quick else ''}.json"
    target.write_text(json.dumps({"machine": machine, "directions": found}, indent=2) + "\n")
    print(f"\n{machine['cores']} cores, {machine['date']}, {minutes:.1f} minutes; also in {target}")


def sizes(quick: bool) -> tuple[dict[str, Any], int, int, int, int]:
    """(policies, steps of a student, of a teacher, most rounds, seeds)."""
    if quick:
        return {name: POLICIES[name] for name in ("adaptive", "migration")}, 20, 60, 2, 2
    return POLICIES, STEPS, TEACHER_STEPS, MAX_ROUNDS, SEEDS


def plan(quick: bool) -> str:
    """What will be done at most, and how long it takes on two cores."""
    policies, steps, teacher_steps, rounds, seeds = sizes(quick)
    students = seeds * (1 + len(policies) * (rounds - 1) + rounds + 4)  # first rounds are shared; the long pass; arms
    students += seeds * rounds * ("co-training" in policies)
    teachers = seeds + seeds * (rounds - 1) * sum(name in policies for name in ("migration", "bootstrap")) / 2
    seconds = students * steps * STEP_S + teachers * TEACHER_S * teacher_steps / TEACHER_STEPS
    return (
        f"{len(DIRECTIONS)} directions at once: {len(policies)} policies of at most {rounds} rounds in {seeds} chains, "
        f"at most {students} trainings of {steps} steps, about {seconds / 60:.0f} minutes on two cores"
    )


def path_of(direction: str, quick: bool) -> Path:
    """Where a direction leaves its rows."""
    return RESULTS / f"rounds-{direction.replace(' ', '-')}{'-quick' if quick else ''}.json"


def work(direction: str, quick: bool) -> None:
    """All runs of one direction, one after another."""
    from crossdistill import run
    from pipeline.api import chains_so_far
    from schemas.base import Part
    from stages.domains.reader import read_truth
    from stages.places import Place
    from stages.tasks import get_task

    policies, steps, teacher_steps, most, seeds = sizes(quick)
    source, target = DIRECTIONS[direction]
    workspace = path_of(direction, quick).with_suffix(".workspace")
    workspace.mkdir(parents=True, exist_ok=True)

    def done(name: str, policy: Any, length: int, rounds: int) -> tuple[dict[str, Any], list[Any]]:
        began = time.monotonic()
        file = workspace / f"{name.replace(' ', '-').replace(',', '')}.yaml"
        value = spec(source, target, policy, length, teacher_steps, rounds, seeds)
        file.write_text(yaml.safe_dump(value, sort_keys=False))
        result = run(file, str(workspace))
        if result.failures:
            raise SystemExit("\n".join(f"{step}: {error}" for step, error in result.failures.items()))
        print(f"{direction}, {name}: {(time.monotonic() - began) / 60:.1f} minutes", flush=True)
        return dict(result.outputs), chains_so_far(file, str(workspace))

    # `born-again` stands for any policy: with one round it is one pass.
    long = done(LONG, "born-again", steps * most, 1)[0]
    packed = long[f"domains.{target}"]
    task, truth = get_task(Part.model_validate(TASK)), read_truth(Place(packed.truth.uri), packed.truth)[0]
    rows = []
    for name, policy in policies.items():
        outputs, chains = done(name, policy, steps, most)
        rows.append(row_of(name, outputs, chains, long, partial(gain, task=task, truth=truth)))
    path_of(direction, quick).write_text(json.dumps(rows, indent=2) + "\n")


def row_of(
    name: str, outputs: dict[str, Any], chains: list[Any], long: dict[str, Any], over: Callable[[Any, Any], list[float]]
) -> dict[str, Any]:
    """Figures of one policy."""
    best, first = (outputs[f"evaluation.{subject}"] for subject in (STUDENT, f"{STUDENT}.r1"))
    comparison = best.table.comparison
    worth = [[mean(one.quality[METRIC] for one in past.sets.values()) for past in chain.past] for chain in chains]
    return {
        "policy": name,
        "first": accuracy(first),
        "best": accuracy(best),
        "long": accuracy(long[f"evaluation.{STUDENT}"]),
        "over_first": over(best, first),
        "over_long": over(best, long[f"evaluation.{STUDENT}"]),
        "baseline": comparison.baseline,
        "over_baseline": [comparison.difference.value, comparison.difference.low, comparison.difference.high],
        "rounds": mean(len(chain.past) for chain in chains),
        "best_round": mean(chain.best for chain in chains),
        "labels": [mean(found[0] for found in worth), mean(found[-1] for found in worth)],
    }


def accuracy(outputs: Any) -> float:
    """Mean final accuracy of the students of an evaluation."""
    return float(next(arm.mean[METRIC] for arm in outputs.table.arms if arm.arm == "distilled"))


def said(outputs: Any) -> dict[int, tuple[NDArray[np.float32], NDArray[np.int64]]]:
    """(logits of the test rows, their positions) by seed, as the evaluation stored them."""
    from safetensors.numpy import load

    from stages.artifacts import open_ref, read_object
    from stages.places import Place

    artifact, files = open_ref(Place(outputs.quality.uri), outputs.quality, "evaluation")
    positions = load(read_object(files, artifact, "test.safetensors"))["positions"]
    names = [item.name for item in artifact.objects if item.name.startswith("predictions/distilled-")]
    return {
        int(name.removesuffix(".safetensors").rpartition("-")[2]): (
            load(read_object(files, artifact, name))["test_logits"],
            positions,
        )
        for name in names
    }


def gain(ours: Any, theirs: Any, task: Any, truth: NDArray[np.int32]) -> list[float]:
    """[mean, low, high] of the difference in final accuracy, paired over chains and test samples."""
    from stages.evaluation.compare import draw_differences, percentile_interval

    found, others = said(ours), said(theirs)
    figures = {
        which: {
            seed.seed: seed.final[METRIC] for arm in outputs.table.arms if arm.arm == "distilled" for seed in arm.seeds
        }
        for which, outputs in (("ours", ours), ("theirs", theirs))
    }
    drawn = np.stack(
        [
            draw_differences(task, METRIC, found[seed][0], others[seed][0], truth[found[seed][1]], DRAWS)
            for seed in sorted(found)
        ]
    )
    low, high = percentile_interval(drawn, 0.95)
    return [mean(figures["ours"][seed] - figures["theirs"][seed] for seed in found), low, high]


def table(direction: str, rows: list[dict[str, Any]]) -> str:
    """Markdown, a row a policy."""
    head = (
        f"| {direction}, accuracy % | one pass | best round | over one pass | over one pass of all steps | over the "
        "best baseline | rounds (best) | labels' selection quality, first to last |"
    )
    lines = [head, "|---" * 8 + "|"]
    for row in rows:
        first, best, *_ = (f"{100 * row[name]:.1f}" for name in ("first", "best"))
        gains = " | ".join(shown(row[name]) for name in ("over_first", "over_long", "over_baseline"))
        one, other = row["labels"]
        rounds = f"{row['rounds']:.1f} ({row['best_round']:.1f})"
        lines.append(
            f"| {row['policy']} | {first} | {best} | {gains} | {rounds} | {100 * one:.1f} -> {100 * other:.1f} |"
        )
    return "\n".join(lines)


def shown(gain: list[float]) -> str:
    """`+3.3 [1.7, 4.9]`, marked where the interval is clear of zero."""
    value, low, high = gain
    mark = "**" if low > 0 or high < 0 else ""
    return f"{mark}{100 * value:+.1f}{mark} [{100 * low:.1f}, {100 * high:.1f}]"


if __name__ == "__main__":
    main()
