"""Means, their parts and intervals, and which examples are shown."""

import math

import numpy as np
import pytest

from common.evaluation.intervals import bootstrap_interval
from common.evaluation.shots.figures import in_turn, mean_scores, over_seeds, seeds_note
from common.evaluation.shots.protocol import Setting

SETTING = Setting(shots=4, method="random", seeds=(0, 1))


def test_the_bootstrap_of_many_values_is_the_textbook_interval_of_their_mean() -> None:
    generator = np.random.default_rng(0)
    for values in (generator.normal(3, 2, 900), generator.choice([0, 30, 60, 90, 100], 900)):
        low, high = bootstrap_interval(list(map(float, values)))
        half = 1.96 * values.std() / math.sqrt(len(values))
        assert (low, high) == pytest.approx(
            (values.mean() - half, values.mean() + half), abs=0.12 * half
        )
    assert bootstrap_interval([2.0, 2.0]) == (2.0, 2.0)
    with pytest.raises(ValueError, match="no values"):
        bootstrap_interval([])


def test_a_mean_stands_there_once_more_without_contaminated_examples_and_for_each_part() -> None:
    values = over_seeds([[0.0, 100.0, 60.0], [20.0, 100.0, 30.0]])
    parts = {"answer type": ["number", "other", "number"]}
    scores = mean_scores(
        "VQA accuracy", values, setting=SETTING, contaminated=frozenset({1}), parts=parts
    )
    found = {tuple(score.part.items()): (score.value, score.num) for score in scores}
    assert found == {
        (): (155 / 3, 3),
        (("examples", "uncontaminated"),): (27.5, 2),
        (("answer type", "number"),): (27.5, 2),
        (("answer type", "other"),): (100.0, 1),
    }
    assert all(score.shots == 4 and not score.blind for score in scores)
    # Where all were seen, or none, there is nothing to leave out.
    for contaminated in (frozenset[int](), frozenset({0, 1, 2})):
        assert len(mean_scores("x", values, setting=SETTING, contaminated=contaminated)) == 1


def test_hits_and_misses_come_in_turn_as_long_as_there_are_both() -> None:
    assert in_turn([False, True, True, True, False, True], num=5) == [1, 0, 2, 4, 3]
    assert in_turn([True, True], num=9) == [0, 1]


def test_several_seeds_are_told_one_is_not() -> None:
    (note,) = seeds_note("VQA accuracy", [41.25, 40.0], setting=SETTING)
    assert note == "VQA accuracy with 4 random shots under seeds 0, 1: 41.2, 40.0."
    assert seeds_note("VQA accuracy", [41.25], setting=SETTING) == []
