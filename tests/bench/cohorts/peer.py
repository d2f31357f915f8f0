"""torchdistill over the same pair: `python -m tests.bench.cohorts.peer TEACHER STUDENT FILE STEPS`, in its environment.

Answers each line of stdin with the seconds of one training, its data loader, box and student built in it. Written as
its examples are: a dataset in memory, torchvision's transforms row by row, `KDLoss` alone, one thread, no workers.
"""

from __future__ import annotations

import json
import os
import sys
import time
from importlib import import_module
from typing import Any

import numpy as np
import torch
import torchvision
from PIL import Image

from tests.bench.cohorts import models
from tests.bench.labels import set_allocator

BATCH = 64


class Pictures(torch.utils.data.Dataset[tuple[torch.Tensor, int]]):
    """Rows of uint8 (N, H, W, 3), flipped and moved as ours are, each with a class that nothing looks at."""

    def __init__(self, rows: np.ndarray[Any, Any]) -> None:
        changes = torchvision.transforms
        self._rows = rows
        self._change = changes.Compose(
            [
                changes.RandomHorizontalFlip(),
                changes.RandomAffine(0, translate=(0.1, 0.1)),
                changes.ToTensor(),
                changes.Normalize((0.5,) * 3, (0.5,) * 3),
            ]
        )

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, row: int) -> tuple[torch.Tensor, int]:
        return self._change(Image.fromarray(self._rows[row])), 0


def main() -> None:
    teacher, student, file, steps = sys.argv[1:]
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # it logs to stdout
    set_allocator()
    torch.set_num_threads(1)
    rows = Pictures(np.load(file)["image"])
    asked = getattr(models, teacher)(models.CLASSES).eval()
    for _ in sys.stdin:
        started = time.perf_counter()
        train(asked, getattr(models, student)(models.CLASSES), rows, int(steps))
        print(json.dumps({"seconds": time.perf_counter() - started}), file=answers, flush=True)


def train(teacher: torch.nn.Module, student: torch.nn.Module, rows: Pictures, steps: int) -> None:
    """Some steps of a student that its teacher answers in each."""
    box = import_module("torchdistill.core.distillation").DistillationBox(
        teacher, student, {"train": rows}, settings(), torch.device("cpu"), None, False, 1
    )
    done = 0
    while done < steps:
        box.pre_epoch_process(epoch=0)
        for batch, targets, more in box.train_data_loader:
            box.post_forward_process(loss=box.forward_process(batch, targets, more))
            done += 1
            if done == steps:
                break


def settings() -> dict[str, Any]:
    """What its YAML files say of one stage."""
    logits = {f"{which}_module_{key}": value for which in ("student", "teacher") for key, value in LOGITS.items()}
    soft = {"key": "KDLoss", "kwargs": {**logits, "temperature": 2.0, "alpha": None, "beta": 1.0}}
    way = {"forward_proc": "forward_batch_only"}
    return {
        "num_epochs": 1,
        "train_data_loader": {
            "dataset_id": "train",
            "sampler": {"class_or_func": torch.utils.data.RandomSampler, "kwargs": {}},
            "kwargs": {"batch_size": BATCH, "drop_last": True, "num_workers": 0},
        },
        "teacher": {"requires_grad": False, **way, "forward_hook": {"input": [], "output": []}},
        "student": {"requires_grad": True, **way, "forward_hook": {"input": [], "output": []}},
        "optimizer": {"key": "AdamW", "kwargs": {"lr": 1.0e-3}},
        "criterion": {"key": "WeightedSumLoss", "kwargs": {"sub_terms": {"soft": {"criterion": soft, "weight": 1.0}}}},
    }


LOGITS = {"path": ".", "io": "output"}

if __name__ == "__main__":
    main()
