"""The worlds of `make rounds`: raw teachers where there is room to gain.

Settings of teachers and students are those of the examples, which were chosen by selection quality for one pass; no
policy has settings of its own chosen here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

POLICIES = ("adaptive", "migration", "co-training", "bootstrap", "born-again")
LONG = "one pass, all steps"
SEEDS, MAX_ROUNDS = 5, 3


@dataclass(frozen=True)
class World:
    """A source, a target, and how teacher and students are trained.

    Seconds are of one core of a machine of 2 (2026-11); the plan's time rests on them.
    """

    task: Mapping[str, Any]
    source: tuple[str, Mapping[str, Any]]
    target: tuple[str, Mapping[str, Any]]
    teacher: Mapping[str, Any]
    students: Mapping[str, Mapping[str, Any]]
    """The one that is compared, and the peer of another architecture that co-training takes beside it."""
    metric: str
    step_s: float
    """Of a student."""
    teacher_s: float
    """Of training a teacher, or of tuning two."""
    label_s: float
    """Of a teacher's pass over the target."""
    label_budget: Mapping[str, Any] = field(default_factory=lambda: {"train": 50, "validation": 50})

    @property
    def student(self) -> str:
        """The one that is compared."""
        return next(iter(self.students))

    @property
    def steps(self) -> int:
        """Steps of a student in one round."""
        return int(self.students[self.student]["training"]["steps"])


SPLIT = {"train": 0.55, "validation": 0.17, "test": 0.28}
SOFT = {"name": "soft", "temperature": 2.0, "alpha": 0.9}
MNIST = ("mnist", {"from": {"example": "mnist-5k"}, "prepare": {"center_crop": 20}})
DIGITS = ("digits", {"from": {"example": "uci-digits"}})
SHIFTED = {"rotate": 10, "translate": 0.1, "scale": [0.85, 1.15], "shear": 10}
MOBILE = {
    "model": "mobile-tiny",
    "method": SOFT,
    "training": {"steps": 500, "learning_rate": 4.0e-3, "augmentation": SHIFTED},
}
PICTURES: dict[str, Any] = {
    "task": {"name": "image-classification", "image_size": 16, "channels": 1, "scale": "max"},
    "teacher": {
        "model": "resnet-tiny",
        "training": {
            "steps": 1400,
            "learning_rate": 4.0e-3,
            "label_smoothing": 0.1,
            "augmentation": {"rotate": 15, "translate": 0.12, "scale": [0.75, 1.2], "shear": 15},
        },
    },
    "students": {"mobile": MOBILE, "resnet": MOBILE | {"model": {"name": "resnet-tiny", "width": 0.25}}},
    "metric": "accuracy",
    "step_s": 0.0045,
    "teacher_s": 45.0,
    "label_s": 2.0,
}
BAG = {
    "model": "embedding-bag",
    "method": SOFT,
    "training": {"steps": 400, "learning_rate": 1.0e-2, "augmentation": {"drop": 0.1}},
}
CNN = BAG | {"model": "text-cnn", "training": BAG["training"] | {"learning_rate": 2.0e-3}}  # type: ignore[operator]
WORLDS = {
    "mnist to digits": World(source=MNIST, target=DIGITS, **PICTURES),
    "mnist to digits, classes 5 to 9 without labels": World(
        source=MNIST,
        target=DIGITS,
        label_budget={"train": 50, "validation": 50, "without": ["5", "6", "7", "8", "9"]},
        **PICTURES,
    ),
    "digits to mnist": World(source=DIGITS, target=MNIST, **PICTURES),
    "reviews to tweets": World(
        task={"name": "text-classification", "tokenizer": "words", "tokens": 48},
        source=("reviews", {"from": {"example": "movie-reviews"}}),
        target=("tweets", {"from": {"example": "tweets"}}),
        teacher={
            "model": {"name": "minilm", "frozen": 6, "hidden": 128},
            "preprocessing": {"tokenizer": "minilm"},
            "training": {"steps": 150, "batch_size": 32, "learning_rate": 2.0e-3},
        },
        students={"bag": BAG, "cnn": CNN},
        metric="balanced_accuracy",
        step_s=0.004,
        teacher_s=45.0,
        label_s=40.0,
    ),
}
LANES = (
    ("reviews to tweets",),
    ("mnist to digits", "mnist to digits, classes 5 to 9 without labels"),
    ("digits to mnist",),
)
"""Worlds of one process and one workspace: what two of them have in common is made once."""


def spec(world: World, policy: str, seeds: int, rounds: int, steps: tuple[int, int] | None, times: int = 1) -> Any:
    """One policy from a raw teacher; co-training has a second student, of another architecture.

    Students take `times` their steps; `steps` of (students, teachers) take the place of all others.
    """
    (source, read), (target, spoken) = world.source, world.target

    def trained(part: Mapping[str, Any], which: int) -> dict[str, Any]:
        training = part["training"] | {"steps": steps[which] if steps else part["training"]["steps"]}
        training["steps"] *= 1 if which else times
        return dict(part) | {"training": training}

    peers = len(world.students) if policy == "co-training" else 1
    students = {
        name: trained(student, 0) | {"labels": "said", "seeds": seeds} | ({"baselines": []} if number else {})
        for number, (name, student) in enumerate(list(world.students.items())[:peers])
    }
    return {
        "version": 1,
        "name": f"rounds-{target}",
        "task": dict(world.task),
        "resources": {"mode": "local"},
        "domains": {
            source: {**read, "split": {"train": 0.9, "validation": 0.1}},
            target: {**spoken, "split": SPLIT, "label_budget": dict(world.label_budget)},
        },
        "teachers": {"raw": {"domains": [source], **trained(world.teacher, 1)}},
        "labels": {"said": {"teacher": "raw", "domain": target}},
        "students": students,
        "rounds": {"policy": policy, "max_rounds": rounds, "patience": rounds},
        "evaluation": {"metrics": [world.metric], "bootstrap": 1000, "cost": False},
    }
