"""Dynamic weight average (Liu et al. 2019): slowly falling losses weigh more.

w_i = base_i K softmax(r_i / T), T = 2, r_i = L_i(t-1) / L_i(t-2), K present objectives. Unlike the
paper: t counts windows of 20 observations of the objective, not epochs; a rising loss counts as at
most doubled; and the softmax runs over the present objectives only.
"""

from collections.abc import Mapping, Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from common.objectives.ledger import Ledger, State

WINDOW = 20  # observations
TEMPERATURE = 2.0
# Of r: a loss that comes back from nearly zero must not take everything from the others.
LARGEST_RATIO = 2.0
SMALLEST_LOSS = 1e-6


class DynamicAverage:
    """See `common.objectives.weighting.Weighting` for the methods."""

    def __init__(self, base: Mapping[str, float]) -> None:
        columns = dict.fromkeys(("total", "filled", "last", "before_last", "windows"), 0.0)
        self.ledger = Ledger(base, kind="dwa", columns=columns)
        self.names = self.ledger.names

    def weights(self, present: Sequence[bool]) -> Float[Tensor, " k"]:
        """Base weights until two windows have been observed."""
        before_last = self.ledger["before_last"].clamp(min=SMALLEST_LOSS)
        ratio = (self.ledger["last"] / before_last).clamp(max=LARGEST_RATIO)
        ratio = torch.where(self.ledger["windows"] >= 2, ratio, 1.0)
        return self.ledger.share_out(ratio / TEMPERATURE, present)

    def observe(self, losses: Float[Tensor, " k"], present: Sequence[bool]) -> None:
        """Adds to the windows of the present objectives, and closes those that are full."""
        losses, seen = self.ledger.receive(losses, present)
        ledger = self.ledger
        ledger.write("total", ledger["total"] + losses, where=seen)
        ledger.write("filled", ledger["filled"] + 1, where=seen)
        full = ledger["filled"] == WINDOW
        ledger.write("before_last", ledger["last"], where=full)
        ledger.write("last", ledger["total"] / WINDOW, where=full)
        ledger.write("windows", ledger["windows"] + 1, where=full)
        for column in ("total", "filled"):
            ledger.write(column, torch.zeros_like(losses), where=full)

    def to_json(self) -> State:
        """The windows."""
        return self.ledger.to_json()

    def load(self, state: Mapping[str, object]) -> None:
        """Continue from what `to_json` gave."""
        self.ledger.load(state)
