"""Confidence intervals: of a share (Wilson, 1927), honest near 0 and 1 and at small numbers, where
the textbook interval has width 0 or leaves [0, 1]; and of a mean over examples, by the bootstrap
(Efron, 1979)."""

import math
from collections.abc import Sequence

import numpy as np

from common.data.randomness import generator_at

NORMAL_QUANTILE_95 = 1.959964
RESAMPLES, RESAMPLES_AT_ONCE = 2000, 100


def wilson_interval(correct: int | float, num: int) -> tuple[float, float]:
    """The 95 % interval of a share: 8 of 10 -> (0.490, 0.943).

    `correct` may be a mean over several attempts at the same examples.
    """
    if not 0 <= correct <= num or num == 0:
        raise ValueError(f"{correct} of {num} is not a share; evaluate at least one example")
    z = NORMAL_QUANTILE_95
    share = correct / num
    shrink = 1 + z * z / num
    centre = (share + z * z / (2 * num)) / shrink
    half = z / shrink * math.sqrt(share * (1 - share) / num + z * z / (4 * num * num))
    # The ends at 0 of num and num of num are exact; rounding must not push them past the share.
    return max(0.0, min(centre - half, share)), min(1.0, max(centre + half, share))


def bootstrap_interval(values: Sequence[float]) -> tuple[float, float]:
    """The 95 % percentile interval of the mean of independent values, by 2000 resamples of them.

    The resamples are the same whenever the values are.

    Raises:
        ValueError: there is no value.
    """
    # How often each distinct value is drawn is multinomial, and there are few of them even where
    # there are many values.
    distinct, counts = np.unique(np.asarray(values, dtype=np.float64), return_counts=True)
    num = len(values)
    if not num:
        raise ValueError("a mean of no values has no interval")
    generator = generator_at(seed=0, index=num, stream="intervals/bootstrap")
    sums = [
        generator.multinomial(num, counts / num, size=RESAMPLES_AT_ONCE) @ distinct
        for _ in range(RESAMPLES // RESAMPLES_AT_ONCE)
    ]
    low, high = np.quantile(np.concatenate(sums) / num, [0.025, 0.975])
    return float(low), float(high)
