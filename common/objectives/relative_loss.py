"""Losses of several objectives made comparable: l = mean / reference, 1 at the start of a run.

mean: over all observations at first, an exponential one over about 50 later.
reference: the mean of the first 10 observations; until they are made, l is 1.
"""

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from common.objectives.ledger import Ledger

MEAN_OVER = 50  # observations
REFERENCE_OVER = 10  # observations
# Of a reference: an objective whose first losses are exactly 0 must not divide by it.
SMALLEST_REFERENCE = 1e-6

# What a ledger must hold for the functions below.
COLUMNS = {"observations": 0.0, "mean": 0.0, "reference": 0.0}


def remember(ledger: Ledger, losses: Float[Tensor, " k"], *, seen: Bool[Tensor, " k"]) -> None:
    """Take one observation of the seen objectives into the means."""
    observations = ledger["observations"] + 1
    share = 1 / observations.clamp(max=MEAN_OVER)
    mean = ledger["mean"] + share * (losses - ledger["mean"])
    ledger.write("observations", observations, where=seen)
    ledger.write("mean", mean, where=seen)
    ledger.write("reference", mean, where=seen & (observations <= REFERENCE_OVER))


def relative_loss(ledger: Ledger) -> Float[Tensor, " k"]:
    """l of every objective."""
    relative = ledger["mean"] / ledger["reference"].clamp(min=SMALLEST_REFERENCE)
    return torch.where(has_reference(ledger), relative, 1.0)


def has_reference(ledger: Ledger) -> Bool[Tensor, " k"]:
    """Which objectives have been observed often enough."""
    return ledger["observations"] >= REFERENCE_OVER
