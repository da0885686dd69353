"""What a user sees while training: a progress bar on a terminal, plain lines anywhere else."""

import logging
import sys
from collections.abc import Mapping
from contextlib import suppress
from types import TracebackType

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

logger = logging.getLogger(__name__)


class ConsoleHandler(logging.Handler):
    """Writes to whatever is standard output now, so that lines and the bar do not collide.

    A line that nobody takes, on a full disk or behind `| head`, is lost: it must not end a run.
    """

    def emit(self, record: logging.LogRecord) -> None:
        with suppress(OSError):
            sys.stdout.write(self.format(record) + "\n")
            sys.stdout.flush()


def configure_logging(*, is_main: bool) -> None:
    """For scripts: messages of this project on standard output, from one process only."""
    root = logging.getLogger()
    if not any(isinstance(handler, ConsoleHandler) for handler in root.handlers):
        # The level is the terminal's alone: the logs of the ranks take more (`rank_log.py`).
        root.addHandler(ConsoleHandler(logging.INFO if is_main else logging.ERROR))
    logging.getLogger(__name__.split(".", maxsplit=1)[0]).setLevel(logging.INFO)


class Display:
    """Progress of one run; entered on the main rank only when `visible`."""

    def __init__(self, *, steps: int, visible: bool) -> None:
        self.steps = steps
        self.visible = visible
        self.bar: Progress | None = None

    def __enter__(self) -> "Display":
        if self.visible and sys.stdout.isatty():
            self.bar = Progress(
                TextColumn("{task.description}"),
                BarColumn(),
                MofNCompleteColumn(),
                TimeRemainingColumn(),
            )
            self.bar.start()
            self.bar.add_task("training", total=self.steps)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self.bar is not None:
            self.bar.stop()
            self.bar = None

    def advance(self, step: int) -> None:
        """Show that a step is done."""
        if self.bar is not None:
            self.bar.update(self.bar.task_ids[0], completed=step)

    def show(self, step: int, record: Mapping[str, object]) -> None:
        """Show the figures of a logging step."""
        text = describe(record)
        if self.bar is not None and "loss" in record:
            self.bar.update(self.bar.task_ids[0], description=text)
        elif self.visible:
            logger.info("step %d/%d  %s", step, self.steps, text)

    def say(self, text: str) -> None:
        """One line, above the bar if there is one."""
        if self.visible:
            logger.info("%s", text)


def describe(record: Mapping[str, object]) -> str:
    """The main figures of a record in words, each with its unit."""
    formats = {
        "loss": "loss {:.4f}",
        "learning_rate": "learning rate {:.2e}",
        "gradient_norm": "gradient norm {:.3f}",
        "speed/tokens_per_second": "{:,.0f} tokens/s",
        "speed/mfu": "MFU {:.1%}",
        "speed/data_wait_fraction": "data wait {:.0%}",
    }
    parts = [
        text.format(record[key]) for key, text in formats.items() if record.get(key) is not None
    ]
    parts += [
        f"{key} {value:.4g}"
        for key, value in record.items()
        if key.startswith("validation/") and isinstance(value, float | int)
    ]
    return "  ".join(parts)
