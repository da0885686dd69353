"""Wilson's interval and perplexity against values worked out elsewhere."""

import math

import pytest

from common.evaluation.intervals import wilson_interval
from common.evaluation.perplexity import perplexity


@pytest.mark.parametrize(
    ("correct", "num", "low", "high"),
    [
        (8, 10, 0.4902, 0.9433),
        (81, 263, 0.2553, 0.3662),  # Newcombe 1998, table I
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0, 0.1611),
        (1, 29, 0.0061, 0.1718),
    ],
)
def test_wilson_interval_equals_published_values(
    correct: int, num: int, low: float, high: float
) -> None:
    assert wilson_interval(correct, num) == pytest.approx((low, high), abs=1e-4)


def test_wilson_interval_contains_its_share_at_both_ends() -> None:
    assert wilson_interval(0, 7)[0] == 0
    assert wilson_interval(7, 7)[1] == 1


def test_a_share_of_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one example"):
        wilson_interval(0, 0)


def test_perplexity_of_uniform_guesses_is_the_vocabulary() -> None:
    assert perplexity(12 * math.log(50), 12) == pytest.approx(50)
    assert perplexity(1e6, 3) == math.inf
    with pytest.raises(ValueError, match="at least one token"):
        perplexity(1.0, 0)
