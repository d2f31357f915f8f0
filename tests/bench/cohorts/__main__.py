"""A table here and JSON in bench-results/students.json. About 50 minutes on two cores; `--quick` about two.

One process, one thread, the allocator of our workers and `inference_mode` for every teacher, on both sides. Online
means that a student asks its teacher in each step; all else (samples, augmentation, loss, optimiser, loop) is alike.
torchdistill does the same work in a process and an environment of its own, in the same turns.
With I, T and S the time of a batch's input, of the teacher and of a student's step, 8 students that share all input
and never ask a teacher can be at most 8 (I + T + S) / (I + 8 S) times as fast as 8 online runs.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch

from schemas.base import Part
from schemas.domains import DomainInputs, SplitInputs
from schemas.labels import LabelsInputs
from schemas.spec import Resources, Source, Split, Storage
from schemas.students import CohortInputs, Stream, StudentInputs
from schemas.teachers import GivenTeacher, TeacherInputs
from schemas.training import Training
from stages.base import get_stage
from stages.context import Context
from stages.places import Place
from stages.students.cohort import open_feed
from stages.students.feed import Feed, LabelledBatch, SharedBatch
from stages.students.fit import Fit
from stages.students.lockstep import train
from stages.students.teacher import DenseTeacher
from tests.bench.cohorts import models
from tests.bench.cohorts.models import CLASSES, PAIRS, Pair
from tests.bench.labels import set_allocator
from tests.bench.students import new_fits, row
from tests.bench.worker import Worker

COHORT, BATCH, ROWS = 8, 64, 768
PASSES, RATIOS = 10, (0.5, 1, 2, 4, 8, 16)
Way = Callable[[], float]
CPU = torch.device("cpu")
PLAIN = {"flip": True, "translate": 0.1}
NOISE = "noise.npz"
COSTLY = {"flip": True, "crop": [0.5, 1.0], "brightness": 0.4, "contrast": 0.4, "saturation": 0.4}


def main() -> None:
    parser = argparse.ArgumentParser(prog="bench-students", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="one pair, few steps: shows that it works")
    parser.add_argument("--pair", type=int, choices=range(1, len(PAIRS) + 1), help="one pair alone")
    parser.add_argument("--python", type=Path, default=Path(".venv-bench/bin/python"), help="the peers' interpreter")
    arguments = parser.parse_args()
    quick, one, python = arguments.quick, arguments.pair or 2 * arguments.quick, arguments.python.absolute()
    if not python.exists():
        parser.error(f"{python} is not there, and torchdistill lives in it: `make bench-students` installs it")
    set_allocator()
    torch.set_num_threads(1)
    table: list[dict[str, Any]] = []
    for pair in PAIRS[one - 1 : one] if one else PAIRS:
        with tempfile.TemporaryDirectory() as folder, (Path(folder) / "peer.log").open("wb") as log:
            for item in measure(pair, Path(folder), (python, log), 4 if quick else 12, 1 if quick else 3):
                table.append(item)
                aim = f"   (aim: {item['aim']})" if item["aim"] else ""
                print(f"{item['what']:<96} {item['value']:>9,.3f} {item['unit']}{aim}", flush=True)
    machine = {"cores": os.cpu_count(), "date": time.strftime("%Y-%m-%d")}
    target = Path("bench-results/students.json")
    target.parent.mkdir(exist_ok=True)
    target.write_text(json.dumps({"machine": machine, "quick": quick, "rows": table}, indent=2) + "\n")
    print(f"\n{machine['cores']} cores, {machine['date']}; also in {target}")


@dataclass
class Online:
    """A student that asks its teacher in every step."""

    feed: Feed
    teacher: torch.nn.Module
    bfloat16: bool

    def batch(self, step: int) -> SharedBatch:
        """Inputs, and what the teacher says of them now."""
        inputs, weights = self.inputs(step)
        return SharedBatch(inputs, weights, {"teacher": DenseTeacher(self.said(inputs))})

    def inputs(self, step: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Read, decoded and augmented, without labels."""
        shared = self.feed.shared(step, {})
        return shared.inputs, shared.weights_B

    def said(self, inputs: torch.Tensor) -> torch.Tensor:
        """The teacher's logits."""
        with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16, enabled=self.bfloat16):
            logits: torch.Tensor = self.teacher(inputs)
        return logits.float().clone()


