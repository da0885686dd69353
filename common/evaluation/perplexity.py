"""Perplexity from the sum of next-token losses and their count, which add up over batches and ranks
where means would not."""

import math


def perplexity(loss_sum: float, count: int) -> float:
    """exp(mean loss per target); infinite where that is beyond a float."""
    if count <= 0:
        raise ValueError(f"{count=} targets: perplexity needs at least one token with a label")
    mean = loss_sum / count
    return math.exp(mean) if mean < 700 else math.inf
