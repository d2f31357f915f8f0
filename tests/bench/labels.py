"""What the label store costs: labelling against a bare PyTorch loop, gathering against a bare memory map."""

from __future__ import annotations

import ctypes
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torchvision.models import resnet18

from schemas.encodings import Encoding, TopK
from schemas.labels import UnitPlan, UnitResult
from stages.cluster import WORKER_ENV
from stages.labels.actor import label_units
from stages.labels.builder import How, Said, UnitBuilder
from stages.labels.labeller import Labeller
from stages.labels.reader import LabelSet
from stages.labels.sets import complete_set
from stages.labels.store import About, Store, fidelity_threshold
from stages.places import Place
from tests.labels.fakes import NOBODY, FakeSamples, OracleTeacher, inputs_for, plan_for

BATCH, CLASSES, SIZE = 128, 1000, 64
TURNS = 2


def bench(quick: bool = False, seconds: float | None = None) -> list[dict[str, Any]]:
    """Rows of the table. `seconds` is the work of one turn of the bare loop: a minute, 8 s if `quick`."""
    set_allocator()
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return [
            *labelling(seconds or (8 if quick else 60)),
            *encoding(3 if quick else 15),
            *gathering(2 if quick else 10),
            *streaming(2 if quick else 10),
        ]
    finally:
        torch.set_num_threads(threads)


class Pictures(FakeSamples):
    """The same shard of random pictures, under as many names as asked for."""

    def __init__(self, shards: int, rows: int) -> None:
        super().__init__((rows,) * shards, width=1)
        self._pictures = np.random.default_rng(0).integers(0, 255, (rows, SIZE, SIZE, 3)).astype(np.uint8)

    def read(self, shard: int) -> dict[str, Any]:
        return {"x": self._pictures}


class PictureTeacher(OracleTeacher):
    """ResNet-18 with random weights, 1,000 classes, 64 px."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.module = resnet18(num_classes=CLASSES).eval()
        self.task = self

    def batch(self, packed: Any, preprocessing: Any) -> torch.Tensor:
        return torch.from_numpy(packed["x"].transpose(0, 3, 1, 2).copy()).float() / 255

    def answer(self, batch: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return self.module(batch), torch.zeros(len(batch))


def labelling(seconds: float) -> list[dict[str, Any]]:
    """Rows per second of the stage's labeller, and of the loop that one would write without it."""
    teacher, pictures = PictureTeacher(), Pictures(1, BATCH).read(0)

    def bare(batches: int) -> list[np.ndarray]:
        with torch.inference_mode():
            return [teacher.module(teacher.batch(pictures, None)).numpy() for _ in range(batches)]

    bare(1)
    per_batch = timed(lambda: bare(2)) / 2
    batches = max(2, int(seconds / per_batch / 4))  # of each of four shards
    samples = Pictures(4, batches * BATCH)

    def ours() -> None:
        with tempfile.TemporaryDirectory() as folder:
            label_all(Path(folder), samples, teacher, CLASSES, BATCH)

    pairs = [(timed(lambda: bare(4 * batches)), timed(ours)) for _ in range(TURNS)]
    bare_s, ours_s = (statistics.median(times) for times in zip(*pairs, strict=True))
    ratio = statistics.median(bare_time / ours_time for bare_time, ours_time in pairs)
    return [
        row("labelling, ResNet-18 at 64 px, 1,000 classes", samples.rows / ours_s, "rows/s", None),
        row("bare PyTorch loop over the same batches, nothing kept on disk", samples.rows / bare_s, "rows/s", None),
        row(f"labelling against the bare loop, {bare_s:.0f} s a turn, in turns", ratio, "ratio", ">= 0.97"),
    ]


def encoding(turns: int) -> list[dict[str, Any]]:
    """What the encoder of a labeller takes beside its teacher: top-32, as in a set of a million rows; in turns."""
    teacher, samples = PictureTeacher(), Pictures(1, 16 * BATCH)
    pictures = {"x": samples.read(0)["x"][:BATCH]}
    asked = plan_for(samples, inputs_for(TopK(kind="top-k", k=32), batch_size=BATCH), _classes(CLASSES))
    how = How(asked.label_schema, "float32", BATCH, fidelity_threshold(10**6))

    def answer() -> np.ndarray:
        with torch.inference_mode():
            logits: np.ndarray = teacher.module(teacher.batch(pictures, None)).numpy()
            return logits

    logits = answer()

    def encode() -> None:
        builder = UnitBuilder(how, asked.units[0], samples.sample_ids(0), samples.content_ids(0))
        for part in builder.batches():
            builder.add(part, Said(logits))
        builder.finish()

    encode()
    pairs = [(timed(encode) / 16, timed(answer)) for _ in range(turns)]
    share = statistics.median(100 * encoder / model for encoder, model in pairs)
    return [row("encoder's share of labelling, top-32 of 1,000 classes, ResNet-18 at 64 px", share, "%", "< 3")]


def gathering(epochs: int) -> list[dict[str, Any]]:
    """Rows per second of shuffled batches of 256, against numpy on one memory map of the same rows."""
    rows: list[dict[str, Any]] = []
    for classes in (10, 1000):
        with tempfile.TemporaryDirectory() as folder:
            gather, decode, bare = gather_rates(Path(folder), classes, epochs)
        rows += [
            row(f"gather, {classes} classes in float16, as stored", gather, "rows/s", None),
            row(f"gather, {classes} classes in float16, decoded", decode, "rows/s", None),
            row(f"numpy memory map of the same rows, {classes} classes", bare, "rows/s", None),
            row(f"gather against the memory map, {classes} classes, in turns", gather / bare, "ratio", None),
        ]
    return rows


