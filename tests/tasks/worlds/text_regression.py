"""Sentences that are as good as the one of their words that says so."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from tests.tasks.worlds.base import Row
from tests.tasks.worlds.text_classification import FILLING
from tests.tasks.worlds.text_classification import WORLD as CLASSES

WORDS = {"awful": 0.03, "poor": 0.27, "fair": 0.52, "good": 0.74, "superb": 0.98}


def _rows(count: int, seed: int, domain: int) -> list[Row]:
    rng = np.random.default_rng(seed)
    rows = []
    for word in rng.choice(list(WORDS), count).tolist():
        words = [word, word, *rng.choice(FILLING[domain], int(rng.integers(2, 9)))]
        rows.append({"text": " ".join(rng.permutation(words).tolist()), "label": WORDS[word]})
    return rows


WORLD = replace(
    CLASSES,
    config={**CLASSES.config, "low": 0, "high": 1, "bins": 11},
    classes=(),
    rows=_rows,
    by_heart=0.9,
)
