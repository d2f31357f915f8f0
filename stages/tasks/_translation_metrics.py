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

BLEU_NAME, CHRF_NAME, TOKENS = "bleu", "chrf", "tokens_right"
NAMES = (BLEU_NAME, CHRF_NAME, TOKENS)


def statistics(
    metric: str, said: Sequence[str], truth: Sequence[str], forced_B2: NDArray[np.int64], words: str
) -> NDArray[np.int64]:
    """What each sample adds to a metric, (B, N).

    bleu:          BLEU-4 (Papineni et al. 2002), `words` as sacrebleu's `tokenize` names them, smoothing `exp`.
    chrf:          chrF2 over characters up to 6 (Popovic 2015).
    tokens_right:  the truth's tokens that come first in the model's distribution, given the truth's tokens before
                   them, and all tokens of the truth: `forced_B2` itself.

    Raises SpecError for an unknown metric.
    """
    if metric == TOKENS:
        return forced_B2
    found = _metric(metric, words)._extract_corpus_statistics(said, [truth])  # as its own significance tests do
    return np.asarray(found, np.int64).reshape(len(said), -1)


def corpus_score(metric: str, statistics_BN: NDArray[np.int64], weights_WB: NDArray[np.int64]) -> NDArray[np.float64]:
    """A metric, from 0 to 1, under W weightings (whole numbers, each row with a positive sum): (W,)."""
    sums_WN = weights_WB @ statistics_BN
    if metric == TOKENS:
        return np.asarray(sums_WN[:, 0] / sums_WN[:, 1], np.float64)
    made = _metric(metric, "none")  # sums are of words already
    return np.array([made._compute_score_from_stats(row).score / 100 for row in sums_WN.tolist()])


def _metric(name: str, words: str) -> Metric:
    if name == BLEU_NAME:
        return BLEU(tokenize=words)
    if name == CHRF_NAME:
        return CHRF()
    raise SpecError(f"no metric is called '{name}'{did_you_mean(name, NAMES)}")
