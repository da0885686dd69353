"""The training loop: read, update, observe, save, until the steps are done or someone says stop.

A run is a folder. Running it again goes on exactly where its newest good checkpoint is, bit for
bit; running a finished one says so. The loop knows no model: see `task.py`. The update itself is in
`update.py`, the order of the data in `reading.py`, what is stored in `common/checkpoint`.

    config.json  run.json  metrics.jsonl  samples.jsonl  logs/  checkpoints/  plots/  model/

SIGTERM, SIGUSR1 and Ctrl-C stop it behind a whole update with the state saved (exit status 143, 138
and 130), a rank that dies or hangs ends the others (75), a user's mistake is one line (2).
"""

from contextlib import closing
from pathlib import Path
from typing import Any, Generic

import torch

from common.checkpoint.lost_rank import lost_ranks_told
from common.checkpoint.writing import disk_faults_told
from common.training.checkpointer import Checkpointer, Part
from common.training.display import Display
from common.training.finish import export_model
from common.training.interruption import Interruption
from common.training.manifest import Manifest
from common.training.observer import Observer
from common.training.outcome import Outcome, completed, interrupted
from common.training.progress import Progress
from common.training.rank_log import RankLog
from common.training.reading import Reading
from common.training.run import RunConfig
from common.training.runtime import Runtime
from common.training.spikes import SpikeWatch
from common.training.task import BatchT, ModelT, Prepares, Task
from common.training.update import Updater
from common.training.watchdog import Watchdog


class Trainer(Generic[ModelT, BatchT]):
    """One run of one task in one folder: `Trainer(run, task, folder).train()`."""

    def __init__(self, run: RunConfig[Any], task: Task[ModelT, BatchT], folder: Path) -> None:
        self.run, self.task, self.folder = run, task, folder
        with disk_faults_told(folder):
            folder.mkdir(parents=True, exist_ok=True)
        self.runtime = Runtime(run, folder)
        self.checkpointer = Checkpointer(run, folder, self.runtime)
        self.progress = Progress()
        if self.checkpointer.facts:
            self.progress.load(self.checkpointer.facts["parts"]["progress"])
        self.display = Display(steps=run.steps, visible=self.runtime.is_main)
        if isinstance(task, Prepares):
            dtype = torch.bfloat16 if run.precision == "bf16" else torch.float32
            task.prepare(folder, processes=self.runtime.processes, dtype=dtype)
        self.reading = Reading(run, task.sources(), self.runtime, say=self.display.say)
        self.spikes = SpikeWatch(run.health, warmup_steps=run.schedule.warmup_steps)
        self.received = 0  # a signal, by any rank

    def train(self) -> Outcome:
        """Train to the end, or to the next step boundary after a signal.

        Raises:
            UserError: a mistake of the user's.
            LostRankError: another rank has died; the same command again goes on.
        """
        if self.progress.is_over(self.run) and (self.folder / "model").is_dir():
            outcome = completed(self.folder, step=self.progress.step, already=True)
            self.display.say(outcome.message)
            return outcome
        log = RankLog(self.folder, self.runtime)
        manifest = Manifest(self.run, self.folder, self.runtime, self.progress)
        with log, manifest, lost_ranks_told("training stopped"):
            self._prepare()
            outcome = self._train(log.path)
            manifest.end(outcome.message, exit_status=outcome.exit_status)
            self.display.say(outcome.message)
        return outcome

    def _prepare(self) -> None:
        self.updater = Updater(self.run, self.task, self.runtime)
        self.parts: dict[str, Part] = {
            "progress": self.progress,
            "window": self.updater.window,
            "weighting": self.updater.balance,
            "spikes": self.spikes,
            "reading": self.reading,
        }
        if self.checkpointer.found:
            self.checkpointer.restore(self.updater, self.parts)
            self.display.say(self.checkpointer.description)
        self.observer = Observer(
            self.run,
            self.task,
            self.folder,
            runtime=self.runtime,
            display=self.display,
            updater=self.updater,
            reading=self.reading,
            progress=self.progress,
        )

    def _train(self, log: Path) -> Outcome:
        self.updater.model.train()
        with (
            Watchdog(self.run.health, log, tells=self.runtime.is_main) as watchdog,
            Interruption() as interruption,
            self.checkpointer,
            self.display,
            closing(self.reading.updates()) as updates,
        ):
            while not self.progress.is_over(self.run) and not self.received:
                with self.observer.pace.waiting():
                    update = next(updates)
                work = self.updater.update(update.parts, number=self.progress.step + 1)
                self.reading.take(update)
                self.progress.advance(tokens=work.tokens)
                spike = self.spikes.look(self.updater.window, step=self.progress.step)
                if spike is None:
                    self.observer.observe(work)
                else:
                    self._roll_back(first=spike)
                # Ranks are told at different steps; they stop at the same one.
                self.received = self.runtime.agree_on(interruption.received)
                self._save_when_due()
                watchdog.beat()
        self.observer.close()
        if not self.progress.is_over(self.run):
            return interrupted(self.received, step=self.progress.step)
        export_model(self.updater.engine, self.task, self.folder, runtime=self.runtime)
        return completed(self.folder, step=self.progress.step)

    def _roll_back(self, *, first: int) -> None:
        """Undo a loss spike: weights of before its first step, but data of after its last."""
        spike = f"the loss has spiked from step {first} to step {self.progress.step}"
        undone = self.progress.roll_backs
        self.spikes.refuse_more(spike, undone)
        if not self.checkpointer.go_back(before=first):
            self.spikes.forget()
            self.display.say(f"{spike}, and no checkpoint lies before it: training goes on")
            return
        weights = {name: part for name, part in self.parts.items() if name != "reading"}
        self.checkpointer.restore(self.updater, weights)
        self.progress.roll_backs = undone + 1
        self.observer.forget_later_steps()
        self.display.say(f"{spike}: back to step {self.progress.step}, on with the data behind it")

    def _save_when_due(self) -> None:
        due = self.progress.step % self.run.checkpoint.every_steps == 0
        if not due and not self.received and not self.progress.is_over(self.run):
            return
        with self.observer.pace.paused():
            self.observer.flush_to_disk()
            self.checkpointer.save(self.updater, self.parts, step=self.progress.step)
