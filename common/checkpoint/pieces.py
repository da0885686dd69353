"""What one rank contributes to a checkpoint: its shards and its part of what several ranks hold.

A sharded tensor that is replicated as well is written by one of its replicas, in turns by name; a
tensor that is whole on several ranks is written by the first of them. Only what a rank will write
is copied to the host.
"""

import zlib
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.distributed.checkpoint.default_planner import DefaultSavePlanner
from torch.distributed.checkpoint.metadata import (
    ChunkStorageMetadata,
    MetadataIndex,
    TensorProperties,
)
from torch.distributed.checkpoint.planner import (
    SavePlan,
    TensorWriteData,
    WriteItem,
    WriteItemType,
)
from torch.distributed.tensor import DTensor


@dataclass(frozen=True)
class Piece:
    """A box of a tensor: its content and where it lies in the whole."""

    data: Tensor
    offsets: torch.Size
    whole: torch.Size


def is_whole(tensor: Tensor) -> bool:
    """True of a tensor that this rank holds all of."""
    return not isinstance(tensor, DTensor)


def own_pieces(tensors: Mapping[str, Tensor], *, written_elsewhere: set[str]) -> dict[str, Piece]:
    """The pieces this rank writes; names of whole tensors that another rank writes are left out."""
    pieces: dict[str, Piece] = {}
    for name, tensor in tensors.items():
        if isinstance(tensor, DTensor):
            local = tensor.to_local()
            # Uneven sharding leaves the last ranks nothing.
            if _is_writing_replica(name, tensor) and (local.numel() or not tensor.numel()):
                (chunk,) = tensor.__create_chunk_list__()
                pieces[name] = Piece(local.detach(), chunk.offsets, tensor.shape)
        elif name not in written_elsewhere:
            pieces[name] = Piece(tensor.detach(), torch.Size([0] * tensor.dim()), tensor.shape)
    return pieces


def copy_to_host(pieces: Mapping[str, Piece]) -> dict[str, Piece]:
    """Contiguous copies that later updates do not touch; complete when this returns."""
    copies = {name: Piece(_copy(p.data), p.offsets, p.whole) for name, p in pieces.items()}
    if any(piece.data.device.type != "cpu" for piece in pieces.values()):
        torch.accelerator.current_stream().synchronize()
    return copies


class PiecePlanner(DefaultSavePlanner):
    """Plans the writing of a mapping from names to pieces."""

    state_dict: dict[str, Piece]

    def __init__(self) -> None:
        super().__init__(flatten_state_dict=False, flatten_sharded_tensors=False)

    def create_local_plan(self) -> SavePlan:
        """One item for each piece."""
        self.plan = SavePlan([_item(name, piece) for name, piece in self.state_dict.items()])
        return self.plan

    def lookup_object(self, index: MetadataIndex) -> Tensor:
        """The content of a piece."""
        return self.state_dict[index.fqn].data


def _is_writing_replica(name: str, tensor: DTensor) -> bool:
    mesh, coordinate = tensor.device_mesh, tensor.device_mesh.get_coordinate()
    if coordinate is None:
        return False
    replica, num_replicas = 0, 1
    for axis, placement in enumerate(tensor.placements):
        if placement.is_replicate():
            replica = replica * mesh.size(axis) + coordinate[axis]
            num_replicas *= mesh.size(axis)
    return replica == zlib.crc32(name.encode()) % num_replicas


def _copy(tensor: Tensor) -> Tensor:
    # Pinned, so that the copy runs at the speed of the bus; torch keeps such memory for next time.
    on_device = tensor.device.type != "cpu"
    copy = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=on_device)
    return copy.copy_(tensor, non_blocking=True)


def _item(name: str, piece: Piece) -> WriteItem:
    return WriteItem(
        index=MetadataIndex(name, piece.offsets),
        type=WriteItemType.SHARD,
        tensor_data=TensorWriteData(
            chunk=ChunkStorageMetadata(offsets=piece.offsets, sizes=piece.data.shape),
            properties=TensorProperties(dtype=piece.data.dtype),
            size=piece.whole,
        ),
    )
