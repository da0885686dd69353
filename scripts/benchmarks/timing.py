"""What the suites share: rows of a table, and the times of several ways by turns."""

import time
from collections.abc import Callable, Sequence
from statistics import median

import torch

# Heading -> value; the same headings for every row of a table.
Row = dict[str, int | float | str]
Run = Callable[[], object]
# Without a GPU the time of the processor, which other programs disturb less.
CLOCK = time.perf_counter if torch.cuda.is_available() else time.process_time


def alternating(
    ways: Sequence[Run], *, repeats: int, clock: Callable[[], float] = time.perf_counter
) -> list[float]:
    """Median seconds of every way; each takes its turn in each of `repeats` rounds."""
    rounds = [[seconds(run, clock) for run in ways] for _ in range(repeats)]
    return [median(column) for column in zip(*rounds, strict=True)]


def seconds(run: Run, clock: Callable[[], float] = time.perf_counter) -> float:
    """How long one run takes, on a GPU until its work is done."""
    _finish()
    start = clock()
    run()
    _finish()
    return clock() - start


def _finish() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def ratio(ours: float, theirs: float) -> float:
    """Rounded for a table."""
    return round(ours / theirs, 3)
