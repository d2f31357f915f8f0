"""A training step of small picture models with channels last and first, in turns in one run.

This is what the fixed rule rests on: every student and teacher is trained with channels last.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable
from typing import Any

import torch

from schemas.base import Part
from stages.tasks import get_task
from stages.training.models import build
from tests.bench.students import in_turns, row

TASK = Part.model_validate({"name": "image-classification", "image_size": 64, "channels": 3})
MODELS = (
    "mobile-tiny",
    "resnet-small",
    "torchvision/resnet18",
    "torchvision/mobilenet_v3_small",
    "torchvision/shufflenet_v2_x0_5",
    "torchvision/squeezenet1_1",
    "timm/efficientnet_lite0",
    "timm/convnext_atto",
    "timm/repvgg_a0",
    "timm/vit_tiny_patch16_224",
)
BATCH, CLASSES = 32, 10


def bench(quick: bool = False) -> list[dict[str, Any]]:
    """Rows of the table: how often a step with channels last fits into one with channels first."""
    torch.set_num_threads(1)
    repeats, models = (1, MODELS[:1]) if quick else (7, MODELS)
    rows = []
    for name in models:
        formats = {"last": torch.channels_last, "first": torch.contiguous_format}
        seconds = in_turns({key: step_of(name, memory) for key, memory in formats.items()}, repeats)
        first, last = (statistics.median(seconds[key]) for key in ("first", "last"))
        rows.append(row(f"{name}, 64 px, batch {BATCH}: channels first / last", first / last, "ratio"))
    return rows


def step_of(name: str, memory: torch.memory_format) -> Callable[[], None]:
    """Forward, loss, backward and update of a model, a few times."""
    task = get_task(TASK)
    settings: dict[str, Any] = {"img_size": 64} if "vit" in name else {}
    model = build(task, Part.model_validate({"name": name, **settings}), CLASSES, task.Preprocessing())
    model = model.to(memory_format=memory)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, fused=True)
    inputs = torch.rand(BATCH, 3, 64, 64).to(memory_format=memory)
    truth = torch.arange(BATCH) % CLASSES

    def steps() -> None:
        for _ in range(3):
            optimizer.zero_grad(set_to_none=True)
            torch.nn.functional.cross_entropy(model(inputs), truth).backward()
            optimizer.step()

    return steps
