"""Metrics of translations under re-weighted samples, from what each sample adds to the corpus. No torch.

BLEU and chrF of a corpus are functions of sums over its sentences (matches and counts of n-grams, lengths). So a
bootstrap re-weights those sums; each value is the one that sacrebleu gives for a corpus in which each sentence stands
as often as it was drawn.

Shapes: B samples, N statistics of a sample, W re-weightings.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from sacrebleu.metrics.base import Metric
from sacrebleu.metrics.bleu import BLEU
from sacrebleu.metrics.chrf import CHRF

from schemas.errors import SpecError, did_you_mean

BLEU_NAME, CHRF_NAME = NAMES = ("bleu", "chrf")


def statistics(metric: str, said: Sequence[str], truth: Sequence[str], words: str) -> NDArray[np.int64]:
    """What each sample adds to a metric, (B, N).

    bleu:  BLEU-4 (Papineni et al. 2002), `words` as sacrebleu's `tokenize` names them, smoothing `exp`.
    chrf:  chrF2 over characters up to 6 (Popovic 2015).

    Raises SpecError for an unknown metric.
    """
    found = _metric(metric, words)._extract_corpus_statistics(said, [truth])  # as its own significance tests do
    return np.asarray(found, np.int64).reshape(len(said), -1)


def corpus_score(metric: str, statistics_BN: NDArray[np.int64], weights_WB: NDArray[np.int64]) -> NDArray[np.float64]:
    """A metric, from 0 to 1, under W weightings (whole numbers, each row with a positive sum): (W,)."""
    sums_WN = weights_WB @ statistics_BN
    made = _metric(metric, "none")  # sums are of words already
    return np.array([min(made._compute_score_from_stats(row).score / 100, 1.0) for row in sums_WN.tolist()])


def _metric(name: str, words: str) -> Metric:
    if name == BLEU_NAME:
        return BLEU(tokenize=words)
    if name == CHRF_NAME:
        return CHRF()
    raise SpecError(f"no metric is called '{name}'{did_you_mean(name, NAMES)}")
