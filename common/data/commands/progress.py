"""How far a long command is: a bar on a terminal, a line at every tenth anywhere else."""

from collections.abc import Callable
from types import TracebackType
from typing import TypeAlias

import rich.progress
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn

# What is being done, how much of it is, how much there is.
Progress: TypeAlias = Callable[[str, int, int], None]


class ShownProgress:
    """A `Progress` that is seen; a context manager."""

    def __init__(self, console: Console) -> None:
        self._console = console
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
        self._bar = rich.progress.Progress(*columns, TimeRemainingColumn(), console=console)
        self._tasks: dict[str, rich.progress.TaskID] = {}

    def __call__(self, what: str, done: int, total: int) -> None:
        if self._console.is_terminal:
            if what not in self._tasks:
                self._tasks[what] = self._bar.add_task(what, total=total)
            self._bar.update(self._tasks[what], completed=done)
        elif done == total or done % max(1, total // 10) == 0:
            self._console.print(f"{what}: {done:,} of {total:,}", soft_wrap=True)

    def __enter__(self) -> "ShownProgress":
        if self._console.is_terminal:
            self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, _: BaseException | None, __: TracebackType | None
    ) -> None:
        if self._console.is_terminal:
            self._bar.stop()
