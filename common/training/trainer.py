"""The training loop: read, update, observe, save, until the steps are done or someone says stop.

A run is a folder. Running it again goes on exactly where its newest good checkpoint is, bit for
bit; running a finished one says so. The loop knows no model: see `task.py`. The update itself is in
`update.py`, the order of the data in `loader.py`, what is stored in `common/checkpoint`.

    config.json  metrics.jsonl  samples.jsonl  checkpoints/  plots/  model/
"""

import json
import shutil
import signal
from collections.abc import Callable, Generator, Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, Literal, TypeVar

from common.checkpoint.random_state import undisturbed_random_state
from common.errors import UserError
from common.training.checkpointer import Checkpointer
from common.training.config_json import flatten, to_json
from common.training.display import Display
from common.training.interruption import Interruption
from common.training.loader import Share, States, Update, read_updates
from common.training.metrics import (
    JsonLines,
    Pace,
    Record,
    chain_keys,
    peak_flops,
    peak_memory,
)
from common.training.packing_state import packing_from_json, packing_to_json
from common.training.plots import write_plots
from common.training.progress import Progress
from common.training.run import RunConfig
from common.training.runtime import Runtime
from common.training.supply import SupplyTally
from common.training.task import BatchT, ModelT, Task
from common.training.update import Updater, Work

ResultT = TypeVar("ResultT")
Status = Literal["completed", "already completed", "interrupted"]


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """How `train` ended; `exit_status` is what a script should exit with."""

    status: Status
    step: int
    message: str
    exit_status: int


