"""Translation's metrics against sacrebleu's figures of the corpus that a re-weighting stands for."""

from __future__ import annotations

import numpy as np
import pytest
import sacrebleu
from hypothesis import given, settings
from hypothesis import strategies as st

from schemas.errors import SpecError
from stages.tasks._translation_metrics import BLEU_NAME, CHRF_NAME, corpus_score, statistics

SAID = ["the cat sat on the mat", "a dog", "", "the the the the", "数据透视表的字段", "it is a fine day today"]
TRUTH = ["the cat sat upon the mat", "a dog barks", "empty", "the", "数据透视表字段", "it is a fine day today"]


def by_library(metric: str, said: list[str], truth: list[str], words: str) -> float:
    """Through the functions that sacrebleu offers to everyone."""
    if metric == BLEU_NAME:
        return float(sacrebleu.corpus_bleu(said, [truth], tokenize=words).score) / 100
    return float(sacrebleu.corpus_chrf(said, [truth]).score) / 100


@pytest.mark.parametrize("words", ["13a", "zh", "char"])
@pytest.mark.parametrize("metric", [BLEU_NAME, CHRF_NAME])
@settings(max_examples=25, deadline=None)
@given(weights=st.lists(st.integers(0, 3), min_size=len(SAID), max_size=len(SAID)).filter(any))
def test_a_reweighted_corpus_scores_as_the_library_says(metric: str, words: str, weights: list[int]) -> None:
    drawn = [row for row, times in enumerate(weights) for _ in range(times)]
    wanted = by_library(metric, [SAID[row] for row in drawn], [TRUTH[row] for row in drawn], words)
    rows = statistics(metric, SAID, TRUTH, words)
    both = np.array([weights, np.ones(len(SAID), int)])
    found = corpus_score(metric, rows, both)
    assert found[0] == pytest.approx(wanted, abs=1e-12)
    assert found[1] == pytest.approx(by_library(metric, SAID, TRUTH, words), abs=1e-12)


def test_chinese_has_no_words_between_spaces() -> None:
    rows = {words: statistics(BLEU_NAME, SAID[4:5], TRUTH[4:5], words) for words in ("13a", "zh")}
    once = np.ones((1, 1), np.int64)
    assert corpus_score(BLEU_NAME, rows["13a"], once) == 0
    assert corpus_score(BLEU_NAME, rows["zh"], once) > 0.5


def test_an_unknown_metric_is_named() -> None:
    with pytest.raises(SpecError, match="no metric is called 'blue'; did you mean 'bleu'"):
        statistics("blue", [""], [""], "13a")
