"""Balance between classes and domains: what each row counts, by how many there are of its kind.

Shapes: N rows, B rows of a step.
"""

from __future__ import annotations

from collections.abc import Collection

import numpy as np
from numpy.typing import NDArray


def balanced_weights(
    truth_N: NDArray[np.int32], domain_N: NDArray[np.int64], between: Collection[str]
) -> NDArray[np.float64]:
    """What each row counts, (N,), with a mean of 1: inverse to the number of rows of its kind.

    classes:      1 / (rows of its class), over all domains.
    domains:      1 / (rows of its domain).
    both:         1 / (classes in its domain * rows of its class in its domain), so that domains count alike too.
    """
    if not len(truth_N):
        return np.ones(0)
    classes = truth_N.astype(np.int64) if "classes" in between else np.zeros(len(truth_N), np.int64)
    domains = domain_N if "domains" in between else np.zeros(len(truth_N), np.int64)
    cells, cell_N = np.unique(np.stack([domains, classes]), axis=1, return_inverse=True)
    cell_N = cell_N.reshape(-1)
    in_domain = (cells[0][:, None] == cells[0][None]).sum(axis=1)  # kinds in the domain of each kind
    weights = 1.0 / (in_domain * np.bincount(cell_N))[cell_N]
    return np.asarray(weights * len(weights) / weights.sum())


def drawn(weights_N: NDArray[np.float64], random: np.random.Generator, rows: int) -> NDArray[np.int64]:
    """Numbers of B rows, drawn with replacement, each as likely as it counts."""
    ends = np.cumsum(weights_N)
    found = np.searchsorted(ends, random.random(rows) * ends[-1], side="right")
    return np.asarray(found.clip(max=len(ends) - 1), np.int64)
