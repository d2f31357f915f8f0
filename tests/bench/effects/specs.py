"""The specs of `make effects`: one a direction and label budget, in one workspace a direction.

Two teachers of other seeds, carried over to the target by its batch statistics, and the control that tells what the
*source* added: teachers of the same kind trained on the target's label budget alone, one for each draw of it. The
students' own settings are those of the demo, which were chosen by selection quality for `soft`; no method has settings
of its own chosen here.
"""

from __future__ import annotations

from typing import Any

BUDGETS = (0, 10, 50, 200)
DIRECTIONS = {"mnist to digits": ("mnist", "digits"), "digits to mnist": ("digits", "mnist")}
TEACHER_SEEDS = (0, 1)
SEEDS = (0, 1, 2)
STEPS, TEACHER_STEPS, CONTROL_STEPS = 300, 1400, 600
"""Steps of a student, of a teacher, and of one that has the label budget alone: 190 epochs of 200 labels and more."""
CONTROL = "own"
"""Name of the student whose teachers never saw the source."""
SOFT = {"name": "soft", "temperature": 2.0, "alpha": 0.9}


def beside(name: str, weight: float = 1.0, **settings: Any) -> list[dict[str, Any]]:
    """Soft labels, and another method beside them."""
    return [SOFT, {"name": name, "weight": weight, "alpha": 0.9, **settings}]


METHODS: dict[str, Any] = {
    "soft": SOFT,
    "hard": {"name": "hard", "alpha": 0.9},
    "margin": {"name": "margin", "alpha": 0.9},
    "combined": [
        {"name": "soft", "temperature": 2.0, "alpha": 0.9, "weight": 0.7},
        {"name": "margin", "alpha": 0.9, "weight": 0.3},
    ],
    "hard-examples": {"name": "hard-examples", "temperature": 2.0, "alpha": 0.9},
    "confident": {"name": "confident", "alpha": 0.9, "threshold": 0.8, "balance": 0.5},
    "adaptive-attention": {"name": "adaptive-attention", "alpha": 0.9},
    "attention-transfer": beside("attention-transfer", weight=10.0),
    "graph-attention": {"name": "graph-attention", "alpha": 0.9},
    "relational": beside("relational", weight=0.1),
    "features": beside("features"),
    "crd": beside("crd", weight=0.8),
    "dkd": {"name": "dkd", "alpha": 0.9},
    "dist": {"name": "dist", "alpha": 0.9},
    "logit-standardisation": {"name": "logit-standardisation", "alpha": 0.9},
    "adversarial": beside("adversarial", weight=0.1),
    "domain-adversarial": beside("domain-adversarial", weight=0.1),
    "adaptive": {"name": "adaptive", "temperature": 2.0, "alpha": 0.9},
    "mutual": {"name": "mutual", "temperature": 2.0, "alpha": 0.9, "peers": [{"name": "mobile-tiny"}]},
    "consistency": {"name": "consistency", "temperature": 2.0, "alpha": 0.9},
}
"""Methods by the name that the table shows; weights beside `soft` are the papers', as far as they give any."""

ON_VIEWS = ("consistency",)
"""Methods that read stored views, which are drawn as the others' augmentation is."""

DOMAINS: dict[str, dict[str, Any]] = {
    "mnist": {"from": {"example": "mnist-5k"}, "prepare": {"center_crop": 20}},
    "digits": {"from": {"example": "uci-digits"}},
}
AUGMENTED = {"rotate": 15, "translate": 0.12, "scale": [0.75, 1.2], "shear": 15}
AUGMENTED_LESS = {"rotate": 10, "translate": 0.1, "scale": [0.85, 1.15], "shear": 10}


def teacher(domain: str, seed: int, steps: int) -> dict[str, Any]:
    """The demo's teacher."""
    training = {
        "steps": steps,
        "learning_rate": 4.0e-3,
        "label_smoothing": 0.1,
        "augmentation": AUGMENTED,
    }
    return {"domains": [domain], "model": "resnet-tiny", "seed": seed, "training": training}


def spec(source: str, target: str, budget: int, methods: dict[str, Any], steps: int, teacher_steps: int) -> Any:
    """One spec; students are `METHOD.tN` by the seed of their teacher, and `own.sN` by the draw of the budget."""
    split = {"train": 0.55, "validation": 0.17, "test": 0.28}
    training = {"steps": steps, "learning_rate": 4.0e-3, "augmentation": AUGMENTED_LESS}
    teachers: dict[str, Any] = {}
    labels: dict[str, Any] = {}
    students: dict[str, Any] = {}
    for seed in TEACHER_SEEDS:
        teachers[f"raw{seed}"] = teacher(source, seed, teacher_steps)
        teachers[f"fit{seed}"] = {"from": f"raw{seed}", "adapt": {"method": "batch-norm", "domain": target}}
        labels[f"said{seed}"] = {"teacher": f"fit{seed}", "domain": target, "features": "float16"}
        if set(ON_VIEWS) & set(methods):
            views = {"count": 4, "settings": AUGMENTED_LESS}
            labels[f"viewed{seed}"] = {"teacher": f"fit{seed}", "domain": target, "views": views}
        for name, method in methods.items():
            said = f"{'viewed' if name in ON_VIEWS else 'said'}{seed}"
            student = {"model": "mobile-tiny", "labels": said, "method": method, "training": training}
            students[f"{name}.t{seed}"] = student | {"seeds": list(SEEDS)}
    for seed in SEEDS if budget else ():
        teachers[f"own{seed}"] = teacher(target, seed, min(teacher_steps, CONTROL_STEPS))
        labels[f"own{seed}"] = {"teacher": f"own{seed}", "domain": target}
        student = {"model": "mobile-tiny", "labels": f"own{seed}", "method": SOFT, "training": training}
        students[f"{CONTROL}.s{seed}"] = student | {"seeds": [seed]}
    return {
        "version": 1,
        "name": f"effects-{target}-{budget}",
        "task": {"name": "image-classification", "image_size": 16, "channels": 1, "scale": "max"},
        "resources": {"mode": "local"},
        "domains": {
            source: DOMAINS[source] | {"split": {"train": 0.9, "validation": 0.1}},
            target: DOMAINS[target] | {"split": split, "label_budget": {"train": budget, "validation": 50}},
        },
        "teachers": teachers,
        "labels": labels,
        "students": students,
        "evaluation": {"metrics": ["accuracy"], "bootstrap": 500, "cost": False},
    }
