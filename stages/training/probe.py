"""Trying models before the work: each is built, given its weights, and fed one batch of two rows.

`python -m stages.training.probe` reads a JSON list of ProbeInputs and prints a ProbeVerdict a line, so that one
subprocess (two seconds for torch, then what the models take) tries all, and a factory that hangs or crashes takes no
caller with it. Verdicts hold as long as `probe_key` is the same; finding it loads no torch.
"""

from __future__ import annotations

import contextlib
import json
import sys
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from schemas.canonical import digest
from schemas.errors import CrossdistillError
from schemas.models import ProbeInputs, ProbeVerdict
from stages.tasks import get_task, task_code
from stages.training.weights import weights_digest

ROWS = 2
PACKAGES = ("crossdistill", "torch", "torchvision", "timm", "transformers", "tokenizers")
"""Packages whose version counts in a verdict."""


def probe_key(inputs: ProbeInputs) -> str:
    """Digest of all that a verdict rests on: what is tried, its source, its weights' bytes, versions of packages.

    Raises ModelError if the source or the weights are not there.
    """
    weights = None if inputs.weights is None else weights_digest(inputs.weights, inputs.storage)
    return digest(
        {
            "inputs": inputs,
            "weights": weights,
            "code": task_code(inputs.task, inputs.model),
            "versions": {name: _version(name) for name in PACKAGES},
        }
    )


def probe(inputs: ProbeInputs) -> str | None:
    """One sentence on what is wrong with a model, or None if it works."""
    return _try(inputs)[0]


def verdict(inputs: ProbeInputs) -> ProbeVerdict:
    """What trying a model gave, and what it is made of. Raises ModelError as `probe_key`."""
    problem, facts = _try(inputs)
    return ProbeVerdict(key=probe_key(inputs), problem=problem, **facts)


def _try(inputs: ProbeInputs) -> tuple[str | None, dict[str, Any]]:
    """(what is wrong, what a verdict says beside it)."""
    facts: dict[str, Any] = {}
    try:
        return _fed(inputs, facts), facts
    except CrossdistillError as error:
        return "; ".join(error.problems), facts
    except (Exception, SystemExit) as error:  # noqa: BLE001 - a factory is a user's code and may raise anything
        what = " ".join(str(error).split())[:300]
        return f"model '{inputs.model.name}' fails on a batch: {type(error).__name__}: {what}", facts


def _fed(inputs: ProbeInputs, facts: dict[str, Any]) -> str | None:
    import torch

    from stages.training.models import build, preprocessing_of
    from stages.training.penultimate import Penultimate
    from stages.training.weights import load_given

    task = get_task(inputs.task)
    preprocessing = preprocessing_of(task, inputs.preprocessing)
    network = build(task, inputs.model, len(inputs.classes), preprocessing).eval()
    if inputs.weights is not None:
        load_given(inputs.weights, network, inputs.strict, inputs.storage)
    facts["parameters"] = sum(weight.numel() for weight in network.parameters())
    facts["statistics"] = any(name.endswith("running_mean") for name in network.state_dict())
    batch = task.fake_batch(ROWS, preprocessing)
    items = task.items(batch)
    wanted = (ROWS if items is None else int(items.sum()), len(inputs.classes))
    with torch.no_grad():
        outputs = network(batch)
    name, form = inputs.model.name, "x".join(map(str, batch.shape))
    if not isinstance(outputs, torch.Tensor):
        return f"model '{name}' gives {type(outputs).__name__}, not a tensor of logits"
    if tuple(outputs.shape) != wanted:
        shape = "x".join(map(str, outputs.shape))
        return (
            f"model '{name}' gives {shape} for a batch of {form}, not {wanted[0]}x{wanted[1]}: "
            f"one logit for each of the {len(inputs.classes)} classes"
        )
    if not bool(torch.isfinite(outputs).all()):
        return f"model '{name}' gives outputs that are not finite for a batch of {form}"
    if inputs.features:
        Penultimate(network, batch, len(inputs.classes), name)
    return None


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def main() -> None:
    """Read ProbeInputs from stdin, print a ProbeVerdict a line as they come; what factories print goes to stderr."""
    for item in json.load(sys.stdin):
        with contextlib.redirect_stdout(sys.stderr):
            found = verdict(ProbeInputs.parse(item, "a model to try"))
        sys.stdout.write(found.model_dump_json() + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
