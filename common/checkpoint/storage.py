"""Where torch's distributed checkpointing puts its tensors: safetensors and JSON, no pickle.

    tensors_00003.safetensors   the pieces rank 3 has written, by name
    index.json                  type and shape of every tensor; file and place of every piece
    manifest.json               size and SHA-256 of every file (`folder.py`)

Planning and resharding are torch's (`torch.distributed.checkpoint`); a reader takes from the files
only the boxes it needs, so memory and traffic do not grow with the number of writers.
"""

import json
import warnings
from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any, TypedDict

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.default_planner import DefaultLoadPlanner
from torch.distributed.checkpoint.metadata import (
    BytesStorageMetadata,
    ChunkStorageMetadata,
    Metadata,
    MetadataIndex,
    TensorProperties,
    TensorStorageMetadata,
)
from torch.distributed.checkpoint.planner import (
    LoadPlan,
    LoadPlanner,
    ReadItem,
    SavePlan,
    SavePlanner,
)
from torch.distributed.checkpoint.state_dict_loader import load
from torch.distributed.checkpoint.state_dict_saver import save
from torch.distributed.checkpoint.storage import StorageReader, StorageWriter, WriteResult
from torch.futures import Future

from common.checkpoint.folder import (
    WrittenFile,
    begin_folder,
    discard_folder,
    publish_folder,
    seal_file,
    unfinished_folder,
)
from common.checkpoint.pieces import Piece, PiecePlanner
from common.checkpoint.ranks import Ranks
from common.errors import UserError
from common.json_files import read_json_object

INDEX = "index.json"


class PieceEntry(TypedDict):
    """A box of a tensor in the index."""

    file: str
    offsets: list[int]
    shape: list[int]


class Entry(TypedDict):
    """A tensor in the index."""

    dtype: str
    shape: list[int]
    pieces: list[PieceEntry]


@dataclass(frozen=True)
class Place:
    """The file that holds a piece."""

    name: str
    file: WrittenFile


class FolderWriter(StorageWriter):
    """Writes one file per rank; the main rank adds the index and makes the folder appear.

    `complete` fills the unfinished folder with whatever else belongs to the checkpoint.
    """

    def __init__(self, target: Path, *, rank: int, complete: Callable[[Path], None]) -> None:
        super().__init__()
        self.target, self.complete = target, complete
        self.file_name = f"tensors_{rank:05d}.safetensors"

    def reset(self, checkpoint_id: str | PathLike[str] | None = None) -> None:
        """Nothing to forget: a writer writes one checkpoint."""

    def set_up_storage_writer(self, is_coordinator: bool, *args: object, **kwargs: object) -> None:
        """Nothing to prepare on every rank."""

    def prepare_local_plan(self, plan: SavePlan) -> SavePlan:
        """The planner's plan."""
        return plan

    def prepare_global_plan(self, plans: list[SavePlan]) -> list[SavePlan]:
        """The main rank makes the folder; the others write only when they have got their plan."""
        begin_folder(self.target)
        return plans

    def write_data(self, plan: SavePlan, planner: SavePlanner) -> Future[list[WriteResult]]:
        """Write, flush and digest this rank's file."""
        results: Future[list[WriteResult]] = Future()
        pieces = {item.index.fqn: planner.resolve_data(item) for item in plan.items}
        assert len(pieces) == len(plan.items), "a rank writes one piece of each tensor"
        if not pieces:
            results.set_result([])
            return results
        path = unfinished_folder(self.target) / self.file_name
        save_file({name: data for name, data in pieces.items() if isinstance(data, Tensor)}, path)
        place = Place(self.file_name, seal_file(path))
        results.set_result(
            [
                WriteResult(index=item.index, size_in_bytes=0, storage_data=place)
                for item in plan.items
            ]
        )
        return results

    def finish(self, metadata: Metadata, results: list[list[WriteResult]]) -> None:
        """On the main rank, when every rank has written: the folder appears."""
        written = [result for part in results for result in part]
        unfinished = unfinished_folder(self.target)
        files = {result.storage_data.name: result.storage_data.file for result in written}
        places = {result.index: result.storage_data.name for result in written}
        (unfinished / INDEX).write_text(json.dumps(_index(metadata, places)))
        self.complete(unfinished)
        others = [path for path in unfinished.iterdir() if path.name not in files]
        files |= {path.name: seal_file(path) for path in sorted(others)}
        publish_folder(self.target, files)

    @classmethod
    def validate_checkpoint_id(cls, checkpoint_id: str | PathLike[str]) -> bool:
        """Any path will do."""
        return True


