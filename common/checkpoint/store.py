"""The checkpoints of a run, written in the background by all its ranks and read by any number.

A checkpoint is a folder without pickle that any single process can read, too:

    tensors_00003.safetensors  index.json   weights, optimizer, random bytes (`storage.py`)
    state.json                              facts of the run, the other random generators
    manifest.json                           size and SHA-256 of every file (`folder.py`)

Every rank of the run makes one store and calls the same methods in the same order.
"""

import json
import logging
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.checkpoint.metadata import TensorStorageMetadata
from torch.optim import Optimizer

from common.checkpoint.folder import (
    newest_good_checkpoint,
    remove_checkpoints_from,
    remove_old_checkpoints,
    step_folder,
)
from common.checkpoint.lost_rank import lost_ranks_told
from common.checkpoint.pieces import Piece, copy_to_host, is_whole, own_pieces
from common.checkpoint.random_state import RandomState, capture_random_state
from common.checkpoint.ranks import all_ranks
from common.checkpoint.storage import (
    FolderReader,
    FolderWriter,
    read_into,
    refuse_other_versions,
    write_pieces,
)
from common.checkpoint.tensors import (
    model_tensors_by_name,
    optimizer_tensors_by_name,
    trained_parameters,
)
from common.errors import UserError
from common.json_files import read_json_object

logger = logging.getLogger(__name__)

# Parsed JSON: what is inside is checked by whoever knows its meaning.
Facts = dict[str, Any]
STATE = "state.json"


class CheckpointStore:
    """Saves and loads; the constructor is collective."""

    def __init__(self, checkpoints: Path, *, keep: int) -> None:
        self.checkpoints, self.keep = checkpoints, keep
        self.ranks = all_ranks()
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="checkpoint")
        self._writing: Future[None] | None = None

    def newest_good(self, *, before: int | None = None) -> Path | None:
        """The newest checkpoint, before some step, that matches its digests; see `folder.py`.

        Raises:
            UserError: when there are checkpoints and every one is damaged.
        """
        self.wait()
        return newest_good_checkpoint(self.checkpoints, self.ranks, before=before)

    def forget_from(self, step: int) -> None:
        """Remove the checkpoints of a step and those behind it."""
        self.wait()
        self.ranks.on_main(partial(remove_checkpoints_from, self.checkpoints, step))

    def save(
        self,
        modules: Sequence[nn.Module],
        optimizer: Optimizer,
        *,
        step: int,
        facts: Mapping[str, Any],
    ) -> None:
        """Copy the state of all ranks, and write it in the background; `wait` ends that.

        The facts of the main rank are kept. Weights may change as soon as this returns.

        Raises:
            UserError: when the checkpoint before this one could not be written.
        """
        self.wait()
        random = capture_random_state()
        tensors = model_tensors_by_name(modules) | optimizer_tensors_by_name(modules, optimizer)
        own_random = {f"random.{self.ranks.rank}.{n}": t for n, t in random.tensors.items()}
        tensors |= own_random
        whole = {name for name, tensor in tensors.items() if is_whole(tensor)}
        generators = {"python": random.python, "numpy": random.numpy}
        answers = self.ranks.collect((whole, generators))
        earlier = (names for names, _ in answers[: self.ranks.rank])
        pieces = copy_to_host(own_pieces(tensors, written_elsewhere=set().union(*earlier)))
        state = {**facts, "generators": [generators for _, generators in answers]}
        self._writing = self._thread.submit(self._write, pieces, json.dumps(state, indent=1), step)

    def wait(self) -> None:
        """Return when no checkpoint is being written; all ranks fail together.

        Raises:
            UserError: when the last one could not be written; the ones before it are kept.
            LostRankError: when another rank has died meanwhile.
        """
        writing, self._writing = self._writing, None
        if writing is None:
            return
        with lost_ranks_told(f"the last checkpoint in {self.checkpoints} was not written"):
            writing.result()

    def load(
        self, folder: Path, modules: Sequence[nn.Module], optimizer: Optimizer
    ) -> RandomState | None:
        """Fill model and optimizer from a checkpoint that `newest_good` has returned.

        However many ranks have written it and however they had sharded it. The random state is
        None when it was written by another number of ranks.

        Raises:
            UserError: when a tensor is missing, unknown or of another shape or type; it is named,
                on all ranks, and nothing is changed.
        """
        self.wait()
        reader = FolderReader(folder)
        saved = reader.tensors
        model = model_tensors_by_name(modules)
        fresh = _empty_optimizer_tensors(saved, modules, optimizer)
        self._refuse_differences(saved, model, fresh)
        facts = load_facts(folder)
        mine = f"random.{self.ranks.rank}."
        random = {
            name: torch.empty(entry.size, dtype=entry.properties.dtype)
            for name, entry in saved.items()
            if name.startswith(mine)
        }
        read_into(model | fresh | random, reader, self.ranks)
        _set_optimizer_tensors(fresh, modules, optimizer)
        if len(facts["generators"]) != self.ranks.num_ranks:
            return None
        devices = {name.removeprefix(mine): tensor for name, tensor in random.items()}
        return RandomState(tensors=devices, **facts["generators"][self.ranks.rank])

    def _write(self, pieces: dict[str, Piece], state: str, step: int) -> None:
        def complete(unfinished: Path) -> None:
            (unfinished / STATE).write_text(state)

        start = time.perf_counter()
        target = step_folder(self.checkpoints, step)
        writer = FolderWriter(target, rank=self.ranks.rank, complete=complete)
        write_pieces(pieces, writer, self.ranks)
        self.ranks.on_main(partial(remove_old_checkpoints, self.checkpoints, newest=self.keep))
        logger.debug("%s written in %.1f s", target, time.perf_counter() - start)

    def _refuse_differences(
        self,
        saved: Mapping[str, TensorStorageMetadata],
        model: Mapping[str, Tensor],
        optimizer: Mapping[str, Tensor],
    ) -> None:
        """The names of all ranks together are those of the checkpoint; shapes and types agree."""
        known = set().union(*self.ranks.collect({*model, *optimizer}))
        stored = {name for name in saved if not name.startswith("random.")}
        missing, unknown = sorted(known - stored), sorted(stored - known)
        if missing or unknown:
            raise UserError(
                f"the checkpoint does not fit the model: missing {missing[:5]} ({len(missing)} in "
                f"all), unknown {unknown[:5]} ({len(unknown)} in all); build the model it is of"
            )
        self.ranks.together(partial(_refuse_other_shapes, saved, model))


