"""Random numbers as a pure function of a position: example `index` of stream `stream` under `seed`
is drawn from its own Philox key and counter range, so any worker may draw any example in any order
and always gets the same one. Nothing here knows what is drawn."""

from zlib import crc32

import numpy as np
import numpy.typing as npt
from numpy.random import SeedSequence


def generator_at(*, seed: int, index: int, stream: str) -> np.random.Generator:
    """The generator of one example; streams of different names never overlap."""
    # The counter's highest word separates streams: each has 2**192 blocks before the next begins.
    counter = np.array([0, 0, 0, crc32(stream.encode())], dtype=np.uint64)
    key = np.array([seed, index], dtype=np.uint64)
    return np.random.Generator(np.random.Philox(_Key(key), counter=counter))


class _Key(SeedSequence):
    """A key as it is. Given as an argument of that name, numpy would first ask the system for
    random numbers, which takes longer than all the rest."""

    def __init__(self, key: npt.NDArray[np.uint64]) -> None:
        self.key = key

    def generate_state(
        self, n_words: int, dtype: npt.DTypeLike = np.uint64
    ) -> npt.NDArray[np.uint64]:
        """What Philox asks for: two words of 64 bits."""
        return self.key
