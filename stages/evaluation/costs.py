"""Stage `costs`: what each model costs on this host: weights, operations, bytes, time, memory.

The measuring runs alone: on Ray as one task that asks for every CPU of the driver's node (so it waits for a quiet
moment), and in either mode each model in a fresh process, so that none inherits another's memory.
Costs 5 to 10 s a model, most of it loading torch.
"""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

from schemas.base import Part
from schemas.errors import CrossdistillError, DataError, InternalError, ModelError
from schemas.evaluation import Cost, CostCandidate, CostInputs, CostOutputs, CostRef, CostTable
from schemas.spec import Storage
from stages.artifacts import objects_digest, outputs_of
from stages.base import Stage
from stages.context import Context
from stages.evaluation.reader import COST
from stages.progress import Reporter
from stages.tasks import task_code

THREADS = 1
"""Threads that a model is measured with on a CPU: what an edge device has, and steady on a shared machine."""
MODULE = "stages.evaluation.measure"


class CostStage(Stage[CostInputs, CostOutputs]):
    """Cost of every model on one host."""

    name = "costs"
    version = 1
    Inputs = CostInputs
    Outputs = CostOutputs

    def code(self, inputs: CostInputs) -> dict[str, str]:
        """Sources of the tasks and of the user's factories; a model of no stated architecture counts by itself."""
        code: dict[str, str] = {}
        for candidate in inputs.candidates:
            parts = {key: candidate.architecture.get(key) for key in ("task", "model")}
            if parts["task"] is None:
                code[f"model {candidate.name}"] = candidate.model.digest
            else:
                model = None if parts["model"] is None else Part.model_validate(parts["model"])
                code |= task_code(Part.model_validate(parts["task"]), model)
        return code

    def run(self, context: Context, inputs: CostInputs) -> CostOutputs:
        """Measure one model after the other.

        Raises DataError if the inputs speak of another host than this one, ModelError if a model fails.
        """
        if (found := self.find(context, inputs)) is not None:
            return found
        here = host_description()
        if inputs.host != here:
            raise DataError(f"these inputs ask for costs on {inputs.host}, and this host is {here}: measure there")
        costs = _measure(context, inputs)
        table = CostTable(host=inputs.host, costs=tuple(costs))
        attempt = self.attempt(context, inputs)
        attempt.put(COST, table.to_json())
        ref = CostRef(uri=attempt.folder.uri, fingerprint=attempt.fingerprint, digest=objects_digest(attempt.objects))
        artifact = attempt.commit(CostOutputs(cost=ref, table=table))
        return outputs_of(artifact, attempt.folder, CostOutputs)

    def example(self) -> CostInputs:
        """One model on this host."""
        ref = {"uri": "WORKSPACE/artifacts/STAGE/FINGERPRINT", "fingerprint": "0" * 32, "digest": "0" * 32}
        return CostInputs.model_validate(
            {"candidates": [{"name": "mobile", "model": ref}], "samples": ref, "host": host_description()}
        )


def host_description() -> dict[str, Any]:
    """What figures of cost hold for: processor, cores, threads used, accelerator, version of torch.

    Two small reads; loads no torch. Names no machine.
    """
    torch = version("torch")
    return {
        "processor": _processor(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "threads": THREADS,
        "accelerator": None if torch.endswith("+cpu") else _accelerator(),
        "torch": torch,
    }


def measure_all(inputs: CostInputs, storage: Storage, reporter: Reporter) -> list[Cost]:
    """Cost of each candidate, each in a process of its own. Raises ModelError with what went wrong in it."""
    costs = []
    for candidate in inputs.candidates:
        costs.append(_measure_apart(inputs, candidate, storage))
        reporter.progress(len(costs), len(inputs.candidates), "models")
    return costs


def _measure(context: Context, inputs: CostInputs) -> list[Cost]:
    if context.local:
        return measure_all(inputs, context.storage, context.reporter())
    import ray
    from ray.exceptions import RayError
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    node = ray.get_runtime_context().get_node_id()
    offered = next(item["Resources"] for item in ray.nodes() if item["NodeID"] == node)
    # The described host is the driver's; where its node offers Ray no CPU, nothing else of Ray runs there anyway.
    task = ray.remote(measure_all).options(
        num_cpus=offered.get("CPU", 0),
        num_gpus=offered.get("GPU", 0),
        max_retries=0,
        scheduling_strategy=NodeAffinitySchedulingStrategy(node, soft=False),
    )
    try:
        costs: list[Cost] = ray.get(task.remote(inputs, context.storage, context.reporter()))
    except RayError as error:
        cause = getattr(error, "cause", error)
        if isinstance(cause, CrossdistillError):
            raise cause from None
        raise InternalError(f"{context.step}: costs could not be measured: {cause!r}") from error
    return costs


def _measure_apart(inputs: CostInputs, candidate: CostCandidate, storage: Storage) -> Cost:
    """Run `stages.evaluation.measure` on one candidate: JSON in, JSON out."""
    asked = {"inputs": inputs.model_copy(update={"candidates": (candidate,)}).dump(), "storage": storage.dump()}
    # Large allocator thresholds, which we set for training, would hide memory and flatter times.
    environment = {name: value for name, value in os.environ.items() if not name.startswith("MALLOC_")}
    environment |= {
        "OMP_NUM_THREADS": str(THREADS),
        "PYTHONPATH": os.pathsep.join(str(Path(entry).absolute()) for entry in sys.path),
    }
    done = subprocess.run(
        [sys.executable, "-P", "-m", MODULE],
        input=json.dumps(asked),
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    failed = f"the cost of '{candidate.name}' could not be measured"
    try:
        answer = json.loads(done.stdout.splitlines()[-1])
    except (ValueError, IndexError):
        last = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
        raise ModelError(f"{failed}: {last}") from None
    if "problems" in answer:
        raise ModelError(*(f"{failed}: {line}" for line in answer["problems"]))
    return Cost.model_validate(answer)


def _processor() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.is_file():
        for line in cpuinfo.read_text(encoding="utf-8", errors="replace").splitlines():
            key, _, value = line.partition(":")
            if key.strip() == "model name":
                return value.strip()
    return platform.processor() or platform.machine()


def _accelerator() -> str | None:
    """Model of the first NVIDIA card as its driver tells it; None where there is no driver, or cards are hidden."""
    if os.environ.get("CUDA_VISIBLE_DEVICES") in ("", "-1"):
        return None
    for card in sorted(Path("/proc/driver/nvidia/gpus").glob("*/information")):
        for line in card.read_text(encoding="utf-8", errors="replace").splitlines():
            key, _, value = line.partition(":")
            if key.strip() == "Model":
                return value.strip()
    return None


COSTS = CostStage()
