"""The learning rate as a pure function of the update's number: no scheduler, nothing to restore."""

import math

from common.training.run import ScheduleConfig


def learning_rate_factor(update: int, *, config: ScheduleConfig, steps: int) -> float:
    """Share of the peak learning rate at an update, counted 1 ... steps.

    Linear to 1 at update `warmup_steps`, then constant, or half a cosine that reaches
    `final_fraction` at update `steps`. Warm-up 4: 0.25, 0.5, 0.75, 1, then down.
    """
    warmup = config.warmup_steps
    if update < warmup:
        return update / warmup
    if config.kind == "constant":
        return 1.0
    progress = (update - warmup) / (steps - warmup)
    cosine = 0.5 * (1 + math.cos(math.pi * progress))
    return config.final_fraction + (1 - config.final_fraction) * cosine
