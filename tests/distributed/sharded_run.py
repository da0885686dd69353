"""Whole runs of `Trainer` in float64: `python -m tests.distributed.sharded_run FOLDER flare 2`
trains into FOLDER/straight, and into FOLDER/broken with an interruption that is resumed."""

import os
import signal
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch.distributed as dist

from common.training.outcome import Outcome
from common.training.run import CheckpointConfig, RunConfig
from common.training.task import Task
from common.training.trainer import Trainer
from tests.distributed.sharded_updates import Case, run_of

STEPS, STOP_AFTER = 3, 2


def whole_run(name: str, *, shard: int) -> tuple[RunConfig[Any], Task[Any, Any]]:
    """A few steps with everything that a run does."""
    run, task = run_of(Case(name=name, shard=shard))
    # What is validated follows the sources; one of them shows it all.
    task.config = replace(task.config, sources=task.config.sources[:1])
    run = replace(
        run,
        task=task.config,
        steps=STEPS,
        checkpoint=CheckpointConfig(every_steps=2),
        log_every=1,
        validate_every=STEPS,
        sample_every=STEPS,
    )
    return run, task


def train(name: str, folder: Path, *, shard: int, stop: bool = False) -> Outcome:
    """Train to the end, or to a signal that the first rank sends itself in an update."""
    run, task = whole_run(name, shard=shard)
    if stop:
        _interrupt(task)
    return Trainer(run, task, folder).train()


def _interrupt(task: Any) -> None:
    count, seen = task.flops, []

    def flops(model: Any, source: str, batch: Any) -> float:
        seen.append(source)
        if len(seen) == STOP_AFTER * 2 * len(task.sources()) and not int(os.environ["RANK"]):
            os.kill(os.getpid(), signal.SIGTERM)
        return float(count(model, source, batch))

    task.flops = flops


if __name__ == "__main__":
    folder, name, ranks = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
    assert train(name, folder / "straight", shard=ranks).status == "completed"
    stopped = train(name, folder / "broken", shard=ranks, stop=True)
    assert (stopped.status, stopped.step) == ("interrupted", STOP_AFTER)
    assert train(name, folder / "broken", shard=ranks).status == "completed"
    dist.destroy_process_group()