def load_facts(folder: Path) -> Facts:
    """What a verified checkpoint knows beside tensors.

    Raises:
        UserError: it is of another version, or no JSON.
    """
    refuse_other_versions(folder)
    return read_json_object(folder / STATE)


def _empty_optimizer_tensors(
    saved: Mapping[str, TensorStorageMetadata], modules: Sequence[nn.Module], optimizer: Optimizer
) -> dict[str, Tensor]:
    """Room for the saved quantities of this rank's parameters, laid out as the parameters are."""
    parameters = trained_parameters(modules)
    on_host = {
        parameter
        for group in optimizer.param_groups
        for parameter in group["params"]
        # Adam counts its steps on the host unless its kernel does it.
        if not group.get("fused") and not group.get("capturable")
    }
    empty: dict[str, Tensor] = {}
    for name, entry in saved.items():
        parameter = parameters.get(name.removeprefix("optimizer.").rpartition(".")[0])
        if not name.startswith("optimizer.") or parameter is None:
            continue
        dtype = entry.properties.dtype
        if entry.size == parameter.shape:
            empty[name] = torch.empty_like(parameter.detach(), dtype=dtype)
        else:
            device = "cpu" if parameter in on_host else parameter.device
            empty[name] = torch.empty(entry.size, dtype=dtype, device=device)
    return empty


def _set_optimizer_tensors(
    tensors: Mapping[str, Tensor], modules: Sequence[nn.Module], optimizer: Optimizer
) -> None:
    parameters = trained_parameters(modules)
    optimizer.state.clear()
    for name, tensor in tensors.items():
        parameter, _, quantity = name.removeprefix("optimizer.").rpartition(".")
        optimizer.state[parameters[parameter]][quantity] = tensor


def _refuse_other_shapes(
    saved: Mapping[str, TensorStorageMetadata], model: Mapping[str, Tensor]
) -> None:
    for name, tensor in model.items():
        size, dtype = saved[name].size, saved[name].properties.dtype
        if size != tensor.shape or dtype != tensor.dtype:
            raise UserError(
                f"the checkpoint's {name} is {dtype} {tuple(size)}, the model's {tensor.dtype} "
                f"{tuple(tensor.shape)}; build the model it is of"
            )
