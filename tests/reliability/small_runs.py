"""Runs of seconds by processes that are forked from one that has imported everything, and that die
before a chosen file operation or after a chosen time: `start(...)`, then `wait_for`."""

import contextlib
import json
import os
import signal
import socket
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from multiprocessing.connection import wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import flamingo.recipes
import flare.recipes
from common.training import finish
from common.training.command_line import main
from common.training.run import CheckpointConfig, RunConfig
from common.training.task import Task
from flamingo.task_config import SourceConfig
from tests.common.training.toy import make_task as make_toy
from tests.common.training.toy import toy
from tests.distributed.launch import preloaded

STEPS, EVERY = 10, 3
FILE_OPERATIONS = ("open", "os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.truncate")


@dataclass(frozen=True, kw_only=True)
class Death:
    """Of the process itself, without warning; None for never."""

    before_operation: int | None = None  # on files of the run, counted from 1
    of_save: bool = False  # count only those on an unfinished checkpoint
    after_s: float | None = None


def small(run: RunConfig[Any], task: Any) -> RunConfig[Any]:
    """A few steps with several checkpoints, with everything random that the task has."""
    return replace(
        run,
        task=task,
        steps=STEPS,
        schedule=replace(run.schedule, warmup_steps=3),
        checkpoint=CheckpointConfig(every_steps=EVERY),
        log_every=1,
        validate_every=None,
        sample_every=None,
    )


def small_flamingo() -> RunConfig[Any]:
    run = flamingo.recipes.flamingo_tiny()
    sources = (
        SourceConfig(name="documents", kind="scenes", batch_size=2, weight=1.0),
        SourceConfig(name="pairs", kind="scene_pairs", batch_size=4, weight=0.2),
    )
    task = replace(run.task, language_model=None, vision_encoder=None, sources=sources)
    return small(run, replace(task, augment_steps=4, max_tokens=48, max_images=4))


def small_flare() -> RunConfig[Any]:
    run = flare.recipes.flare_tiny()
    noise = {"patch_drop": 0.5, "layer_drop": 0.3, "hidden_frames": 0.2, "augment_steps": 5}
    return small(run, replace(run.task, batch_size=2, max_tokens=48, **noise))


Script = tuple[Callable[[], RunConfig[Any]], Callable[[RunConfig[Any]], Task[Any, Any]]]
SCRIPTS: dict[str, Script] = {
    "flamingo": (small_flamingo, flamingo.recipes.make_task),
    "flare": (small_flare, flare.recipes.make_task),
    "toy": (toy, make_toy),
}


def start(
    script: Script, folder: Path, *, deaths: Sequence[Death] = (Death(),)
) -> list[BaseProcess]:
    """The training command of a run, by a rank for each death."""
    context, port = preloaded(), _free_port()
    processes = []
    for rank, death in enumerate(deaths):
        environment = _environment(rank, len(deaths), port)
        work = (script, folder, death, environment)
        processes.append(context.Process(target=_train, args=work))
    for process in processes:
        process.start()
    return processes


def wait_for(
    processes: Sequence[BaseProcess], *, grace_s: float = 0.0, timeout_s: float = 100.0
) -> list[int | None]:
    """Their exit statuses; a while after one has failed the others are killed, as launchers do."""
    running = {process.sentinel: process for process in processes}
    while running:
        ended = [running.pop(sentinel) for sentinel in wait(list(running), timeout_s)]
        if not ended or (any(process.exitcode for process in ended) and not grace_s):
            for process in running.values():
                process.kill()
        timeout_s = grace_s or timeout_s
    return [process.exitcode for process in processes]


def num_operations(folder: Path, *, of_save: bool) -> int:
    """On files of a run, by its first process, if it has not died."""
    return int(json.loads(_note(folder).read_text())[of_save])


def quiet(output: Path) -> None:
    """What this process prints goes to a file; it draws nothing, as that outlasts the training."""
    output.parent.mkdir(parents=True, exist_ok=True)
    with output.open("a") as file:
        for descriptor in (1, 2):
            os.dup2(file.fileno(), descriptor)
    finish.write_plots = lambda metrics, folder: []


def _train(script: Script, folder: Path, death: Death, environment: Mapping[str, str]) -> None:
    rank = environment.get("RANK", "0")
    quiet(Path(f"{folder}.output_{rank}"))
    os.environ |= environment
    recipe, make_task = script
    counter = _Operations(folder, death)
    words = ["run", "--run-folder", str(folder)]
    sys.argv = ["train"]
    status = main({"run": recipe}, make_task, description="", arguments=words)
    if rank == "0":
        _note(folder).write_text(json.dumps([counter.number, counter.number_of_save]))
    with contextlib.suppress(BrokenPipeError):
        sys.stdout.flush()
    os._exit(status)


class _Operations:
    """Counts operations on files of a run, on all threads, and dies when its time has come."""

    def __init__(self, folder: Path, death: Death) -> None:
        self.folder, self.death = str(folder) + os.sep, death
        self.number = self.number_of_save = 0
        sys.addaudithook(self._hear)
        if death.after_s is not None:
            timer = threading.Timer(death.after_s, _die)
            timer.daemon = True
            timer.start()

    def _hear(self, event: str, arguments: tuple[Any, ...]) -> None:
        if event in FILE_OPERATIONS and str(arguments[0]).startswith(self.folder):
            is_of_save = ".step_" in str(arguments[0])
            self.number += 1
            self.number_of_save += is_of_save
            mine = self.number_of_save if self.death.of_save else self.number
            if mine == self.death.before_operation and (is_of_save or not self.death.of_save):
                _die()


def _die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def _note(folder: Path) -> Path:
    return Path(f"{folder}.operations")


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("localhost", 0))
        return int(listener.getsockname()[1])


def _environment(rank: int, num_ranks: int, port: int) -> dict[str, str]:
    if num_ranks == 1:
        return {}
    numbers = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": num_ranks, "MASTER_PORT": port}
    return {"MASTER_ADDR": "localhost", **{key: str(value) for key, value in numbers.items()}}
