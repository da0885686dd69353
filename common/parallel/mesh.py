"""How the ranks of a run are arranged: stages of a pipeline, copies of the model, shards of a copy.

    ranks = pipeline x replicate x shard, neighbouring ranks share one copy

With `shard` 1 every rank holds the whole model, plain data parallelism. With all ranks in one copy
this is ZeRO-3; several copies of a sharded model (hybrid sharding) keep the traffic of parameters
inside a node and send only gradients between nodes. A pipeline cuts the model's chain of blocks
into stages, each sharded over the ranks that hold it; see `pipeline.py`.
"""

from dataclasses import dataclass
from typing import Literal, NamedTuple

from torch.distributed.device_mesh import DeviceMesh, init_device_mesh

from common.errors import UserError

ALL_THAT_ARE_LEFT = -1
ScheduleName = Literal["1F1B", "Interleaved1F1B", "InterleavedZeroBubble", "ZBVZeroBubble"]
# They take a backward pass in two parts, between which parameters must not go away.
ZERO_BUBBLE: tuple[ScheduleName, ...] = ("InterleavedZeroBubble", "ZBVZeroBubble")


class Sizes(NamedTuple):
    """Ranks along each axis of the mesh."""

    pipeline: int
    replicate: int
    shard: int


@dataclass(frozen=True, kw_only=True)
class ParallelConfig:
    """How ranks share parameters, gradients and optimizer state."""

    # Ranks over which each parameter is sharded; 1: every rank holds them all; -1: all ranks.
    shard: int = 1
    # Copies of the sharded model; -1: as many as there are ranks for.
    replicate: int = -1
    # Ranks that hold one pipeline of a model's blocks; 1: no pipeline.
    pipeline: int = 1
    # Order of a pipeline's work; all but 1F1B give each rank two stages, and wait less.
    schedule: ScheduleName = "1F1B"
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
        if self.pipeline < 1:
            raise UserError(f"parallel.pipeline must be at least 1, not {self.pipeline}")
        if self.pipeline > 1 and self.schedule in ZERO_BUBBLE and self.reshard_after_forward:
            raise UserError(
                f"parallel.schedule={self.schedule} keeps parameters between the two parts of its "
                "backward pass; set parallel.reshard_after_forward to False, or use Interleaved1F1B"
            )

    @property
    def stages_per_rank(self) -> int:
        """Of a pipeline."""
        return 1 if self.schedule == "1F1B" else 2

    def sizes(self, num_ranks: int) -> Sizes:
        """The axes for so many ranks: shard 2 of 8 -> Sizes(pipeline=1, replicate=4, shard=2).

        Raises:
            UserError: the axes do not multiply to the number of ranks.
        """
        shard, replicate, ranks = self.shard, self.replicate, num_ranks // self.pipeline
        if shard == ALL_THAT_ARE_LEFT:
            replicate = max(replicate, 1)
            shard = ranks // replicate
        elif replicate == ALL_THAT_ARE_LEFT:
            replicate = ranks // shard
        if self.pipeline * replicate * shard != num_ranks or not replicate:
            raise UserError(
                f"parallel.pipeline={self.pipeline}, parallel.replicate={self.replicate} and "
                f"parallel.shard={self.shard} do not fit {num_ranks} ranks; their product must be "
                "the number of processes that torchrun or accelerate starts (-1 takes what is left)"
            )
        return Sizes(pipeline=self.pipeline, replicate=replicate, shard=shard)


def build_mesh(sizes: Sizes, *, device_type: str) -> DeviceMesh:
    """All axes; `sharding_axes` takes those over which parameters are sharded."""
    return init_device_mesh(device_type, tuple(sizes), mesh_dim_names=sizes._fields)


def sharding_axes(mesh: DeviceMesh) -> DeviceMesh:
    """One axis, or two where there are copies of the model."""
    copies = mesh["replicate"].size() > 1
    return mesh["replicate", "shard"] if copies else mesh["shard"]
