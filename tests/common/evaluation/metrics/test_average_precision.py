"""Average precision and top-k accuracy equal scikit-learn's."""

import numpy as np
import pytest

from common.evaluation.metrics.average_precision import (
    average_precision,
    mean_average_precision,
    top_k_accuracy,
)
from tests.common.evaluation.metrics.fixtures import official


def test_two_hundred_tables_have_the_official_precision_equal_scores_included():
    cases = official("average_precision")
    assert len(cases) == 200
    for case in cases:
        scores, labels = np.array(case["scores"]), np.array(case["labels"], dtype=bool)
        each = [average_precision(scores[:, n], labels[:, n]) for n in range(labels.shape[1])]
        assert each == pytest.approx(case["each"], rel=1e-12)
        assert mean_average_precision(scores, labels) == pytest.approx(case["mean"], rel=1e-12)


def test_a_hundred_tables_have_the_official_top_1_and_top_2_accuracy():
    cases = [case for case in official("average_precision") if case["top"] is not None]
    assert len(cases) == 100
    for case in cases:
        first = np.array(case["labels"]).argmax(axis=1).tolist()
        scores = np.array(case["scores"])
        found = [top_k_accuracy(scores, first, k=k) for k in (1, 2)]
        assert found == pytest.approx(case["top"])


def test_a_class_without_clips_counts_for_nothing_and_broken_scores_are_refused():
    scores = np.array([[0.9, 0.1], [0.2, 0.8], [0.4, 0.3]])
    labels = np.array([[True, False], [False, False], [True, False]])
    assert mean_average_precision(scores, labels) == 1.0
    with pytest.raises(ValueError, match="finite scores"):
        average_precision(np.array([0.1, np.nan]), np.array([True, False]))


def test_equal_scores_count_against_the_right_class():
    assert top_k_accuracy(np.zeros((3, 4)), [0, 1, 3], k=3) == 0.0
