"""The specs of `make rounds`: raw teachers in both directions between digit domains, where there is room to gain.

Settings of teachers and students are those of the demo, which were chosen by selection quality for one pass; no policy
has settings of its own chosen here.
"""

from __future__ import annotations

from typing import Any

DIRECTIONS = {"mnist to digits": ("mnist", "digits"), "digits to mnist": ("digits", "mnist")}
POLICIES: dict[str, Any] = {
    "adaptive": "adaptive",
    "migration": "migration",
    "co-training": "co-training",
    "bootstrap": "bootstrap",
    "born-again": "born-again",
}
LONG = "one pass, all steps"
SEEDS, MAX_ROUNDS, BUDGET = 5, 3, 50
STEPS, TEACHER_STEPS = 500, 1400
TASK: dict[str, Any] = {"name": "image-classification", "image_size": 16, "channels": 1, "scale": "max"}
DOMAINS: dict[str, dict[str, Any]] = {
    "mnist": {"from": {"example": "mnist-5k"}, "prepare": {"center_crop": 20}},
    "digits": {"from": {"example": "uci-digits"}},
}
AUGMENTED = {"rotate": 15, "translate": 0.12, "scale": [0.75, 1.2], "shear": 15}


def spec(source: str, target: str, policy: Any, steps: int, teacher_steps: int, max_rounds: int, seeds: int) -> Any:
    """One policy from a raw teacher; co-training has a second student, of another architecture."""
    split = {"train": 0.55, "validation": 0.17, "test": 0.28}
    training = {
        "steps": steps,
        "learning_rate": 4.0e-3,
        "augmentation": {"rotate": 10, "translate": 0.1, "scale": [0.85, 1.15], "shear": 10},
    }
    student = {
        "model": "mobile-tiny",
        "labels": "said",
        "method": {"name": "soft", "temperature": 2.0, "alpha": 0.9},
        "training": training,
        "seeds": seeds,
    }
    students = {"mobile": student}
    if policy == "co-training":
        students["resnet"] = student | {"model": {"name": "resnet-tiny", "width": 0.25}, "baselines": []}
    return {
        "version": 1,
        "name": f"rounds-{target}",
        "task": TASK,
        "resources": {"mode": "local"},
        "domains": {
            source: DOMAINS[source] | {"split": {"train": 0.9, "validation": 0.1}},
            target: DOMAINS[target] | {"split": split, "label_budget": {"train": BUDGET, "validation": 50}},
        },
        "teachers": {
            "raw": {
                "domains": [source],
                "model": "resnet-tiny",
                "training": {
                    "steps": teacher_steps,
                    "learning_rate": 4.0e-3,
                    "label_smoothing": 0.1,
                    "augmentation": AUGMENTED,
                },
            }
        },
        "labels": {"said": {"teacher": "raw", "domain": target}},
        "students": students,
        "rounds": {"policy": policy, "max_rounds": max_rounds, "patience": max_rounds},
        "evaluation": {"metrics": ["accuracy"], "bootstrap": 1000, "cost": False},
    }
