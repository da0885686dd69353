"""How the ranks of a run are arranged: copies of the model, each sharded over some of the ranks.

    ranks = replicate x shard, neighbouring ranks share one copy

With `shard` 1 every rank holds the whole model, plain data parallelism. With all ranks in one copy
this is ZeRO-3; several copies of a sharded model (hybrid sharding) keep the traffic of parameters
inside a node and send only gradients between nodes.
"""

from dataclasses import dataclass
from typing import NamedTuple

from torch.distributed.device_mesh import DeviceMesh, init_device_mesh

from common.errors import UserError

ALL_THAT_ARE_LEFT = -1


class Sizes(NamedTuple):
    """Ranks along each axis of the mesh."""

    replicate: int
    shard: int


@dataclass(frozen=True, kw_only=True)
class ParallelConfig:
    """How ranks share parameters, gradients and optimizer state."""

    # Ranks over which each parameter is sharded; 1: every rank holds them all; -1: all ranks.
    shard: int = 1
    # Copies of the sharded model; -1: as many as there are ranks for.
    replicate: int = -1
    # Free a unit's parameters between forward and backward pass (ZeRO-3), or keep them (ZeRO-2).
    reshard_after_forward: bool = True

    def __post_init__(self) -> None:
        for name in ("shard", "replicate"):
            value = getattr(self, name)
            if value < 1 and value != ALL_THAT_ARE_LEFT:
                raise UserError(
                    f"parallel.{name} must be at least 1, or {ALL_THAT_ARE_LEFT} for all ranks "
                    f"that are left, not {value}"
                )

    def sizes(self, num_ranks: int) -> Sizes:
        """The axes for so many ranks: shard 2 of 8 -> Sizes(replicate=4, shard=2).

        Raises:
            UserError: the axes do not multiply to the number of ranks.
        """
        shard, replicate = self.shard, self.replicate
        if shard == ALL_THAT_ARE_LEFT:
            replicate = max(replicate, 1)
            shard = num_ranks // replicate
        elif replicate == ALL_THAT_ARE_LEFT:
            replicate = num_ranks // shard
        if replicate * shard != num_ranks or not replicate:
            raise UserError(
                f"parallel.shard={self.shard} and parallel.replicate={self.replicate} do not fit "
                f"{num_ranks} ranks; shard x replicate must be the number of processes that "
                "torchrun or accelerate starts (-1 takes what is left)"
            )
        return Sizes(replicate=replicate, shard=shard)


def build_mesh(sizes: Sizes, *, device_type: str) -> DeviceMesh:
    """The mesh over which parameters are sharded: one axis, or two with copies of the model."""
    mesh = init_device_mesh(device_type, tuple(sizes), mesh_dim_names=sizes._fields)
    return mesh["shard"] if sizes.replicate == 1 else mesh
