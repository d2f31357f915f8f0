"""Sentences about fruit, tools or weather, said in one of two ways."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from tests.tasks.worlds.base import Row, World

WORDS = {
    "fruit": ["apple", "pear", "plum", "cherry", "grape"],
    "tools": ["hammer", "saw", "drill", "pliers", "file"],
    "weather": ["rain", "snow", "wind", "fog", "hail"],
}
FILLING = (["the", "a", "was", "seen", "here"], ["omg", "so", "much", "rt", "!!"])


def _rows(count: int, seed: int, domain: int) -> list[Row]:
    rng = np.random.default_rng(seed)
    rows = []
    for label in rng.choice(list(WORDS), count).tolist():
        words = [*rng.choice(WORDS[label], 3), *rng.choice(FILLING[domain], int(rng.integers(2, 9)))]
        rows.append({"text": " ".join(rng.permutation(words).tolist()), "label": label})
    return rows


def _write(path: Path, rows: Sequence[Row]) -> dict[str, str]:
    path = path.with_suffix(".jsonl")
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return {"jsonl": str(path)}


WORLD = World(
    config={"tokenizer": {"name": "words", "buckets": 512}, "tokens": 12},
    classes=tuple(WORDS),
    rows=_rows,
    write=_write,
    teacher="text-cnn",
    student="embedding-bag",
    augmentation={"drop": 0.3, "mask": 0.3},
    bad=(
        ({"text": None}, "not text"),
        ({"text": ""}, "empty"),
        ({"text": " \n\t "}, "empty"),
        ({"text": b"caf\xe9"}, r"not UTF-8 \(byte 4\)"),
        ({"text": 3.5}, "a float, not text"),
        ({"text": "half \ud83d"}, "lone surrogate"),
    ),
    models={"minilm": {"pretrained": False}},
)
