"""FAMO (Liu et al. 2023), delayed: the losses shall fall at the same relative speed.

With z = softmax(xi) the loss is sum z_i log L_i / c, c = sum z_i / L_i held constant; its gradient
is that of sum w_i L_i with w_i = (z_i / L_i) / c = softmax(xi - log L)_i. After an update xi takes
one Adam step along J_softmax(xi)^T (log L_before - log L_after). Unlike the paper: relative losses
l (running means) instead of L, so that nothing runs forward twice and the weights start at
base_i; times the number of present objectives, so that they stay at that size; and l is at least
exp(-2), or an objective that is nearly solved would take everything from the others.
"""

import math
from collections.abc import Mapping, Sequence

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from common.objectives.ledger import Ledger, State
from common.objectives.relative_loss import COLUMNS, has_reference, relative_loss, remember

LEARNING_RATE, DECAY = 0.025, 0.01
BETAS, EPS = (0.9, 0.999), 1e-8
SMALLEST_RELATIVE_LOSS = math.exp(-2)


class Famo:
    """See `common.objectives.weighting.Weighting` for the methods."""

    def __init__(self, base: Mapping[str, float]) -> None:
        adam = dict.fromkeys(("xi", "first_moment", "second_moment", "steps"), 0.0)
        self.ledger = Ledger(base, kind="famo", columns={**adam, **COLUMNS})
        self.names = self.ledger.names

    def weights(self, present: Sequence[bool]) -> Float[Tensor, " k"]:
        """base K softmax(xi - log l) over the K present objectives."""
        return self.ledger.share_out(self.ledger["xi"] - self._log_loss(), present)

    def observe(self, losses: Float[Tensor, " k"], present: Sequence[bool]) -> None:
        """One step of xi of the present objectives, once they have a reference."""
        losses, seen = self.ledger.receive(losses, present)
        before, moves = self._log_loss(), seen & has_reference(self.ledger)
        remember(self.ledger, losses, seen=seen)
        gain = before - self._log_loss()
        # Over the objectives that move only: absent ones neither gain nor lose.
        z = self.ledger["xi"].masked_fill(~moves, -torch.inf).softmax(dim=0)
        gradient = z * (gain - (z * gain).sum()) + DECAY * self.ledger["xi"]
        self._adam(gradient, moves=moves)

    def to_json(self) -> State:
        """xi, its moments and the means."""
        return self.ledger.to_json()

    def load(self, state: Mapping[str, object]) -> None:
        """Continue from what `to_json` gave."""
        self.ledger.load(state)

    def _log_loss(self) -> Float[Tensor, " k"]:
        return relative_loss(self.ledger).clamp(min=SMALLEST_RELATIVE_LOSS).log()

    def _adam(self, gradient: Float[Tensor, " k"], *, moves: Bool[Tensor, " k"]) -> None:
        ledger = self.ledger
        steps = ledger["steps"] + 1
        first = torch.lerp(gradient, ledger["first_moment"], BETAS[0])
        second = torch.lerp(gradient**2, ledger["second_moment"], BETAS[1])
        scale = (second / (1 - BETAS[1] ** steps)).sqrt() + EPS
        step = first / (1 - BETAS[0] ** steps) / scale
        ledger.write("xi", ledger["xi"] - LEARNING_RATE * step, where=moves)
        ledger.write("first_moment", first, where=moves)
        ledger.write("second_moment", second, where=moves)
        ledger.write("steps", steps, where=moves)
