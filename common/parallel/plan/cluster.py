"""The machines of a run and how its ranks are laid out on them."""

from dataclasses import dataclass
from typing import NamedTuple

from common.errors import UserError
from common.parallel.recompute import RECOMPUTE, Recompute

GPUS_PER_NODE = 8
GIB = 2**30


class Gpu(NamedTuple):
    """Figures of its data sheet: dense bf16, and the links of the usual node of eight."""

    peak_flops: float  # per second
    memory_bytes: float
    node_bandwidth: float  # bytes per second and direction, NVLink
    network_bandwidth: float  # bytes per second and direction of the GPU's own adapter


GPUS: dict[str, Gpu] = {
    "a100-80gb": Gpu(312e12, 80e9, 300e9, 25e9),
    "h100-80gb": Gpu(989e12, 80e9, 450e9, 50e9),
    "h200": Gpu(989e12, 141e9, 450e9, 50e9),
}


@dataclass(frozen=True, kw_only=True)
class Layout:
    """gpus = pipeline x replicate x shard, and how a rank works through its rows.

    Raises:
        UserError: the numbers do not multiply, or a value is impossible.
    """

    gpus: int
    gpu: str
    shard: int  # ranks over which a parameter of the layers is sharded
    pipeline: int = 1
    replicate: int = 1
    micro_batch: int = 1
    recompute: Recompute = "none"
    # Free gathered parameters between forward and backward pass.
    reshard_after_forward: bool = False

    def __post_init__(self) -> None:
        for name in ("gpus", "shard", "pipeline", "replicate", "micro_batch"):
            value = getattr(self, name)
            if value < 1:
                raise UserError(f"{name.replace('_', '-')} must be at least 1, not {value}")
        if self.pipeline * self.replicate * self.shard != self.gpus:
            raise UserError(
                f"pipeline {self.pipeline} x replicate {self.replicate} x shard {self.shard} are "
                f"{self.pipeline * self.replicate * self.shard} ranks, not {self.gpus} GPUs; "
                f"with these, shard {self.gpus / self.pipeline / self.replicate:g} would fit"
            )
        if self.recompute not in RECOMPUTE:
            raise UserError(f"no recompute {self.recompute!r}; use {', '.join(RECOMPUTE)}")
        if self.gpu not in GPUS:
            raise UserError(f"no GPU {self.gpu!r}; known are {', '.join(GPUS)}")

    @property
    def device(self) -> Gpu:
        """The GPU's figures."""
        return GPUS[self.gpu]

    @property
    def copies(self) -> int:
        """Data-parallel ranks of a stage: each reads rows of its own."""
        return self.replicate * self.shard

    @property
    def tower_shard(self) -> int:
        """Ranks over which everything but layers is sharded: around a pipeline all of them."""
        return self.gpus if self.pipeline > 1 else self.shard

    @property
    def keeps_unreduced(self) -> bool:
        """Whether whole gradients of a stage wait for the end of the update."""
        return self.pipeline > 1 and not self.reshard_after_forward

    def micro_batches(self, rows: int) -> int:
        """Of one rank in an update of so many rows; the last one may be padded.

        Raises:
            UserError: not every rank would get a micro-batch.
        """
        share = rows / self.copies
        if share < self.micro_batch:
            raise UserError(
                f"{rows} rows give each of {self.copies} data-parallel ranks {share:g}; "
                f"use micro-batch <= {max(int(share), 1)}, fewer GPUs or more pipeline stages"
            )
        return -(-rows // (self.copies * self.micro_batch))

    def bandwidth(self, ranks: int, *, stride: int) -> float:
        """Of each rank in a ring over ranks that lie `stride` apart.

        Inside a node NVLink; between nodes each member in a node has an adapter of its own, and all
        of them carry the ring: 16 neighbours on A100 share 8 x 25 GB/s, 16 far apart have 25 GB/s.
        """
        device = self.device
        if ranks * stride <= GPUS_PER_NODE:
            return device.node_bandwidth
        members = min(ranks, max(1, GPUS_PER_NODE // stride))
        return min(device.node_bandwidth, members * device.network_bandwidth)
