"""Uncertainty weighting (Kendall et al. 2018): w_i = base_i exp(-s_i), with s_i learned.

Each update takes one gradient step on exp(-s) l / 2 + s / 2 with the relative loss l:
s <- clamp(s - lr (1 - exp(-s) l) / 2, -2, 3). Unlike the paper: l instead of the loss, or the
weights would depend on its unit; a clamp, for the optimum exp(-s) = 1 / l lets an objective that
is nearly solved grow without bound; plain gradient descent with its own rate, no weight decay; and
the factor 1/2 is left to the base weights.
"""

from collections.abc import Mapping, Sequence

from jaxtyping import Float
from torch import Tensor

from common.objectives.ledger import Ledger, State
from common.objectives.relative_loss import COLUMNS, relative_loss, remember

LEARNING_RATE = 0.01  # s follows log l with a delay of about 200 updates
SMALLEST, LARGEST = -2.0, 3.0  # of s: a weight is 1/20 to 7.4 times its base


class Uncertainty:
    """See `common.objectives.weighting.Weighting` for the methods."""

    def __init__(self, base: Mapping[str, float]) -> None:
        self.ledger = Ledger(base, kind="uncertainty", columns={"s": 0.0, **COLUMNS})
        self.names = self.ledger.names

    def weights(self, present: Sequence[bool]) -> Float[Tensor, " k"]:
        """base exp(-s), whoever else is present."""
        return self.ledger.base * (-self.ledger["s"]).exp()

    def observe(self, losses: Float[Tensor, " k"], present: Sequence[bool]) -> None:
        """One step of s of the present objectives."""
        losses, seen = self.ledger.receive(losses, present)
        remember(self.ledger, losses, seen=seen)
        s = self.ledger["s"]
        # Without a reference l is 1, and s stays at 0, its optimum.
        gradient = (1 - (-s).exp() * relative_loss(self.ledger)) / 2
        stepped = (s - LEARNING_RATE * gradient).clamp(SMALLEST, LARGEST)
        self.ledger.write("s", stepped, where=seen)

    def to_json(self) -> State:
        """s and the means."""
        return self.ledger.to_json()

    def load(self, state: Mapping[str, object]) -> None:
        """Continue from what `to_json` gave."""
        self.ledger.load(state)
