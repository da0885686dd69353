"""Which sample is read when: a pure function of the seed and the position, so that nothing is kept
in a buffer and nothing can be lost or repeated. Every epoch visits every sample once: shards in an
order of the epoch's own, in windows of a few shards, and inside a window its samples in a random
order. Reads stay local to a window's files, and rank and worker only choose positions."""

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import numpy as np
from jaxtyping import Int

from common.data.randomness import generator_at
from common.errors import UserError

WINDOW_SHARDS = 8
KEPT_EPOCHS = 2  # at an epoch's end, waiting documents still ask for the one before
KEPT_WINDOWS = 4

OrderKind = Literal["shuffled", "stored"]


@dataclass(frozen=True)
class Visit:
    """A sample in one of its epochs."""

    epoch: int
    sample: int


class Order:
    """Position, without end -> visit. `stored` keeps the samples' order, in every epoch the same.

    Shards of 2 and 3 samples, shuffled: positions 0-4 might visit 3 0 4 2 1, positions 5-9 another
    permutation of 0-4.
    """

    def __init__(
        self,
        shard_sizes: Sequence[int],
        *,
        seed: int,
        visits: OrderKind = "shuffled",
        window_shards: int = WINDOW_SHARDS,
    ) -> None:
        self.sizes = np.asarray(shard_sizes, dtype=np.int64)
        self.num_samples = int(self.sizes.sum())
        if self.num_samples == 0:
            raise UserError("there are no samples to draw from; give data with at least one")
        self.starts = self.sizes.cumsum() - self.sizes
        self.seed, self.visits, self.window_shards = seed, visits, window_shards
        self._epoch = lru_cache(maxsize=KEPT_EPOCHS)(self._epoch_of)
        self._window = lru_cache(maxsize=KEPT_WINDOWS)(self._window_of)

    def __call__(self, position: int) -> Visit:
        epoch, place = divmod(position, self.num_samples)
        if self.visits == "stored":
            return Visit(epoch, place)
        _, ends = self._epoch(epoch)
        window = bisect_right(ends, place)
        first = ends[window - 1] if window else 0
        return Visit(epoch, int(self._window(epoch, window)[place - first]))

    def __reduce__(self) -> tuple[object, ...]:
        return _restored, (self.sizes.tolist(), self.seed, self.visits, self.window_shards)

    def _epoch_of(self, epoch: int) -> tuple[Int[np.ndarray, " n"], list[int]]:
        """The epoch's shards in order, and the place where each of its windows ends."""
        generator = generator_at(seed=self.seed, index=epoch, stream="sampler/shards")
        shards = generator.permutation(len(self.sizes))
        last = np.arange(self.window_shards, len(shards) + self.window_shards, self.window_shards)
        ends = self.sizes[shards].cumsum()[np.minimum(last, len(shards)) - 1]
        return shards, ends.tolist()

    def _window_of(self, epoch: int, window: int) -> Int[np.ndarray, " n"]:
        """The window's samples in order."""
        shards, _ = self._epoch(epoch)
        chosen = shards[window * self.window_shards : (window + 1) * self.window_shards]
        samples = np.concatenate(
            [np.arange(self.starts[s], self.starts[s] + self.sizes[s]) for s in chosen]
        )
        index = epoch * len(shards) + window
        generator = generator_at(seed=self.seed, index=index, stream="sampler/window")
        return generator.permutation(samples)


def _restored(sizes: Sequence[int], seed: int, visits: OrderKind, window_shards: int) -> Order:
    return Order(sizes, seed=seed, visits=visits, window_shards=window_shards)