class FolderReader(StorageReader):
    """Reads boxes of tensors from a verified checkpoint."""

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self.folder = folder
        self.metadata = _read_index(folder)

    @property
    def tensors(self) -> dict[str, TensorStorageMetadata]:
        """Type and shape of every tensor in the checkpoint."""
        entries = self.metadata.state_dict_metadata.items()
        return {n: entry for n, entry in entries if isinstance(entry, TensorStorageMetadata)}

    def reset(self, checkpoint_id: str | PathLike[str] | None = None) -> None:
        """Nothing to forget: a reader reads one checkpoint."""

    def read_metadata(self) -> Metadata:
        """Types, shapes and pieces of all tensors."""
        return self.metadata

    def set_up_storage_reader(self, metadata: Metadata, is_coordinator: bool) -> None:
        """Nothing to prepare."""

    def prepare_local_plan(self, plan: LoadPlan) -> LoadPlan:
        """The planner's plan."""
        return plan

    def prepare_global_plan(self, plans: list[LoadPlan]) -> list[LoadPlan]:
        """The planner's plans."""
        return plans

    def read_data(self, plan: LoadPlan, planner: LoadPlanner) -> Future[None]:
        """Copy each box into its tensor."""
        items: dict[str, list[ReadItem]] = defaultdict(list)
        for item in plan.items:
            items[self.metadata.storage_data[item.storage_index]].append(item)
        for name, wanted in items.items():
            with safe_open(self.folder / name, framework="pt") as file:
                for item in wanted:
                    target = planner.resolve_tensor(item)
                    target.copy_(_read_box(file, item))
                    planner.commit_tensor(item, target)
        done: Future[None] = Future()
        done.set_result(None)
        return done

    @classmethod
    def validate_checkpoint_id(cls, checkpoint_id: str | PathLike[str]) -> bool:
        """Any path will do."""
        return True


def write_pieces(pieces: dict[str, Piece], writer: FolderWriter, ranks: Ranks) -> None:
    """Write a checkpoint; all ranks must call, and it is there or has failed on all of them.

    Raises:
        UserError: when a rank could not write, e.g. because the disk is full.
    """
    _expect_silence(ranks)
    try:
        save(
            dict(pieces),
            storage_writer=writer,
            planner=PiecePlanner(),
            process_group=ranks.group,
            no_dist=ranks.group is None,
        )
    except CheckpointException as error:
        if ranks.is_main:
            discard_folder(writer.target)
        raise UserError(
            f"{writer.target} was not written ({_reason(error)}); the checkpoints before it are "
            "kept: look after the disk, then run again"
        ) from error


def read_into(tensors: dict[str, Tensor], reader: FolderReader, ranks: Ranks) -> None:
    """Fill tensors, whole or sharded, whose names, shapes and types the checkpoint has.

    Raises:
        UserError: when a rank could not read.
    """
    _expect_silence(ranks)
    try:
        load(
            tensors,
            storage_reader=reader,
            planner=DefaultLoadPlanner(flatten_state_dict=False, flatten_sharded_tensors=False),
            process_group=ranks.group,
            no_dist=ranks.group is None,
        )
    except CheckpointException as error:
        raise UserError(
            f"{reader.folder} was not read ({_reason(error)}); look after the disk, then run again"
        ) from error


def _reason(failed: CheckpointException) -> str:
    rank, (error, _) = min(failed.failures.items())
    return f"rank {rank}: {type(error).__name__}: {error}"


def _expect_silence(ranks: Ranks) -> None:
    """A single process is what it is: torch would warn of it at every checkpoint."""
    if ranks.group is None:
        warnings.filterwarnings("ignore", message="torch.distributed is disabled, unavailable or")


def _read_box(file: safe_open, item: ReadItem) -> Tensor:
    name = item.storage_index.fqn
    if not item.lengths:
        return file.get_tensor(name)
    ends = zip(item.storage_offsets, item.lengths, strict=True)
    return file.get_slice(name)[tuple(slice(first, first + length) for first, length in ends)]


def _index(metadata: Metadata, places: Mapping[MetadataIndex, str]) -> dict[str, Entry]:
    index: dict[str, Entry] = {}
    for name, tensor in metadata.state_dict_metadata.items():
        assert isinstance(tensor, TensorStorageMetadata)
        pieces = [
            PieceEntry(
                file=places[MetadataIndex(name, chunk.offsets)],
                offsets=list(chunk.offsets),
                shape=list(chunk.sizes),
            )
            for chunk in tensor.chunks
        ]
        dtype = str(tensor.properties.dtype).removeprefix("torch.")
        index[name] = Entry(dtype=dtype, shape=list(tensor.size), pieces=pieces)
    return index


def refuse_other_versions(folder: Path) -> None:
    """Raises UserError where a checkpoint is not of this form."""
    if not (folder / INDEX).is_file():
        raise UserError(f"{folder} has no {INDEX}: not a checkpoint of this version; start anew")


def _read_index(folder: Path) -> Metadata:
    """The index in torch's words; `storage_data` says which file holds a piece."""
    refuse_other_versions(folder)
    try:
        return _parsed_index(read_json_object(folder / INDEX))
    except (AttributeError, LookupError, TypeError, ValueError, RuntimeError) as error:
        raise UserError(
            f"{folder / INDEX} is no index of tensors ({error}); take another checkpoint"
        ) from error


def _parsed_index(index: Mapping[str, Any]) -> Metadata:
    tensors: dict[str, TensorStorageMetadata | BytesStorageMetadata] = {}
    places: dict[MetadataIndex, str] = {}
    for name, entry in index.items():
        chunks = []
        for piece in entry["pieces"]:
            offsets, shape = torch.Size(piece["offsets"]), torch.Size(piece["shape"])
            chunks.append(ChunkStorageMetadata(offsets, shape))
            if Path(piece["file"]).name != piece["file"]:
                raise ValueError(f"{piece['file']} does not lie beside it")
            places[MetadataIndex(name, offsets)] = piece["file"]
        dtype = getattr(torch, entry["dtype"])
        if not isinstance(dtype, torch.dtype):
            raise TypeError(f"{entry['dtype']} is no type of tensors")
        properties = TensorProperties(dtype=dtype)
        tensors[name] = TensorStorageMetadata(properties, torch.Size(entry["shape"]), chunks)
    return Metadata(state_dict_metadata=tensors, storage_data=places)
