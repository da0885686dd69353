"""The processes of a run: Accelerate's view of ranks, devices and precision, and a control channel.

Figures the host already knows (counts, tokens, "please stop") travel over a gloo group between
hosts, so the accelerators are never waited for.
"""

import platform
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from accelerate import Accelerator, DistributedDataParallelKwargs
from accelerate.state import AcceleratorState
from accelerate.tracking import LOGGER_TYPE_TO_CLASS
from accelerate.utils import DistributedType, InitProcessGroupKwargs
from torch import Tensor

from common.checkpoint.ranks import Ranks
from common.errors import UserError
from common.training.processes import Processes, check_launch, control_group, num_launched
from common.training.run import RunConfig

ValueT = TypeVar("ValueT")


def device_name(device: torch.device) -> str:
    """What the maker calls an accelerator; the processor's type on a CPU."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{device.type} {platform.machine()}"


class Runtime:
    """One run's processes; on a single process every method is the identity."""

    def __init__(self, config: RunConfig[Any], folder: Path) -> None:
        known = ("none", *(str(name) for name in LOGGER_TYPE_TO_CLASS))
        if config.tracker not in known:
            raise UserError(f"unknown tracker {config.tracker}; use one of {', '.join(known)}")
        config.parallel.sizes(num_launched())  # complains before any process waits for another
        self.timeout = timedelta(seconds=config.health.collective_timeout_s)
        # Several runs in one process may differ in precision; the process group stays.
        AcceleratorState._reset_state(reset_partial_state=False)
        self.accelerator = Accelerator(
            # Without being told, Accelerate starts independent runs on several CPU processes.
            cpu=not torch.accelerator.is_available(),
            mixed_precision="bf16" if config.precision == "bf16" else "no",
            log_with=None if config.tracker == "none" else config.tracker,
            project_dir=folder,
            kwargs_handlers=[
                # A source may use only a part of the parameters.
                DistributedDataParallelKwargs(find_unused_parameters=True),
                InitProcessGroupKwargs(timeout=self.timeout),
            ],
        )
        self.device: torch.device = self.accelerator.device
        self.rank: int = self.accelerator.process_index
        self.num_ranks: int = self.accelerator.num_processes
        check_launch(self.num_ranks)
        kind = self.accelerator.distributed_type
        if kind in (DistributedType.FSDP, DistributedType.DEEPSPEED, DistributedType.MEGATRON_LM):
            raise UserError(
                f"Accelerate is configured for {kind.value}; let it launch only, with one of "
                "scripts/accelerate/*.yaml, and shard with --parallel.shard"
            )
        self.control = control_group(timeout=self.timeout)
        self.processes = Processes(ranks=Ranks(self.control), device=self.device)

    @property
    def is_main(self) -> bool:
        """True on the one rank that writes files."""
        return self.rank == 0

    def numbers_of_all(self, values: Sequence[float]) -> list[list[float]]:
        """Numbers the hosts know, one list per rank, in rank order; integers to 2**53 are exact."""
        if self.control is None:
            return [list(values)]
        mine = torch.tensor(values, dtype=torch.float64)
        parts = [torch.empty_like(mine) for _ in range(self.num_ranks)]
        dist.all_gather(parts, mine, group=self.control)
        return [part.tolist() for part in parts]

    def sum_on_devices(self, values: Tensor) -> Tensor:
        """Elementwise sum over ranks of a tensor on the device, without waiting for it."""
        total: Tensor = self.accelerator.reduce(values, reduction="sum")
        return total

    def agree_on(self, received: int) -> int:
        """The largest number any rank has received."""
        return max(int(number) for (number,) in self.numbers_of_all([float(received)]))

    def collect(self, value: ValueT) -> list[ValueT]:
        """The values of all ranks, in rank order."""
        return self.processes.collect(value)

    def from_main(self, value: ValueT) -> ValueT:
        """The main rank's value, on every rank."""
        return self.processes.from_main(value)

    def barrier(self) -> None:
        """Wait until every rank is here."""
        self.processes.barrier()
