"""Weights of a checkpoint as plain safetensors: the form in which models are passed on.

Reads any checkpoint, however many ranks have written it, in one process without a process group;
at most one file of the result is in memory at a time. Only what the checkpoint holds is exported:
trained parameters and buffers, not the frozen part.
"""

import json
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch.distributed.checkpoint.metadata import TensorStorageMetadata

from common.checkpoint.folder import DamagedCheckpointError, verify_folder
from common.checkpoint.ranks import Ranks
from common.checkpoint.storage import FolderReader, read_into
from common.errors import UserError

PREFIX = "model."


def export_safetensors(checkpoint: Path, out: Path, *, max_shard_bytes: int) -> list[Path]:
    """Write `model-00001-of-00003.safetensors` ... and their index; returns the written files.

    A file is larger than `max_shard_bytes` only when a single tensor is.

    Raises:
        UserError: when the checkpoint is damaged, or `out` is not empty.
    """
    if out.exists() and any(out.iterdir()):
        raise UserError(f"{out} is not empty; export into a new folder")
    try:
        verify_folder(checkpoint)
    except DamagedCheckpointError as error:
        raise UserError(f"{error}; export another checkpoint") from error
    reader = FolderReader(checkpoint)
    weights = {name: entry for name, entry in reader.tensors.items() if name.startswith(PREFIX)}
    shards = _divide(weights, max_shard_bytes)
    out.mkdir(parents=True, exist_ok=True)
    places: dict[str, str] = {}
    for number, names in enumerate(shards, 1):
        file = f"model-{number:05d}-of-{len(shards):05d}.safetensors"
        _export_shard({name: weights[name] for name in names}, reader, out / file)
        places |= {name.removeprefix(PREFIX): file for name in names}
    total = sum(_num_bytes(entry) for entry in weights.values())
    index = {"metadata": {"total_size": total}, "weight_map": places}
    (out / "model.safetensors.index.json").write_text(json.dumps(index, indent=2) + "\n")
    return sorted(out.iterdir())


def _divide(weights: dict[str, TensorStorageMetadata], max_shard_bytes: int) -> list[list[str]]:
    """Consecutive names, as many as fit into a file."""
    shards: list[list[str]] = []
    room = 0
    for name, entry in weights.items():
        size = _num_bytes(entry)
        if not shards or size > room:
            shards.append([])
            room = max_shard_bytes
        shards[-1].append(name)
        room -= size
    return shards


def _export_shard(
    entries: dict[str, TensorStorageMetadata], reader: FolderReader, path: Path
) -> None:
    tensors = {n: torch.empty(e.size, dtype=e.properties.dtype) for n, e in entries.items()}
    read_into(tensors, reader, Ranks())
    plain = {name.removeprefix(PREFIX): tensor for name, tensor in tensors.items()}
    save_file(plain, path, metadata={"format": "pt"})


def _num_bytes(entry: TensorStorageMetadata) -> int:
    return entry.size.numel() * entry.properties.dtype.itemsize
