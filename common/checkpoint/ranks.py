"""The processes that write and read one checkpoint together, over a channel of their own.

The channel is a gloo group that nothing else uses, so that a background thread may speak on it
while training communicates on its own groups. Alone, every method is the identity.
"""

from collections.abc import Callable
from typing import TypeVar

import torch.distributed as dist

ValueT = TypeVar("ValueT")


class Ranks:
    """All ranks of the run (`all_ranks`) or this process alone (`Ranks()`)."""

    def __init__(self, group: dist.ProcessGroup | None = None) -> None:
        self.group = group
        self.rank = dist.get_rank(group) if group else 0
        self.num_ranks = dist.get_world_size(group) if group else 1

    @property
    def is_main(self) -> bool:
        """True on the rank that lists, renames and removes folders."""
        return self.rank == 0

    def collect(self, value: ValueT) -> list[ValueT]:
        """The values of all ranks, in rank order."""
        if self.group is None:
            return [value]
        values: list[ValueT] = [value] * self.num_ranks
        dist.all_gather_object(values, value, group=self.group)
        return values

    def together(self, work: Callable[[], None]) -> None:
        """Do some work on every rank; if it fails on any, raise the first failure on all."""
        failure: Exception | None = None
        try:
            work()
        except Exception as error:
            failure = error
        for first in self.collect(failure):
            if first is not None:
                raise first

    def on_main(self, work: Callable[[], ValueT]) -> ValueT:
        """What `work` returns on the main rank, on every rank; if it fails there, so on all."""
        answer: list[ValueT] = []
        self.together(lambda: answer.append(work()) if self.is_main else None)
        return self.collect(answer)[0][0]


def all_ranks() -> Ranks:
    """Every rank of the run over a new channel, so all must call it; without a run, alone."""
    if not dist.is_initialized() or dist.get_world_size() == 1:
        return Ranks()
    group = dist.new_group(backend="gloo")
    assert isinstance(group, dist.ProcessGroup)
    return Ranks(group)
