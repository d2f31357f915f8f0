"""What a divergence from sparse labels costs beside a plain cross-entropy: 512 x 32,000, top-64, one thread."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch.nn import functional

from schemas.encodings import TopK
from stages.labels.encodings import codec_of
from stages.students.sparse import sparse_divergence
from stages.students.teacher import SparseTeacher, teacher_rows
from tests.bench.labels import row

ROWS, CLASSES, KEPT = 512, 32_000, 64
TURNS = 15


def bench(quick: bool) -> list[dict[str, Any]]:
    """Forward and backward in turns; medians of the ratios to cross-entropy."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return _bench(3 if quick else TURNS)
    finally:
        torch.set_num_threads(threads)


def _bench(turns: int) -> list[dict[str, Any]]:
    rng = np.random.default_rng(0)
    exact = (rng.normal(size=(ROWS, CLASSES)) * 3).astype(np.float32)
    codec = codec_of(TopK(kind="top-k", k=KEPT), CLASSES)
    teacher = teacher_rows(codec.decode(codec.encode(exact, np.zeros((ROWS, 4), np.uint32))), None, torch.device("cpu"))
    assert isinstance(teacher, SparseTeacher)
    student = torch.from_numpy((rng.normal(size=(ROWS, CLASSES)) * 3).astype(np.float32)).requires_grad_()
    truth, target = torch.from_numpy(exact.argmax(axis=1)), functional.log_softmax(torch.from_numpy(exact), dim=1)
    losses: dict[str, Callable[[], torch.Tensor]] = {
        "plain": lambda: functional.cross_entropy(student, truth),
        "bucket, T = 1": lambda: sparse_divergence(student, teacher, 1.0, spread=False).mean(),
        "bucket, T = 2": lambda: sparse_divergence(student, teacher, 2.0, spread=False).mean(),
        "spread, T = 2": lambda: sparse_divergence(student, teacher, 2.0, spread=True).mean(),
        "dense kl_div, T = 1": lambda: functional.kl_div(
            functional.log_softmax(student, dim=1), target, reduction="batchmean", log_target=True
        ),
    }
    seconds: dict[str, list[float]] = {name: [] for name in losses}
    for turn in range(turns + 2):
        for name, loss in losses.items():
            student.grad = None
            started = time.perf_counter()
            loss().backward()
            if turn >= 2:
                seconds[name].append(time.perf_counter() - started)
    plain = seconds.pop("plain")
    found = []
    for name, times in seconds.items():
        ratio = statistics.median(one / other for one, other in zip(times, plain, strict=True))
        aim = None if name.startswith("dense") else "<= 1.3"
        found.append(row(f"loss over top-64 of 32,000, 512 rows ({name}), against cross-entropy", ratio, "x", aim))
    return found
