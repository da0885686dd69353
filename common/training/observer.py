"""What a reader sees of a run: records of figures, validations, samples, on the steps that are due.

    metrics.jsonl  samples.jsonl    one line for a step, bit-equal after a resume but for the clock

Looking leaves no trace in the training, except that validations may end it (`stop_patience`).
"""

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any, Generic, TypeVar

from common.checkpoint.random_state import undisturbed_random_state
from common.errors import UserError
from common.training.config_json import flatten, to_json
from common.training.display import Display
from common.training.metrics import (
    JsonLines,
    Pace,
    Record,
    host_memory,
    peak_flops,
    peak_memory,
)
from common.training.progress import Progress
from common.training.reading import Reading
from common.training.run import RunConfig
from common.training.runtime import Runtime
from common.training.task import BatchT, ModelT, Task
from common.training.update import Updater, Work

logger = logging.getLogger(__name__)
ResultT = TypeVar("ResultT")


class Observer(Generic[ModelT, BatchT]):
    """Looks at the parts of a trainer; all ranks call alike, the main one writes."""

    def __init__(
        self,
        run: RunConfig[Any],
        task: Task[ModelT, BatchT],
        folder: Path,
        *,
        runtime: Runtime,
        display: Display,
        updater: Updater[ModelT, BatchT],
        reading: Reading[BatchT],
        progress: Progress,
    ) -> None:
        self.run, self.task, self.runtime, self.display = run, task, runtime, display
        self.updater, self.reading, self.progress = updater, reading, progress
        self.metrics = JsonLines(folder / "metrics.jsonl")
        self.samples = JsonLines(folder / "samples.jsonl")
        self.pace = Pace(
            peak=peak_flops(runtime.device, run.precision), num_ranks=runtime.num_ranks
        )
        self.forget_later_steps()
        if run.tracker != "none":
            plain = {name: str(value) for name, value in flatten(to_json(run)).items()}
            runtime.accelerator.init_trackers(folder.name, config=plain)

    def observe(self, work: Work) -> None:
        """Everything a reader may want to know after this step, in one record.

        Raises:
            UserError: too many updates in a row were skipped, or samples replaced.
        """
        step = self.progress.step
        self.pace.add(tokens=work.tokens, flops=work.flops)
        self.display.advance(step)
        record: Record = {"step": step}
        if self._is_due(self.run.log_every):
            record |= self._figures()
            self._note_skipped()
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

    def forget_later_steps(self) -> None:
        """Drop what was written of steps that will come again."""
        self.updater.window.take_skips()
        self.reading.take_keys()
        if self.runtime.is_main:
            self.metrics.forget_after(self.progress.step)
            self.samples.forget_after(self.progress.step)

    def flush_to_disk(self) -> None:
        """A checkpoint must not survive without its records."""
        if self.runtime.is_main:
            self.metrics.flush_to_disk()
            self.samples.flush_to_disk()

    def close(self) -> None:
        """Close the trackers."""
        for tracker in self.runtime.accelerator.trackers:
            tracker.finish()

    def _is_due(self, every: int | None) -> bool:
        step = self.progress.step
        return every is not None and (step % every == 0 or step == self.run.steps)

    def _figures(self) -> Record:
        memory = peak_memory(self.runtime.device)
        logger.debug("step %d: most memory so far %s", self.progress.step, host_memory() | memory)
        record = self.updater.window.take()
        record |= {
            "learning_rate": self.updater.learning_rate,
            "tokens": self.progress.tokens,
            "roll_backs": self.progress.roll_backs,
        }
        monitored = self.updater.engine.look(self.task.monitor)
        return record | self.reading.figures() | self.pace.take() | memory | monitored

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
        model = self.updater.model
        model.eval()
        with undisturbed_random_state():
            result = self.updater.engine.look(look)
        model.train()
        return result

    def _note_skipped(self) -> None:
        """Every rank notes in its log what it has read for an update that was left out."""
        skips, read = self.updater.window.take_skips(), self.reading.take_keys()
        for number, (skip, keys) in enumerate(
            zip(skips, read, strict=True), self.progress.step - len(skips) + 1
        ):
            if skip:
                logger.debug("update %d is not finite and left out; read: %s", number, keys)

    def _refuse_endless_skipping(self) -> None:
        skipped = self.updater.window.skipped_in_row
        if skipped >= self.run.optimizer.max_skipped_in_row:
            raise UserError(
                f"the loss or gradient was not finite in the last {skipped} updates, to step "
                f"{self.progress.step}; lower optimizer.peak_learning_rate or lengthen the "
                "warm-up, or look for a bad sample; earlier checkpoints are kept"
            )
