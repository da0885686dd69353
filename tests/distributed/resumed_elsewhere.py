"""Runs that stop and go on under another division of the work, by a rank of four:
`python -m tests.distributed.resumed_elsewhere FOLDER`. Of each writer's run there are the folders

    straight    to the end
    N           from its first checkpoint to the end under the writer's Nth reader
    exported_N  from its last checkpoint straight to the exported model

and in FOLDER/spike two runs that roll back, by the ranks that their names say.
"""

import os
import shutil
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch.distributed as dist
from accelerate.state import AcceleratorState

from common.parallel.mesh import ParallelConfig
from common.training.run import CheckpointConfig, RunConfig
from common.training.task import Task
from common.training.trainer import Trainer
from flare.recipes import flare_tiny
from flare.task import FlareTask
from tests.common.training import test_spikes
from tests.common.training.toy import ToyConfig, ToyTask, toy

STEPS, STOPPED_AFTER = 4, 2


@dataclass(frozen=True, kw_only=True)
class Division:
    """How the work of a run is divided."""

    ranks: int
    shard: int = 1
    pipeline: int = 1
    micro_batches: int = 1


# Each stops, and goes on under those behind it.
DIVISIONS = {
    "copies_of_shards": (
        Division(ranks=4, shard=2),
        [
            Division(ranks=4, shard=4),
            Division(ranks=2, shard=2, micro_batches=2),
            Division(ranks=1, micro_batches=4),
        ],
    ),
    "copies": (Division(ranks=2), [Division(ranks=1)]),
    "stages": (
        Division(ranks=4, shard=2, pipeline=2),
        [
            Division(ranks=4, shard=4),
            Division(ranks=2, pipeline=2, micro_batches=2),
            Division(ranks=1, micro_batches=4),
        ],
    ),
}
WRITERS = {"toy": ("copies_of_shards", "copies"), "flare": ("stages",)}


def run_of(name: str, division: Division) -> tuple[RunConfig[Any], Task[Any, Any]]:
    """In single precision, without dropout, which no two divisions share."""
    run, task = spiking_run() if name == "spike" else small_run(name)
    parallel = ParallelConfig(shard=division.shard)
    return replace(run, num_micro_batches=division.micro_batches, parallel=parallel), task


def spiking_run() -> tuple[RunConfig[Any], Task[Any, Any]]:
    """Long enough for a roll-back."""
    config = ToyConfig(dropout=0.0)
    return replace(test_spikes.run_of(), task=config), test_spikes.WildTask(config)


def small_run(name: str) -> tuple[RunConfig[Any], Task[Any, Any]]:
    """A few updates."""
    run = toy() if name == "toy" else flare_tiny()
    small = {"dropout": 0.0}
    if name == "flare":
        small = {"batch_size": 8, "max_tokens": 64, "frozen": ("audio_encoder",)}
    config = replace(run.task, **small)
    run = replace(
        run,
        task=config,
        steps=STEPS,
        schedule=replace(run.schedule, warmup_steps=1),
        checkpoint=CheckpointConfig(every_steps=STOPPED_AFTER),
        log_every=1,
        validate_every=None,
        sample_every=None,
    )
    return run, ToyTask(config) if name == "toy" else FlareTask(config, steps=STEPS)


@contextmanager
def ranks_of(division: Division, meeting_point: Path) -> Iterator[bool]:
    """Whether this process takes part; those that do are a process group inside."""
    rank = int(os.environ["OWN_RANK"])
    takes_part = rank < division.ranks
    if takes_part:
        os.environ |= {
            "RANK": str(rank),
            "LOCAL_RANK": str(rank),
            "WORLD_SIZE": str(division.ranks),
        }
        AcceleratorState._reset_state(reset_partial_state=True)
    if takes_part and division.ranks > 1:
        meeting_point.parent.mkdir(parents=True, exist_ok=True)
        place = f"file://{meeting_point}"
        dist.init_process_group("gloo", init_method=place, rank=rank, world_size=division.ranks)
    yield takes_part
    if dist.is_initialized():
        dist.destroy_process_group()


def train(name: str, division: Division, folder: Path) -> None:
    """To the end, from wherever the folder is."""
    with ranks_of(division, folder.with_suffix(".meeting")) as takes_part:
        if takes_part:
            run, task = run_of(name, division)
            assert Trainer(run, task, folder).train().status == "completed"


def copy_at(step: int, source: Path, target: Path) -> None:
    """The folder of a run as it was when it was stopped after a step."""
    shutil.copytree(source, target)
    shutil.rmtree(target / "model")
    for checkpoint in (target / "checkpoints").iterdir():
        if int(checkpoint.name.removeprefix("step_")) > step:
            shutil.rmtree(checkpoint)


def resumptions(name: str, readers: Sequence[Division]) -> Iterator[tuple[str, int, Division]]:
    """Folder, step and division of every resumption; of the larger model one export will do."""
    for number, reader in enumerate(readers):
        yield f"{number}", STOPPED_AFTER, reader
        if name == "toy" or number == len(readers) - 1:
            yield f"exported_{number}", STEPS, reader


def train_all(name: str, writer: Division, readers: Sequence[Division], folder: Path) -> None:
    straight = folder / "straight"
    train(name, writer, straight)
    for label, step, reader in resumptions(name, readers):
        if int(os.environ["OWN_RANK"]) == 0:  # The others wait for it where they meet.
            copy_at(step, straight, folder / label)
        train(name, reader, folder / label)


if __name__ == "__main__":
    os.environ["OWN_RANK"] = os.environ["RANK"]
    for task_name, labels in WRITERS.items():
        for label in labels:
            train_all(task_name, *DIVISIONS[label], Path(sys.argv[1], task_name, label))
    for division in (Division(ranks=4, shard=2), Division(ranks=1, micro_batches=2)):
        train("spike", division, Path(sys.argv[1], "spike", f"{division.ranks}"))
