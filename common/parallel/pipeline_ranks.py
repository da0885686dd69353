"""The ranks of one pipeline group, in the order of their stages, and what they tell each other."""

from collections.abc import Sequence
from functools import cached_property
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.device_mesh import DeviceMesh

ValueT = TypeVar("ValueT")


class PipelineRanks:
    """This rank's group; ranks are counted within it."""

    def __init__(self, mesh: DeviceMesh, *, device: torch.device) -> None:
        axis = mesh["pipeline"]
        self.group, self.own, self.number = axis.get_group(), axis.get_local_rank(), axis.size()
        self.device = device
        self._all_groups: list[list[int]] = mesh.mesh.flatten(1).T.tolist()

    def collect(self, value: ValueT) -> list[ValueT]:
        """The values of all ranks, through their hosts."""
        values: list[ValueT] = [value] * self.number
        dist.all_gather_object(values, value, group=self._hosts)
        return values

    def gather(self, tensors: Sequence[Tensor], *, target: int) -> list[Tensor]:
        """Equally many of one shape from each rank, in their order; other ranks learn the shape."""
        stacked = torch.stack([*tensors])
        is_target = self.own == target
        parts = [torch.empty_like(stacked) for _ in range(self.number)] if is_target else None
        dist.gather(stacked, parts, group=self.group, group_dst=target)
        if parts is None:
            shape = torch.empty_like(tensors[0], device="meta")
            return [shape] * (len(tensors) * self.number)
        return [tensor for part in parts for tensor in part]

    def scatter(
        self, tensors: Sequence[Tensor], *, like: Tensor, number: int, source: int
    ) -> list[Tensor]:
        """What one rank has for each: so many of the shape and type of `like`."""
        mine = torch.empty((number, *like.shape), dtype=like.dtype, device=self.device)
        parts = [*torch.stack([*tensors]).split(number)] if self.own == source else None
        dist.scatter(mine, parts, group=self.group, group_src=source)
        return [*mine]

    def broadcast(self, tensor: Tensor, *, shape: Sequence[int], source: int) -> Tensor:
        """One rank's tensor on all; the others give one of its type."""
        if self.own != source:
            tensor = tensor.new_empty([*shape])
        dist.broadcast(tensor, group=self.group, group_src=source)
        return tensor

    @cached_property
    def _hosts(self) -> dist.ProcessGroup:
        """Over gloo, so that no device is waited for; all ranks of the run make it together."""
        group, _ = dist.new_subgroups_by_enumeration(self._all_groups, backend="gloo")
        assert isinstance(group, dist.ProcessGroup)
        return group
