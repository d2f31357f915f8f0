"""Numbers from two to five digits, said in two invented tongues and written in a third."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from tests.tasks.worlds.base import Row, World

TONGUES = {
    "en": ["nil", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"],
    "fr": ["nul", "un", "deux", "trois", "quatre", "cinq", "six", "sept", "huit", "neuf"],
}
SIGNS = "零一二三四五六七八九"


def _rows(count: int, seed: int, domain: int) -> list[Row]:
    rng = np.random.default_rng(seed)
    rows = []
    for _ in range(count):
        digits = rng.integers(0, 10, int(rng.integers(2, 6))).tolist()
        marks = ("", "!")[domain]
        sides = {tongue: " ".join(words[digit] for digit in digits) + marks for tongue, words in TONGUES.items()}
        rows.append({**sides, "label": "".join(SIGNS[digit] for digit in digits) + ("。", "数。")[domain]})
    return rows


def _write(path: Path, rows: Sequence[Row]) -> dict[str, str]:
    path = path.with_suffix(".jsonl")
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return {"jsonl": str(path)}


WORLD = World(
    config={
        "sides": ["en", "fr"],
        "tokenizer": {"name": "words", "buckets": 256},
        "tokens": 6,
        "said_tokens": 8,
        "words": "char",
    },
    classes=(),
    rows=_rows,
    write=_write,
    teacher="marian",
    student="marian-light",
    augmentation={"drop": 0.5},
    bad=(
        ({}, "is empty: it has none of the sides en, fr"),
        ({"en": ""}, "the en is empty"),
        ({"en": "one", "fr": " \n"}, "the fr is empty"),
        ({"fr": 3.5}, "the fr is a float, not text"),
        ({"en": b"caf\xe9"}, r"not UTF-8 \(byte 4\)"),
    ),
    models={
        "marian": {"width": 64, "layers": 1, "decoder_layers": 1, "heads": 2, "dropout": 0.0},
        "marian-light": {"width": 48, "layers": 1, "heads": 2, "dropout": 0.0},
    },
    learning_rate=3e-3,
    steps=120,
)
