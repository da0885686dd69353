"""A run that starts again whenever it has ended, in one process, while signals, a refusing disk and
gradients that are not finite disturb it, and somebody looks at memory, open files and logs."""

import os
import random
import resource
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from common.errors import UserError
from common.training.run import RunConfig
from common.training.task import Computed
from common.training.trainer import Trainer
from tests.reliability.small_runs import quiet

PAUSES_S = (2.0, 7.0)  # between two faults
FEWEST_BATCHES = 3  # between two faults, so that a slow machine gets on, too
DISK_REFUSES_S = (0.5, 2.0)
SMALLEST_FILE = 64  # bytes a file may have while the disk refuses
BAD_GRADIENTS = 0.02  # of the updates
SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)


@dataclass(kw_only=True)
class Sample:
    """What a process takes at one moment."""

    seconds: float  # of the machine's clock
    memory_mib: float
    files: int
    threads: int
    log_bytes: int


@dataclass(kw_only=True)
class Disturbed:
    """What a run has met, and what it took."""

    events: Counter[str] = field(default_factory=Counter)
    endings: Counter[str] = field(default_factory=Counter)
    samples: list[Sample] = field(default_factory=list)
    leftovers: list[str] = field(default_factory=list)
    batches: int = 0

    def to_json(self) -> dict[str, Any]:
        """As the report reads it."""
        return {**vars(self), "samples": [vars(sample) for sample in self.samples]}


def train_undisturbed(run: RunConfig[Any], task: Any, folder: Path) -> None:
    """To the end."""
    quiet(Path(f"{folder}.output"))
    Trainer(run, task, folder).train()


def train_disturbed(run: RunConfig[Any], task: Any, folder: Path, *, seed: int) -> Disturbed:
    """To the end, however often it takes."""
    quiet(Path(f"{folder}.output"))
    met = Disturbed()
    spoil(task, random.Random(seed), met)
    end = threading.Event()
    with watched(folder, met, end), disturbing(random.Random(seed + 100), met, end):
        while True:
            ending = _train_once(run, task, folder, met)
            met.endings[ending] += 1
            if ending == "completed":
                break
    met.leftovers = [str(path.relative_to(folder)) for path in folder.rglob(".*")]
    return met


def _train_once(run: RunConfig[Any], task: Any, folder: Path, met: Disturbed) -> str:
    try:
        return Trainer(run, task, folder).train().status
    except UserError as error:
        # Whatever else a run ends with is a fault of ours.
        if "look after the disk" not in str(error):
            raise
        time.sleep(0.3)
        return "disk"


def spoil(task: Any, dice: random.Random, met: Disturbed) -> None:
    """Makes the loss of some updates infinite or not a number."""
    compute: Callable[..., Computed] = task.compute

    def spoilt(model: Any, source: str, batch: Any) -> Computed:
        computed = compute(model, source, batch)
        met.batches += 1
        if dice.random() >= BAD_GRADIENTS:
            return computed
        met.events["not finite"] += 1
        value = dice.choice([torch.nan, torch.inf])
        losses = {name: loss * value for name, loss in computed.losses.items()}
        return replace(computed, losses=losses)

    task.compute = spoilt


@contextmanager
def disturbing(dice: random.Random, met: Disturbed, end: threading.Event) -> Iterator[None]:
    """Signals and a disk that refuses, at random times, from a thread of its own."""

    def disturb() -> None:
        before = 0
        while not end.wait(dice.uniform(*PAUSES_S)):
            if met.batches < before + FEWEST_BATCHES:
                continue
            before = met.batches
            if dice.random() < 0.5:
                number = dice.choice(SIGNALS)
                if signal.getsignal(number) not in (signal.SIG_DFL, signal.default_int_handler):
                    met.events[number.name] += 1
                    os.kill(os.getpid(), number)
            else:
                met.events["disk refuses"] += 1
                _refuse_writes(dice.uniform(*DISK_REFUSES_S), end)

    thread = threading.Thread(target=disturb)
    thread.start()
    try:
        yield
    finally:
        end.set()
        thread.join()


def _refuse_writes(seconds: float, end: threading.Event) -> None:
    """Every write beyond the first bytes of a file fails, as on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (SMALLEST_FILE, hard))
    end.wait(seconds)
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@contextmanager
def watched(folder: Path, met: Disturbed, end: threading.Event) -> Iterator[None]:
    """Every half second."""
    page = resource.getpagesize()

    def watch() -> None:
        while not end.wait(0.5):
            resident = int(Path("/proc/self/statm").read_text().split()[1])
            met.samples.append(
                Sample(
                    seconds=time.monotonic(),
                    memory_mib=resident * page / 2**20,
                    files=len(os.listdir("/proc/self/fd")),
                    threads=threading.active_count(),
                    log_bytes=_num_bytes(folder),
                )
            )

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield
    finally:
        end.set()
        thread.join()


def _num_bytes(folder: Path) -> int:
    """Of logs and records, not of checkpoints and the model."""
    names = [*folder.glob("logs/*"), *folder.glob("*.json*")]
    return sum(path.stat().st_size for path in names if path.exists())
