"""Weights of a model's objectives that may change from update to update.

| kind        | w_i, times base_i                              | module            |
|-------------|------------------------------------------------|-------------------|
| fixed       | 1                                              | this one          |
| uncertainty | exp(-s_i), s_i learned                         | `uncertainty`     |
| dwa         | K softmax(L_i(t-1) / L_i(t-2) / 2)             | `dynamic_average` |
| rlw         | K softmax(N(0, I))                             | `random_weights`  |
| famo        | K softmax(xi_i - log l_i), xi learned          | `famo`            |

K is the number of objectives that are present in the update. An absent one keeps its state. All
losses are means over all ranks, so that all ranks compute the same weights without a word.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Literal, Protocol, assert_never, runtime_checkable

from jaxtyping import Float
from torch import Tensor

from common.errors import UserError
from common.objectives.dynamic_average import DynamicAverage
from common.objectives.famo import Famo
from common.objectives.ledger import Ledger, State
from common.objectives.random_weights import RandomWeights
from common.objectives.uncertainty import Uncertainty

Kind = Literal["uncertainty", "fixed", "dwa", "rlw", "famo"]


@runtime_checkable
class Weighting(Protocol):
    """Weights of k objectives, in the order of `names`."""

    names: tuple[str, ...]

    def weights(self, present: Sequence[bool]) -> Float[Tensor, " k"]:
        """For the coming update: float64, on the device of the losses observed last.

        Those of absent objectives mean nothing.
        """
        ...

    def observe(self, losses: Float[Tensor, " k"], present: Sequence[bool]) -> None:
        """The update's mean losses over all ranks; entries of absent objectives are not read.

        Never waits for the device. A loss that is not finite counts as absent.
        """
        ...

    def to_json(self) -> State:
        """Everything that `weights` depends on; waits for the device."""
        ...

    def load(self, state: Mapping[str, object]) -> None:
        """Continue from what `to_json` gave, to the bit. Raises UserError when it does not fit."""
        ...


def build_weighting(kind: Kind, base: Mapping[str, float], *, seed: int) -> Weighting:
    """A weighting of the objectives that `base` names, in its order.

    base: the weights to start from; every kind multiplies by them. seed: of the kind "rlw".
    """
    wrong = {name: weight for name, weight in base.items() if not 0 <= weight < math.inf}
    if wrong or not base:
        raise UserError(f"base weights must be numbers from 0 on, at least one; got {dict(base)}")
    match kind:
        case "fixed":
            return Fixed(base)
        case "uncertainty":
            return Uncertainty(base)
        case "dwa":
            return DynamicAverage(base)
        case "famo":
            return Famo(base)
        case "rlw":
            return RandomWeights(base, seed=seed)
    assert_never(kind)


class Fixed:
    """The base weights for ever; see `Weighting` for the methods."""

    def __init__(self, base: Mapping[str, float]) -> None:
        self.ledger = Ledger(base, kind="fixed", columns={})
        self.names = self.ledger.names

    def weights(self, present: Sequence[bool]) -> Float[Tensor, " k"]:
        """The base weights."""
        return self.ledger.base

    def observe(self, losses: Float[Tensor, " k"], present: Sequence[bool]) -> None:
        """Changes nothing but the device of the weights."""
        self.ledger.receive(losses, present)

    def to_json(self) -> State:
        """The names."""
        return self.ledger.to_json()

    def load(self, state: Mapping[str, object]) -> None:
        """Nothing but a check of the names."""
        self.ledger.load(state)
