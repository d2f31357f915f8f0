"""Cost of one model, measured in a process of its own: `python -m stages.evaluation.measure`, JSON in, JSON out.

Times are of the forward pass alone, on batches of real samples that already lie on the device.
"""

from __future__ import annotations

import ctypes
import gc
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.flop_counter import FlopCounterMode

from schemas.errors import CrossdistillError, DataError
from schemas.evaluation import Cost, CostInputs
from schemas.spec import Storage
from stages.artifacts import find_artifact
from stages.places import Place

BATCH = 32
WARM_UP = 5
"""Runs that are not timed."""
MEMORY_PASSES = 5
WEIGHTS = "model.safetensors"


def measure(inputs: CostInputs, storage: Storage) -> Cost:
    """Cost of the first candidate. Raises DataError or ModelError where it cannot be opened or fed."""
    from stages.domains.reader import Samples
    from stages.training.models import load_model

    torch.set_num_threads(inputs.host["threads"])
    device = _device(inputs.host["accelerator"])
    candidate = inputs.candidates[0]
    place = Place(candidate.model.uri, storage)
    model = load_model(place, candidate.model)
    samples = Samples.open(Place(inputs.samples.uri, storage), inputs.samples).only(
        model.task.reads(model.preprocessing)
    )
    # A domain of fewer rows than a batch is repeated.
    rows = np.arange(BATCH, dtype=np.int64) % samples.rows
    batch = model.task.batch(samples.gather(rows), model.preprocessing).to(device)
    return measure_module(model.module.to(device), batch, inputs.repeats, candidate.name, _weights_bytes(place))


def measure_module(module: torch.nn.Module, batch: torch.Tensor, repeats: int, name: str, size_bytes: int) -> Cost:
    """Cost of a module on a batch (32, ...) on its own device; latency on the batch's first row."""
    one = batch[:1]
    with torch.inference_mode():
        memory = peak_memory(module, batch)
        single = time_runs(lambda: module(one), repeats, batch.device)
        many = time_runs(lambda: module(batch), repeats, batch.device)
    return Cost(
        name=name,
        parameters=sum(parameter.numel() for parameter in module.parameters()),
        macs=count_macs(module, one),
        size_bytes=size_bytes,
        latency_ms=float(np.median(single)) * 1e3,
        latency_p95_ms=float(np.quantile(single, 0.95)) * 1e3,
        throughput=len(batch) / float(np.median(many)),
        peak_memory_bytes=memory,
    )


def count_macs(module: torch.nn.Module, one: torch.Tensor) -> int:
    """Multiply-accumulates of convolutions, matrix products and attention for one sample.

    Half of what torch counts as floating-point operations; element-wise work is not counted.
    """
    counter = FlopCounterMode(display=False)
    with torch.inference_mode(), counter:
        module(one)
    return int(counter.get_total_flops()) // 2


def time_runs(run: Callable[[], object], repeats: int, device: torch.device) -> list[float]:
    """Wall time of each of `repeats` runs in seconds, after warm-up."""
    seconds = []
    for index in range(WARM_UP + repeats):
        _synchronize(device)
        before = time.perf_counter()
        run()
        _synchronize(device)
        if index >= WARM_UP:
            seconds.append(time.perf_counter() - before)
    return seconds


def peak_memory(module: torch.nn.Module, batch: torch.Tensor) -> int | None:
    """Most bytes that a pass takes above what was held before it; None where the system does not tell.

    On a CPU: growth of the resident peak, the median of some passes. The first ones are not counted, since they load
    code and fill caches; what was freed is given back to the system before each, so that it is seen to be taken.
    """
    if batch.device.type == "cuda":
        module(batch)
        before = torch.cuda.memory_allocated(batch.device)
        torch.cuda.reset_peak_memory_stats(batch.device)
        module(batch)
        return int(torch.cuda.max_memory_allocated(batch.device) - before)
    for _ in range(2):
        module(batch)
    growth = []
    for _ in range(MEMORY_PASSES):
        try:
            before = _forget_peak()
        except (OSError, AttributeError):
            return None
        module(batch)
        growth.append(max(0, _status("VmHWM") - before))
    return int(np.median(growth))


def _forget_peak() -> int:
    """Give free memory back and let the resident peak start anew; the bytes that are held now. Linux with glibc."""
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    return _status("VmRSS")


def _status(key: str) -> int:
    """A line of /proc/self/status in bytes."""
    for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
        name, _, value = line.partition(":")
        if name == key:
            return int(value.split()[0]) * 1024
    raise DataError(f"/proc/self/status has no line {key}")


def _device(accelerator: str | None) -> torch.device:
    if accelerator is None:
        return torch.device("cpu")
    if not torch.cuda.is_available():
        raise DataError(
            f"this host has the accelerator {accelerator}, and torch {torch.__version__} does not find it: "
            "mend the driver, or hide the card with CUDA_VISIBLE_DEVICES=-1"
        )
    return torch.device("cuda", 0)


def _synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _weights_bytes(place: Place) -> int:
    """Bytes of the weights on disk; 0 for a factory that keeps none here."""
    artifact = find_artifact(place)
    objects = () if artifact is None else artifact.objects
    return sum(item.size for item in objects if item.name == WEIGHTS)


def main() -> None:
    """Read what is asked from standard input, answer on the last line of standard output."""
    asked: dict[str, Any] = json.load(sys.stdin)
    try:
        inputs = CostInputs.parse(asked["inputs"], "cost inputs")
        answer = measure(inputs, Storage.model_validate(asked["storage"])).dump()
    except CrossdistillError as error:
        answer = {"problems": list(error.problems)}
    sys.stdout.write("\n" + json.dumps(answer) + "\n")


if __name__ == "__main__":
    main()