def gather_rates(folder: Path, classes: int, epochs: int) -> list[float]:
    """Best rows per second over the epochs: as stored, decoded, and of numpy alone."""
    samples = FakeSamples((4096,) * 8, width=classes)
    label_all(folder / "store", samples, OracleTeacher(), classes, 1024)
    labels = LabelSet.open(str(folder / "store"))
    np.save(folder / "whole.npy", labels.gather(np.arange(samples.rows))["logits"])
    whole = np.load(folder / "whole.npy", mmap_mode="r")
    order = np.random.default_rng(0).permutation(samples.rows)

    def epoch(read: Callable[[np.ndarray], Any]) -> float:
        started = time.perf_counter()
        for start in range(0, samples.rows, 256):
            read(order[start : start + 256])
        return samples.rows / (time.perf_counter() - started)

    readers: list[Callable[[np.ndarray], Any]] = [labels.gather, labels.logits, whole.__getitem__]
    turns = [[epoch(read) for read in readers] for _ in range(epochs)]
    return [max(rates) for rates in zip(*turns, strict=True)]


class Vectors(FakeSamples):
    """The same shard of random logits, under as many names as asked for."""

    def __init__(self, shards: int, rows: int) -> None:
        super().__init__((rows,) * shards, width=1)
        self._vectors = np.random.default_rng(0).normal(size=(rows, CLASSES)).astype("f4") * 3

    def read(self, shard: int) -> dict[str, Any]:
        return {"x": self._vectors}


def streaming(epochs: int) -> list[dict[str, Any]]:
    """Rows per second of shuffled epochs of top-32 labels (ids, values, tails: 140 bytes) in batches of 256, warm.

    Against numpy on memory maps of the same three arrays, in turns; both with one core.
    """
    cores = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(cores)})
    try:
        with tempfile.TemporaryDirectory() as folder:
            ours, decoded, bare = stream_rates(Path(folder), epochs)
    finally:
        os.sched_setaffinity(0, cores)
    return [
        row("shuffled epoch of top-32 labels of 1,000 classes (`batches`), one core", ours, "rows/s", ">= 2,500,000"),
        row("the same, decoded at temperature 2", decoded, "rows/s", None),
        row("numpy memory maps of the same arrays, one core", bare, "rows/s", None),
        row("`batches` against the memory maps, in turns", ours / bare, "ratio", ">= 0.5"),
    ]


def stream_rates(folder: Path, epochs: int) -> list[float]:
    """Median rows per second over the epochs: as stored, decoded, and of numpy alone."""
    samples = Vectors(24, 16_384)
    encoding = TopK(kind="top-k", k=32)
    label_all(folder / "store", samples, OracleTeacher(), CLASSES, 2048, encoding)
    labels = LabelSet.open(str(folder / "store"))
    whole = labels.gather(np.arange(samples.rows))
    for name, values in whole.items():
        np.save(folder / f"{name}.npy", values)
    maps = [np.load(folder / f"{name}.npy", mmap_mode="r") for name in whole]

    def stored(epoch: int) -> None:
        assert sum(len(batch["position"]) for batch in labels.batches(256, epoch=epoch)) == samples.rows

    def decoded(epoch: int) -> None:
        for batch in labels.batches(256, epoch=epoch):
            labels.decode(batch).log_probabilities(2.0)

    def bare(epoch: int) -> None:
        order = np.random.default_rng(epoch).permutation(samples.rows)
        for start in range(0, samples.rows, 256):
            rows = order[start : start + 256]
            for values in maps:
                values[rows]

    stored(0)
    turns = [[samples.rows / timed(partial(read, epoch)) for read in (stored, bare)] for epoch in range(1, epochs + 1)]
    ours, numpy = (statistics.median(rates) for rates in zip(*turns, strict=True))
    return [ours, samples.rows / timed(lambda: decoded(0)), numpy]


def label_all(
    folder: Path,
    samples: FakeSamples,
    teacher: OracleTeacher,
    classes: int,
    batch_size: int,
    encoding: Encoding | None = None,
) -> None:
    """A whole set in a new store, as the stage makes it in local mode."""
    inputs = inputs_for(encoding, batch_size=batch_size)
    plan = plan_for(samples, inputs, _classes(classes))
    how = How(plan.label_schema, inputs.precision, batch_size, plan.fidelity_threshold)
    store = Store.create(Place(str(folder)))

    def label(units: Sequence[UnitPlan]) -> Iterator[UnitResult]:
        return label_units(Labeller(store, samples, teacher, how), units)

    complete_set(store, plan, label, About(NOBODY, NOBODY))


def _classes(count: int) -> tuple[str, ...]:
    return tuple(f"class {number}" for number in range(count))


def set_allocator() -> None:
    """The allocator's thresholds that every worker has, for both sides of the comparison (glibc only)."""
    libc = ctypes.CDLL(None)
    for option, name in ((-3, "MALLOC_MMAP_THRESHOLD_"), (-1, "MALLOC_TRIM_THRESHOLD_")):
        if hasattr(libc, "mallopt"):
            libc.mallopt(option, int(WORKER_ENV[name]))


def row(what: str, value: float, unit: str, aim: str | None) -> dict[str, Any]:
    return {"what": what, "value": value, "unit": unit, "aim": aim}


def timed(work: Callable[[], Any]) -> float:
    """Seconds that the work takes."""
    started = time.perf_counter()
    work()
    return time.perf_counter() - started