def measure(pair: Pair, folder: Path, peers: tuple[Path, IO[bytes]], steps: int, repeats: int) -> list[dict[str, Any]]:
    """Rows of one pair; `peers` are their interpreter and their log."""
    found: list[dict[str, Any]] = []
    for name, augmentation in (("", PLAIN), (", crops and colours", COSTLY)):
        own = folder / (name.strip(", ") or "plain").replace(" ", "-")
        inputs = make(pair, own, steps, augmentation)
        asked = [pair.teacher, pair.student, own / NOISE, steps]
        peer = None if name else Worker(peers[0], "tests.bench.cohorts.peer", asked, peers[1])
        found += _pair(pair, f"{pair.name}{name}", inputs, folder, steps, repeats, peer)
        if peer is not None:
            peer.end()
    return found


def _pair(
    pair: Pair, name: str, inputs: CohortInputs, folder: Path, steps: int, repeats: int, peer: Worker | None
) -> list[dict[str, Any]]:
    alone = inputs.model_copy(update={"students": inputs.students[:1]})
    feed = open_feed(new_fits(inputs, folder), Storage(), CPU)
    asked = {"fp32": Online(feed, getattr(models, pair.teacher)(CLASSES).eval(), False)}
    ways: dict[str, Way] = {
        "cohort": lambda: stored(new_fits(inputs, folder), feed),
        "single": lambda: stored(new_fits(alone, folder), feed),
    }
    if peer is not None:
        asked["fastest"] = Online(feed, models.fastest(getattr(models, pair.teacher)(CLASSES)), True)
        ways |= {
            f"online, {kind}": partial(lambda one: online(new_fits(alone, folder), one), one)
            for kind, one in asked.items()
        }
        ways["online cohort"] = lambda: online(new_fits(inputs, folder), asked["fp32"])
        ways["torchdistill"] = lambda: float(peer.ask("train")["seconds"])
        ways["no teacher"] = lambda: untaught(new_fits(alone, folder)[0], asked["fp32"])
    taken = in_turns(ways, repeats)
    seconds = {way: statistics.median(times) / steps for way, times in taken.items()}

    def times_faster(way: str, than: str, students: int = 1) -> float:
        """Median over the turns, in which both were timed one after the other."""
        return statistics.median(students * b / a for a, b in zip(taken[way], taken[than], strict=True))

    input_s = _median(lambda: asked["fp32"].inputs(0), 3 * repeats)
    student_s = max(seconds["single"] - input_s, 1e-9)
    aim = None if peer is not None else ">= 1.3"
    gain, limit = times_faster("cohort", "single", COHORT), limit_of(input_s, student_s)
    rows = [
        row(f"{name}: input I", 1e3 * input_s, "ms a batch"),
        row(f"{name}: student step S", 1e3 * student_s, "ms a batch"),
        row(f"{name}: cohort of 8 / 8 single runs from the store", gain, "x", aim),
        row(f"{name}: the same over its limit of {limit:.2f}", gain / limit, "share"),
    ]
    if peer is None:
        return rows
    rows.append(
        row(f"{name}: from the store / without a teacher", times_faster("single", "no teacher"), "x", ">= 0.97")
    )
    ready = asked["fp32"].inputs(0)[0]
    for kind, asking in asked.items():
        teacher_s = _median(partial(asking.said, ready), 3 * repeats)
        limit = limit_of(input_s, student_s, teacher_s)
        gain = times_faster("cohort", f"online, {kind}", COHORT)
        rows += [
            row(f"{name}: teacher T, {kind}", 1e3 * teacher_s, "ms a batch"),
            row(f"{name}: cohort of 8 / 8 online runs, {kind} teacher", gain, "x"),
            row(f"{name}: the same over its limit of {limit:.2f}", gain / limit, "share", ">= 0.9"),
            row(f"{name}: passes from which labelling pays, {kind}", 1 + input_s / teacher_s, "passes"),
        ]
    rows.append(row(f"{name}: cohort / one online cohort", times_faster("cohort", "online cohort"), "x"))
    rows.append(
        row(f"{name}: cohort of 8 / 8 runs of torchdistill", times_faster("cohort", "torchdistill", COHORT), "x")
    )
    return [*rows, *curve(name, input_s, student_s)]


def limit_of(input_s: float, student_s: float, teacher_s: float = 0.0) -> float:
    """How much faster students can be that share all input and ask no teacher, where single runs ask one."""
    return COHORT * (input_s + teacher_s + student_s) / (input_s + COHORT * student_s)


