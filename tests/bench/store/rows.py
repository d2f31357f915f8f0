"""The rows that every library keeps and reads: top-32 labels of 1,000 classes, alone or with 64 px pictures.

Loads numpy alone, so that it runs in the peers' environment too. Random and seeded: 140 bytes of labels and a key of
8 a row, and 12,288 bytes of pixels.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

CLASSES, KEPT, TEMPERATURES = 1000, 32, (1.0, 2.0, 4.0)
PIXELS = (64, 64, 3)
KEY = "key"
LABELS = ("ids", "values", "tail")
Batch = dict[str, np.ndarray]


def make(folder: Path, rows: int, pixels: bool) -> None:
    """Write the rows, an array a file: ids uint16 (N, 32), values float16 (N, 32), tail float32 (N, 3), key int64 (N,)
    and, if asked for, pixels uint8 (N, 64, 64, 3)."""
    rng = np.random.default_rng(0)
    folder.mkdir(parents=True)
    starts = rng.integers(0, CLASSES, (rows, 1))
    ids = (starts + np.arange(KEPT) * 7) % CLASSES
    made = {
        "ids": ids.astype("<u2"),
        "values": -np.sort(-rng.normal(4, 3, (rows, KEPT)), axis=1).astype("<f2"),
        "tail": rng.normal(2, 1, (rows, len(TEMPERATURES))).astype("<f4"),
        KEY: np.arange(rows, dtype="<i8"),
    }
    if pixels:
        made["pixels"] = rng.integers(0, 256, (rows, *PIXELS), dtype=np.uint8)
    for name, values in made.items():
        np.save(folder / f"{name}.npy", values)


def load(folder: Path) -> Batch:
    """The rows, mapped."""
    return {path.stem: np.load(path, mmap_mode="r") for path in sorted(folder.glob("*.npy"))}


def same(batch: Batch, rows: Batch) -> bool:
    """Whether a batch holds what its keys stand for."""
    keys = batch[KEY]
    return all(np.array_equal(np.asarray(batch[name]), values[keys]) for name, values in rows.items())
