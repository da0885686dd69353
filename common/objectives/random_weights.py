"""Random loss weighting (Lin et al. 2022): w = base K softmax(N(0, I)), drawn anew every update.

The draw is a pure function of the seed and the number of the update, equal on all ranks.
"""

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from common.errors import UserError
from common.objectives.ledger import Ledger, State


class RandomWeights:
    """See `common.objectives.weighting.Weighting` for the methods."""

    def __init__(self, base: Mapping[str, float], *, seed: int) -> None:
        self.ledger = Ledger(base, kind="rlw", columns={})
        self.names = self.ledger.names
        self.seed = seed
        self.updates = 0

    def weights(self, present: Sequence[bool]) -> Float[Tensor, " k"]:
        """A softmax over the present objectives; one objective's number ignores the others."""
        key = np.array([self.seed, self.updates], dtype=np.uint64)
        draw = np.random.Generator(np.random.Philox(key=key)).standard_normal(len(self.names))
        logits = torch.from_numpy(draw).to(self.ledger.base.dtype)
        return self.ledger.share_out(logits.to(self.ledger.base.device, non_blocking=True), present)

    def observe(self, losses: Float[Tensor, " k"], present: Sequence[bool]) -> None:
        """Counts the update; the losses do not matter."""
        self.ledger.receive(losses, present)
        self.updates += 1

    def to_json(self) -> State:
        """The number of updates."""
        return {**self.ledger.to_json(), "updates": self.updates}

    def load(self, state: Mapping[str, object]) -> None:
        """Continue from what `to_json` gave."""
        self.ledger.load(state)
        updates = state.get("updates")
        if not isinstance(updates, int):
            raise UserError("the stored loss weights lack the number of updates")
        self.updates = updates
