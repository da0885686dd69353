"""Confidence interval of a share (Wilson, 1927): honest near 0 and 1 and at small numbers, where
the textbook interval has width 0 or leaves [0, 1]."""

import math

NORMAL_QUANTILE_95 = 1.959964


def wilson_interval(correct: int, num: int) -> tuple[float, float]:
    """The 95 % interval of a share: 8 of 10 -> (0.490, 0.943)."""
    if not 0 <= correct <= num or num == 0:
        raise ValueError(f"{correct} of {num} is not a share; evaluate at least one example")
    z = NORMAL_QUANTILE_95
    share = correct / num
    shrink = 1 + z * z / num
    centre = (share + z * z / (2 * num)) / shrink
    half = z / shrink * math.sqrt(share * (1 - share) / num + z * z / (4 * num * num))
    # The ends at 0 of num and num of num are exact; rounding must not push them past the share.
    return max(0.0, min(centre - half, share)), min(1.0, max(centre + half, share))
