"""The processes of a program, as Accelerate or torchrun launched them: who each is, its device, and
a channel between hosts on which they agree without the accelerators. Nothing here knows of
training."""

import os
from dataclasses import dataclass, field
from datetime import timedelta
from typing import TypeVar

import torch
import torch.distributed as dist
from accelerate import PartialState

from common.checkpoint.ranks import Ranks
from common.errors import UserError

ValueT = TypeVar("ValueT")
CPU = torch.device("cpu")


@dataclass(frozen=True, kw_only=True)
class Processes:
    """All processes of a program, or this one alone: `Processes()`."""

    ranks: Ranks = field(default_factory=Ranks)
    device: torch.device = CPU

    @property
    def rank(self) -> int:
        """This process among all, from 0."""
        return self.ranks.rank

    @property
    def num_ranks(self) -> int:
        """How many there are."""
        return self.ranks.num_ranks

    @property
    def is_main(self) -> bool:
        """True on the one rank that writes files for all."""
        return self.ranks.is_main

    def collect(self, value: ValueT) -> list[ValueT]:
        """The values of all ranks, in rank order."""
        return self.ranks.collect(value)

    def from_main(self, value: ValueT) -> ValueT:
        """The main rank's value, on every rank."""
        return self.collect(value)[0]

    def barrier(self) -> None:
        """Wait until every rank is here."""
        self.collect(None)


def join_processes(*, timeout: timedelta) -> Processes:
    """Take part in the program that was launched; `leave_processes` ends it.

    Raises:
        UserError: Accelerate does not see all launched processes.
    """
    # Without being told, Accelerate starts independent programs on several CPU processes.
    state = PartialState(cpu=not torch.accelerator.is_available(), timeout=timeout)
    check_launch(state.num_processes)
    return Processes(ranks=Ranks(control_group(timeout=timeout)), device=state.device)


def num_launched() -> int:
    """How many processes the launcher started."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def check_launch(num_ranks: int) -> None:
    """All launched processes must be those that Accelerate sees.

    Raises:
        UserError: they are not.
    """
    if num_launched() != num_ranks:
        raise UserError(
            f"{num_launched()} processes were launched but Accelerate sees {num_ranks}; "
            "start with `torchrun` or `accelerate launch` and one process per device"
        )


def control_group(*, timeout: timedelta) -> dist.ProcessGroup | None:
    """A new channel between the hosts of all ranks, so all must call it; None for a lone one."""
    if not dist.is_initialized() or dist.get_world_size() == 1:
        return None
    group = dist.new_group(backend="gloo", timeout=timeout)
    assert isinstance(group, dist.ProcessGroup)
    return group


def is_first_process() -> bool:
    """True for the one process that talks to the user, before any has joined the others."""
    return int(os.environ.get("RANK", "0")) == 0


def leave_processes() -> None:
    """End this process's part in the group, if there is one: a process that exits with a group
    open may find threads of the backend still running and abort."""
    if dist.is_initialized():
        dist.destroy_process_group()