class Trainer(Generic[ModelT, BatchT]):
    """One run of one task in one folder: `Trainer(run, task, folder).train()`."""

    def __init__(self, run: RunConfig[Any], task: Task[ModelT, BatchT], folder: Path) -> None:
        self.run, self.task, self.folder = run, task, folder
        folder.mkdir(parents=True, exist_ok=True)
        self.runtime = Runtime(run, folder)
        self.checkpointer = Checkpointer(run, folder, self.runtime)
        self.facts = self.checkpointer.facts()
        self.progress = Progress.from_json(self.facts["progress"]) if self.facts else Progress()
        self.metrics = JsonLines(folder / "metrics.jsonl")
        self.samples = JsonLines(folder / "samples.jsonl")
        self.display = Display(steps=run.steps, visible=self.runtime.is_main)
        self.sources = task.sources()
        self.states: States = {}  # of the sources' packing
        self.supply = SupplyTally(max_fault_share=run.max_fault_share, say=self.display.say)
        self.keys_digest = ""  # of all sample keys this rank has read

    def train(self) -> Outcome:
        """Train to the end, or to the next step boundary after SIGTERM or Ctrl-C."""
        model_folder = self.folder / "model"
        if self.progress.is_over(self.run) and model_folder.is_dir():
            text = f"{self.folder} is complete: step {self.progress.step}, model in {model_folder}"
            return self._outcome("already completed", text)
        self.updater = Updater(self.run, self.task, self.runtime)
        self._restore()
        self._start_records()
        with closing(self._updates()) as updates, Interruption() as interruption, self.display:
            self._loop(updates, interruption)
        for tracker in self.runtime.accelerator.trackers:
            tracker.finish()
        if not self.progress.is_over(self.run):
            name = signal.Signals(self.received).name
            text = (
                f"stopped by {name} after step {self.progress.step}, state saved; "
                "run the same command again to continue"
            )
            return self._outcome("interrupted", text, exit_status=128 + self.received)
        self._finish(model_folder)
        text = f"finished at step {self.progress.step}; the model is in {model_folder}"
        return self._outcome("completed", text)

    def _loop(self, updates: Iterator[Update[BatchT]], interruption: Interruption) -> None:
        self.pace = Pace(
            peak=peak_flops(self.runtime.device, self.run.precision),
            num_ranks=self.runtime.num_ranks,
        )
        self.received = 0
        self.updater.model.train()
        while not self.progress.is_over(self.run) and not self.received:
            with self.pace.waiting():
                update = next(updates)
            work = self.updater.update(update.parts, number=self.progress.step + 1)
            self._advance(update, work)
            self._observe()
            # Ranks are told at different steps; they stop at the same one.
            self.received = self.runtime.agree_on(interruption.received)
            self._save_when_due()

    def _updates(self) -> Generator[Update[BatchT]]:
        return read_updates(
            self.sources,
            first=self.progress.step,
            last=self.run.steps,
            share=Share(
                rank=self.runtime.rank,
                num_ranks=self.runtime.num_ranks,
                num_micro_batches=self.run.num_micro_batches,
            ),
            num_workers=self.run.num_workers,
            states=self.states,
        )

    def _advance(self, update: Update[BatchT], work: Work) -> None:
        keys = [key for part in update.parts for key in part.batch.keys]
        self.keys_digest = chain_keys(self.keys_digest, keys)
        for part in update.parts:
            self.supply.add(part.supply)
        self.states = update.states
        self.progress.step += 1
        self.progress.tokens += work.tokens
        self.pace.add(tokens=work.tokens, flops=work.flops)
        self.display.advance(self.progress.step)

    def _observe(self) -> None:
        """Everything a reader may want to know after this step, in one record."""
        step = self.progress.step
        record: Record = {"step": step}
        if self._is_due(self.run.log_every):
            record |= self._figures()
            self._refuse_endless_skipping()
        with self.pace.paused():
            if self._is_due(self.run.validate_every):
                record |= self._validate()
            if self._is_due(self.run.sample_every):
                self._write_samples()
            if len(record) > 1 and self.runtime.is_main:
                self.metrics.append(record)
                self.display.show(step, record)
                numbers = {k: v for k, v in record.items() if isinstance(v, float | int)}
                self.runtime.accelerator.log(numbers, step=step)

    def _is_due(self, every: int | None) -> bool:
        step = self.progress.step
        return every is not None and (step % every == 0 or step == self.run.steps)

    def _figures(self) -> Record:
        digests = self.runtime.collect(self.keys_digest)
        record = self.updater.window.take()
        record |= {
            "learning_rate": self.updater.learning_rate,
            "tokens": self.progress.tokens,
            "keys": digests[0] if len(digests) == 1 else chain_keys("", digests),
        }
        record |= self.supply.figures(self.runtime.collect(self.supply.counts))
        return record | self.pace.take() | peak_memory(self.runtime.device) | self._monitor()

    def _monitor(self) -> dict[str, float]:
        return self.updater.engine.look(self.task.monitor)

    def _validate(self) -> dict[str, float]:
        figures = self.runtime.from_main(self._evaluated(self.task.validate))
        perplexity = figures.get("validation/perplexity")
        if perplexity is not None:
            self.progress.judge(perplexity, self.run)
        elif self.run.stop_patience is not None:
            raise UserError("stop_patience needs a task whose validation gives a perplexity")
        return figures

    def _write_samples(self) -> None:
        texts = self._evaluated(self.task.samples)
        if self.runtime.is_main:
            self.samples.append({"step": self.progress.step, "samples": texts})
            for text in texts:
                self.display.say(f"sample  {text}")

    def _evaluated(self, look: Callable[[ModelT], ResultT]) -> ResultT:
        """Look at the model without leaving a trace in the training."""
        model = self.updater.model
        model.eval()
        with undisturbed_random_state():
            result = self.updater.engine.look(look)
        model.train()
        return result

    def _refuse_endless_skipping(self) -> None:
        skipped = self.updater.window.skipped_in_row
        if skipped >= self.run.optimizer.max_skipped_in_row:
            raise UserError(
                f"the loss or gradient was not finite in the last {skipped} updates, to step "
                f"{self.progress.step}; lower optimizer.peak_learning_rate or lengthen the "
                "warm-up, or look for a bad sample; earlier checkpoints are kept"
            )

    def _save_when_due(self) -> None:
        due = self.progress.step % self.run.checkpoint.every_steps == 0
        if not due and not self.received and not self.progress.is_over(self.run):
            return
        with self.pace.paused():
            if self.runtime.is_main:  # A checkpoint must not survive without its metrics.
                self.metrics.flush_to_disk()
                self.samples.flush_to_disk()
            self.checkpointer.save(
                self.updater.model,
                self.updater.optimizer,
                step=self.progress.step,
                facts={
                    "progress": self.progress.to_json(),
                    "window": self.updater.window.to_json(),
                    "weighting": self.updater.balance.to_json(),
                    "keys": self.runtime.collect(self.keys_digest),
                    "data": packing_to_json(self.sources, self.states),
                    "supply": self.supply.to_json(self.runtime.collect(self.supply.counts)),
                },
            )

    def _restore(self) -> None:
        if self.facts is None:
            return
        self.checkpointer.restore(self.updater.model, self.updater.optimizer)
        self.updater.window.load(self.facts["window"])
        self.updater.balance.load(self.facts.get("weighting"))
        self.keys_digest = self.facts["keys"][self.runtime.rank]
        self.states = packing_from_json(self.sources, self.facts["data"])
        self.supply.load(self.facts["supply"], is_main=self.runtime.is_main)
        self.display.say(f"continuing after step {self.progress.step} of {self.checkpointer.found}")

    def _start_records(self) -> None:
        config = to_json(self.run)
        if self.runtime.is_main:
            (self.folder / "config.json").write_text(json.dumps(config, indent=2) + "\n")
            self.metrics.forget_after(self.progress.step)
            self.samples.forget_after(self.progress.step)
        if self.run.tracker != "none":
            plain = {name: str(value) for name, value in flatten(config).items()}
            self.runtime.accelerator.init_trackers(self.folder.name, config=plain)

    def _finish(self, model_folder: Path) -> None:
        """The exported model appears whole under its name, then the plots."""
        model = self.updater.engine.portable()
        if model is not None:
            unfinished = model_folder.with_name(".model.unfinished")
            shutil.rmtree(unfinished, ignore_errors=True)
            unfinished.mkdir()
            self.task.export(model.eval(), unfinished)
            write_plots(self.metrics.path, self.folder / "plots")
            shutil.rmtree(model_folder, ignore_errors=True)
            unfinished.rename(model_folder)
        self.runtime.barrier()

    def _outcome(self, status: Status, message: str, *, exit_status: int = 0) -> Outcome:
        self.display.say(message)
        step = self.progress.step
        return Outcome(status=status, step=step, message=message, exit_status=exit_status)
