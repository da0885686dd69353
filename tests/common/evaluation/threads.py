"""Ranks as threads of one process, that meet where real ones would: in `collect`."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier
from typing import TypeVar

from common.checkpoint.ranks import Ranks
from common.training.processes import Processes

T = TypeVar("T")


class ThreadRanks(Ranks):
    """One of several threads; they share a barrier and a place for values."""

    def __init__(self, rank: int, barrier: Barrier, values: list[object]) -> None:
        super().__init__()
        self.rank, self.num_ranks = rank, barrier.parties
        self.barrier, self.values = barrier, values

    def collect(self, value: T) -> list[T]:
        self.barrier.wait()  # the values of the last time are read
        self.values[self.rank] = value
        self.barrier.wait()
        return list(self.values)


def in_threads(num_ranks: int, do: Callable[[Processes], T]) -> list[T]:
    """What `do` returns on every rank; the first error of any."""
    barrier, values = Barrier(num_ranks, timeout=60), [None] * num_ranks
    ranks = [ThreadRanks(rank, barrier, values) for rank in range(num_ranks)]
    with ThreadPoolExecutor(num_ranks) as pool:
        return list(pool.map(lambda own: do(Processes(ranks=own)), ranks))