def curve(name: str, input_s: float, student_s: float) -> list[dict[str, Any]]:
    """What the store gives with its labelling counted: 8 students of 10 passes against 8 online runs.

    Labelling costs I + T a batch once, a cohort I + 8 S a pass, an online run I + T + S.
    """
    rows = []
    for ratio in RATIOS:
        teacher_s = ratio * student_s
        online_s = PASSES * COHORT * (input_s + teacher_s + student_s)
        store_s = input_s + teacher_s + PASSES * (input_s + COHORT * student_s)
        rows.append(row(f"{name}: {PASSES} passes, labelling counted, T = {ratio:g} S", online_s / store_s, "x"))
    return rows


def in_turns(ways: Mapping[str, Way], repeats: int) -> dict[str, list[float]]:
    """Seconds of each way, one after the other, after one round that does not count."""
    rounds = [{name: way() for name, way in ways.items()} for _ in range(repeats + 1)]
    return {name: [times[name] for times in rounds[1:]] for name in ways}


def stored(fits: list[Fit], feed: Feed) -> float:
    """Seconds of a cohort's own loop, its students built in it; nothing is committed."""
    started = time.perf_counter()
    train(fits, feed, lambda fit: None, lambda done: None, 1e9)
    return time.perf_counter() - started


def online(fits: list[Fit], asking: Online) -> float:
    """Seconds of students that step together, each step with the teacher's answer of that step."""
    started = _built(fits, asking.feed)
    for step in range(fits[0].student.steps):
        shared = asking.batch(step)
        for fit in fits:
            fit.labels = "teacher"
            fit.step(shared, None)
    return time.perf_counter() - started


def untaught(fit: Fit, asking: Online) -> float:
    """Seconds of the same student over the same inputs with a class for each row, and no teacher anywhere."""
    truth, alike = torch.arange(BATCH) % CLASSES, torch.ones(BATCH)
    started = _built([fit], asking.feed)
    for step in range(fit.student.steps):
        fit.step(None, LabelledBatch(asking.inputs(step)[0], truth, alike, {}))
    return time.perf_counter() - started


def _built(fits: list[Fit], feed: Feed) -> float:
    """The time before students were built: that counts on both sides."""
    started = time.perf_counter()
    for fit in fits:
        fit.meet(feed)
        fit.build()
    return started


def _median(work: Callable[[], Any], repeats: int) -> float:
    work()
    times = []
    for _ in range(repeats):
        started = time.perf_counter()
        work()
        times.append(time.perf_counter() - started)
    return statistics.median(times)


def make(pair: Pair, folder: Path, steps: int, augmentation: dict[str, Any]) -> CohortInputs:
    """A domain of noise, what the pair's teacher says of it, and eight students that differ in their seeds."""
    folder.mkdir(parents=True)
    context = Context(workspace=Place(str(folder / "workspace")), resources=Resources(mode="local"))
    task = Part.model_validate({"name": "image-classification", "image_size": pair.size, "channels": 3})

    def stage(name: str, inputs: Any) -> Any:
        return get_stage(name).run(context, inputs)

    draw = np.random.default_rng(0)
    pictures = draw.integers(0, 256, size=(ROWS, pair.size, pair.size, 3), dtype=np.uint8)
    np.savez(folder / NOISE, image=pictures)
    domain = stage("domains", DomainInputs(source=Source(arrays=str(folder / NOISE)), task=task, shard_rows=256))
    split = stage("splits", SplitInputs(samples=domain.samples, split=Split(train=0.8, validation=0.1, test=0.1))).split
    classes = tuple(f"class {number}" for number in range(CLASSES))
    model = Part(name=f"tests.bench.cohorts.models:{pair.teacher}")
    teacher = stage("teachers", TeacherInputs(task=task, model=model, classes=classes, way=GivenTeacher())).model
    labels = stage("labels", LabelsInputs(task=task, teacher=teacher, samples=domain.samples)).labels
    students = tuple(
        StudentInputs(
            name="s",
            model=Part(name=f"tests.bench.cohorts.models:{pair.student}"),
            method=Part(name="soft"),
            training=Training(),
            steps=steps,
            seed=seed,
            labels=labels,
        )
        for seed in range(COHORT)
    )
    stream = Stream(
        samples=domain.samples, split=split, batch_size=BATCH, labelled_batch_size=BATCH, augmentation=augmentation
    )
    return CohortInputs(task=task, classes=classes, stream=stream, students=students)


if __name__ == "__main__":
    main()
