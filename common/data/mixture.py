"""Several data sets in exact proportions: turns of a fixed number of slots, each data set with a
whole number of them, in a drawn order. Nothing is counted along the way, so any number of the
mixture leads straight to its data set and the index in it."""

import math
from collections.abc import Sequence
from fractions import Fraction
from functools import lru_cache

import numpy as np
from jaxtyping import Int

from common.data.randomness import generator_at
from common.errors import UserError

FINEST_SHARE = 1000  # weights are fractions of at most this denominator
KEPT_TURNS = 8


class Mixture:
    """Number, without end -> (data set, index in it).

    Weights of 3, 0.5 and 0.5 give 6, 1 and 1 of every 8 numbers.
    """

    def __init__(self, weights: Sequence[float], *, seed: int) -> None:
        self.weights, self.seed = tuple(weights), seed
        self.shares = whole_shares(weights)
        self.slots = np.repeat(np.arange(len(self.shares)), self.shares)
        self._turn = lru_cache(maxsize=KEPT_TURNS)(self._turn_of)

    def __call__(self, number: int) -> tuple[int, int]:
        if len(self.shares) == 1:
            return 0, number
        turn, slot = divmod(number, len(self.slots))
        order, ranks = self._turn(turn)
        chosen = int(order[slot])
        return chosen, turn * self.shares[chosen] + int(ranks[slot])

    def __reduce__(self) -> tuple[object, ...]:
        return _restored, (self.weights, self.seed)

    def _turn_of(self, turn: int) -> tuple[Int[np.ndarray, " n"], Int[np.ndarray, " n"]]:
        """Data set of every slot, and how many slots of it come before in this turn."""
        generator = generator_at(seed=self.seed, index=turn, stream="mixture")
        order = self.slots[generator.permutation(len(self.slots))]
        ranks = np.zeros_like(order)
        for chosen in range(len(self.shares)):
            ranks[order == chosen] = np.arange(self.shares[chosen])
        return order, ranks


def whole_shares(weights: Sequence[float]) -> list[int]:
    """The smallest whole numbers in proportion to the weights: 3 0.5 0.5 -> 6 1 1."""
    if not weights:
        raise UserError("a mixture of no data sets; give at least one")
    if min(weights) <= 0:
        raise UserError(f"weights {list(weights)} must be positive; leave out what is not wanted")
    shares = [Fraction(weight).limit_denominator(FINEST_SHARE) for weight in weights]
    if min(shares) == 0:
        raise UserError(f"weights {list(weights)} are finer than 1/{FINEST_SHARE}; use larger ones")
    whole = math.lcm(*(share.denominator for share in shares))
    numbers = [int(share * whole) for share in shares]
    return [number // math.gcd(*numbers) for number in numbers]


def _restored(weights: Sequence[float], seed: int) -> Mixture:
    return Mixture(weights, seed=seed)
