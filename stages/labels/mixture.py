"""Several distributions over the same classes as one. Pure, in float64; no truth has a say.

`probability` is the mean of the distributions, `logit` that of their logarithms, normalised: a product of experts
(Hinton 2002), which keeps only what all of them allow. Both are taken at temperature 1.

Shapes: P teachers, N labels, C classes.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from schemas.labels import Space, Weights

Wide = NDArray[np.float64]
FLOOR = -69.0
"""Log of the smallest probability that is told apart from none (1e-30): a logit is finite."""


def label_weights(weights: Weights, logp_PNC: Wide, present_PN: NDArray[np.bool_]) -> Wide:
    """Weight (P, N) of each teacher in each label: 0 where it says nothing, the others' adding up to 1.

    `confidence`: in proportion to its own largest probability, which lies between 1 / C and 1.
    """
    if weights == "confidence":
        wanted = np.exp(logp_PNC.max(axis=2))
    else:
        wanted = np.repeat(np.array(weights, np.float64)[:, None], logp_PNC.shape[1], axis=1)
    wanted = np.where(present_PN, wanted, 0.0)
    return np.asarray(wanted / wanted.sum(axis=0))


def mixed(logp_PNC: Wide, weights_PN: Wide, space: Space) -> NDArray[np.float32]:
    """Logits (N, C) of the mean of some distributions; teachers of weight 0 may hold anything finite."""
    floored: Wide = np.maximum(logp_PNC, FLOOR)
    if space == "logit":
        answer = (weights_PN[:, :, None] * floored).sum(axis=0)
        top = answer.max(axis=1, keepdims=True)
        answer -= top + np.log(np.exp(answer - top).sum(axis=1, keepdims=True))
    else:
        answer = np.log((weights_PN[:, :, None] * np.exp(floored)).sum(axis=0))
    return np.asarray(np.maximum(answer, FLOOR), np.float32)
