"""`make rounds`: every policy against one pass, on digits both ways, with classes that nobody labelled, and on texts.

The plan and its time come first. Lanes of worlds run at once, each in a process and a workspace of its own, kept
under bench-results/, so that a run that was ended goes on where it was. A chain is a seed: its own teacher, draw of the
label budget, and decisions. Gains are paired over chains and test samples (95%, bootstrap): against the same chain's
first round, which is one pass, against one pass with the steps of all rounds, and against the best baseline.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
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

from tests.bench.rounds.specs import LANES, LONG, MAX_ROUNDS, POLICIES, SEEDS, WORLDS, World, spec

RESULTS = Path("bench-results")
DRAWS = 1000


def main() -> None:
    parser = argparse.ArgumentParser(prog="rounds", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="two policies, two seeds, few steps: shows that it works")
    parser.add_argument("--lane", type=int, choices=range(len(LANES)), help="do the runs of one lane (used inside)")
    arguments = parser.parse_args()
    quick = arguments.quick
    if arguments.lane is not None:
        for world in LANES[arguments.lane]:
            work(world, quick, RESULTS / f"rounds-{arguments.lane}{'-quick' if quick else ''}.workspace")
        return
    print(plan(quick), flush=True)
    began = time.monotonic()
    command = [sys.executable, "-m", "tests.bench.rounds", *(["--quick"] if quick else []), "--lane"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    processes = [subprocess.Popen([*command, str(lane)], env=environment) for lane in range(len(LANES))]
    if sum(process.wait() for process in processes):
        raise SystemExit("a lane failed: see above; `make rounds` again goes on where it was")
    found = {world: json.loads(path_of(world, quick).read_text()) for world in WORLDS}
    for world, rows in found.items():
        print(f"\n{table(world, rows)}")
    minutes = (time.monotonic() - began) / 60
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    busy = (used.ru_utime + used.ru_stime) / 60
    machine = {"cores": os.cpu_count(), "date": time.strftime("%Y-%m-%d"), "minutes": minutes, "processor": busy}
    target = RESULTS / f"rounds{'-quick' if quick else ''}.json"
    target.write_text(json.dumps({"machine": machine, "worlds": found}, indent=2) + "\n")
    took = f"{minutes:.1f} minutes, {busy:.1f} of the processor"
    print(f"\n{machine['cores']} cores, {machine['date']}, {took}; also in {target}")


def sizes(quick: bool) -> tuple[int, int, tuple[int, int] | None]:
    """(seeds, most rounds, steps of (students, teachers) if other than the worlds')."""
    return (2, 2, (20, 40)) if quick else (SEEDS, MAX_ROUNDS, None)


def policies(quick: bool) -> tuple[str, ...]:
    """What is run."""
    return ("adaptive", "migration") if quick else POLICIES


def plan(quick: bool) -> str:
    """What will be done at most, and how long it takes on two cores."""
    seeds, rounds, few = sizes(quick)
    names = policies(quick)
    students = 1 + len(names) * (rounds - 1) + rounds + 4  # first rounds are shared; the long pass; arms
    students += rounds * ("co-training" in names)
    tuned = (rounds - 1) * sum(name in names for name in ("migration", "bootstrap"))
    labels = 1 + tuned + (rounds - 1) * 2 * ("co-training" in names)

    def seconds(world: World) -> float:
        student, teacher = few or (world.steps, world.teacher["training"]["steps"])
        share = teacher / world.teacher["training"]["steps"]
        made = students * student * world.step_s + (1 + tuned / 2) * world.teacher_s * share + labels * world.label_s
        return float(seeds * made)

    minutes = max(sum(map(seconds, WORLDS.values())) / 2, *map(seconds, WORLDS.values())) / 60
    return (
        f"{len(WORLDS)} worlds in {len(LANES)} lanes: {len(names)} policies of at most {rounds} rounds in {seeds} "
        f"chains, at most {seeds * students} trainings of students a world, about {minutes:.0f} minutes on two cores"
    )


def path_of(world: str, quick: bool) -> Path:
    """Where a world leaves its rows."""
    return RESULTS / f"rounds-{world.replace(',', '').replace(' ', '-')}{'-quick' if quick else ''}.json"


def work(name: str, quick: bool, workspace: Path) -> None:
    """All runs of one world, one after another."""
    from crossdistill import run
    from pipeline.api import chains_so_far
    from schemas.base import Part
    from stages.domains.reader import read_truth
    from stages.places import Place
    from stages.tasks import get_task

    world = WORLDS[name]
    workspace.mkdir(parents=True, exist_ok=True)

    def done(what: str, value: dict[str, Any]) -> tuple[dict[str, Any], list[Any]]:
        began = time.monotonic()
        file = workspace / f"{name} {what}.yaml".replace(" ", "-").replace(",", "")
        file.write_text(yaml.safe_dump(value, sort_keys=False))
        result = run(file, str(workspace))
        if result.failures:
            raise SystemExit("\n".join(f"{step}: {error}" for step, error in result.failures.items()))
        print(f"{name}, {what}: {(time.monotonic() - began) / 60:.1f} minutes", flush=True)
        return dict(result.outputs), chains_so_far(file, str(workspace))

    # `born-again` stands for any policy: with one round it is one pass.
    seeds, rounds, steps = sizes(quick)
    long = done(LONG, spec(world, "born-again", seeds, 1, steps, times=rounds))[0]
    packed = long[f"domains.{world.target[0]}"]
    truth = read_truth(Place(packed.truth.uri), packed.truth)[0]
    over = partial(gain, task=get_task(Part.model_validate(dict(world.task))), metric=world.metric, truth=truth)
    rows = [
        row_of(world, policy, *done(policy, spec(world, policy, seeds, rounds, steps)), long, over)
        for policy in policies(quick)
    ]
    path_of(name, quick).write_text(json.dumps(rows, indent=2) + "\n")


def row_of(
    world: World,
    policy: str,
    outputs: dict[str, Any],
    chains: list[Any],
    long: dict[str, Any],
    over: Callable[[Any, Any], list[float]],
) -> dict[str, Any]:
    """Figures of one policy."""
    best, first = (outputs[f"evaluation.{subject}"] for subject in (world.student, f"{world.student}.r1"))
    all_steps = long[f"evaluation.{world.student}"]
    comparison = best.table.comparison
    worth = [[mean(one.quality[world.metric] for one in past.sets.values()) for past in chain.past] for chain in chains]
    return {
        "policy": policy,
        "metric": world.metric,
        "first": final(first, world.metric),
        "best": final(best, world.metric),
        "long": final(all_steps, world.metric),
        "over_first": over(best, first),
        "over_long": over(best, all_steps),
        "baseline": comparison.baseline,
        "over_baseline": [comparison.difference.value, comparison.difference.low, comparison.difference.high],
        "rounds": mean(len(chain.past) for chain in chains),
        "best_round": mean(chain.best for chain in chains),
        "labels": [mean(found[0] for found in worth), mean(found[-1] for found in worth)],
    }


def final(outputs: Any, metric: str) -> float:
    """Mean final quality of the students of an evaluation."""
    return float(next(arm.mean[metric] for arm in outputs.table.arms if arm.arm == "distilled"))


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


def gain(ours: Any, theirs: Any, task: Any, metric: str, truth: NDArray[np.int32]) -> list[float]:
    """[mean, low, high] of the difference in final quality, paired over chains and test samples."""
    from stages.evaluation.compare import draw_differences, percentile_interval

    found, others = said(ours), said(theirs)
    figures = {
        which: {
            seed.seed: seed.final[metric] for arm in outputs.table.arms if arm.arm == "distilled" for seed in arm.seeds
        }
        for which, outputs in (("ours", ours), ("theirs", theirs))
    }
    drawn = np.stack(
        [
            draw_differences(task, metric, found[seed][0], others[seed][0], truth[found[seed][1]], DRAWS)
            for seed in sorted(found)
        ]
    )
    low, high = percentile_interval(drawn, 0.95)
    return [mean(figures["ours"][seed] - figures["theirs"][seed] for seed in found), low, high]


def table(world: str, rows: list[dict[str, Any]]) -> str:
    """Markdown, a row a policy."""
    metric = rows[0]["metric"].replace("_", " ")
    head = (
        f"| {world}, {metric} % | one pass | best round | over one pass | over one pass of all steps | over the best "
        "baseline | rounds (best) | labels' selection quality, first to last |"
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
