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
    """What trying a model gave, with its number of weights. Raises ModelError as `probe_key`."""
    problem, parameters = _try(inputs)
    return ProbeVerdict(key=probe_key(inputs), problem=problem, parameters=parameters)


def _try(inputs: ProbeInputs) -> tuple[str | None, int]:
    try:
        return _fed(inputs)
    except CrossdistillError as error:
        return "; ".join(error.problems), 0
    except (Exception, SystemExit) as error:  # noqa: BLE001 - a factory is a user's code and may raise anything
        what = " ".join(str(error).split())[:300]
        return f"model '{inputs.model.name}' fails on a batch: {type(error).__name__}: {what}", 0


def _fed(inputs: ProbeInputs) -> tuple[str | None, int]:
    import torch

    from stages.training.models import build, preprocessing_of
    from stages.training.penultimate import Penultimate
    from stages.training.weights import load_given

    task = get_task(inputs.task)
    preprocessing = preprocessing_of(task, inputs.preprocessing)
    network = build(task, inputs.model, len(inputs.classes), preprocessing).eval()
    if inputs.weights is not None:
        load_given(inputs.weights, network, inputs.strict, inputs.storage)
    parameters = sum(weight.numel() for weight in network.parameters())
    batch = task.fake_batch(ROWS, preprocessing)
    items = task.items(batch)
    wanted = (ROWS if items is None else int(items.sum()), len(inputs.classes))
    with torch.no_grad():
        outputs = network(batch)
    name, form = inputs.model.name, "x".join(map(str, batch.shape))
    if not isinstance(outputs, torch.Tensor):
        return f"model '{name}' gives {type(outputs).__name__}, not a tensor of logits", parameters
    if tuple(outputs.shape) != wanted:
        shape = "x".join(map(str, outputs.shape))
        return (
            f"model '{name}' gives {shape} for a batch of {form}, not {wanted[0]}x{wanted[1]}: "
            f"one logit for each of the {len(inputs.classes)} classes",
            parameters,
        )
    if not bool(torch.isfinite(outputs).all()):
        return f"model '{name}' gives outputs that are not finite for a batch of {form}", parameters
    if inputs.features:
        Penultimate(network, batch, len(inputs.classes), name)
    return None, parameters


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
