"""Counted proofs: a test that proves a row of the matrix in docs/reliability.md says so, and how
often it has tried, as its last act:

    counted(row, what, n, *, lost=0, accepted=0)
    counted("R4", "single bit flips", 100)

A test whose number is known beforehand, or that hypothesis calls, is marked instead:

    @pytest.mark.proves("R5", "twice in one epoch", 3)

`n` cases have run and every one held, unless `lost` (steps or samples that did not come back) or
`accepted` (damages, hostile inputs that went through) say otherwise. Every count becomes a line of
JSON under the folder of `--matrix FOLDER` (`make matrix`); without the option nothing is written.
The rows themselves are in `ROWS`; their table is made by `tests/reliability/table.py`.
"""

from __future__ import annotations

import json
import os
from collections.abc import Generator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import pytest


@dataclass(frozen=True)
class Row:
    """A kind of fault, what must hold, and from how many cases on it counts as shown."""

    fault: str
    holds: str
    fewest: int


ROWS = {
    "R1": Row(
        "SIGKILL at random points, also inside a save",
        "the same command goes on bit for bit: weights, losses, order of the data",
        20,
    ),
    "R2": Row(
        "SIGTERM, SIGINT, SIGUSR1",
        "the state is saved behind the step under way; exit status 143, 130, 138",
        9,
    ),
    "R3": Row(
        "a write fails: disk full, I/O error, short write, no permission, rename, fsync",
        "one line or a run that goes on; older checkpoints whole; nothing half-written stays",
        30,
    ),
    "R4": Row(
        "a finished checkpoint is damaged",
        "noticed before a weight is used; the one before it is taken; the file is named",
        150,
    ),
    "R5": Row(
        "a run is resumed",
        "order and random numbers as unbroken; other ranks: no sample lost or doubled",
        12,
    ),
    "R6": Row(
        "NaN or infinity in a loss, a gradient, the input",
        "every rank skips alike, is counted, optimizer untouched; stop after N in a row",
        10,
    ),
    "R7": Row(
        "one of two ranks dies or hangs",
        "the other ends in time with exit status 75; the last checkpoint is good",
        3,
    ),
    "R8": Row(
        "old checkpoints are removed, or cannot be",
        "at least two good checkpoints remain; the run goes on",
        5,
    ),
    "H2": Row(
        "properties over generated cases",
        "equal to a slow reference, exactly or to 1e-5",
        800,
    ),
    "S1": Row(
        "hostile safetensors",
        "refused by the ValueError family, in time and memory, or read as the header says",
        516,
    ),
    "S2": Row("pickle and code in a model folder", "nothing is executed, nothing is fetched", 12),
    "S3": Row("hostile configuration", "one line that names the key; nothing is allocated", 340),
    "S4": Row("hostile images", "a picture of fixed shape or a counted skip", 330),
    "S5": Row("hostile recordings", "finite mono of one rate or a counted skip", 310),
    "S6": Row("hostile tar shards", "every loss counted by cause; nothing written outside", 220),
    "S7": Row("control tokens in text", "media ids come from code only", 1040),
    "S8": Row("hostile requests to the demo", "refused with a limit; listens on loopback", 15),
}


class Counted(Protocol):
    """Type of the fixture, for tests that annotate it."""

    def __call__(
        self, row: str, what: str, n: int, *, lost: int = 0, accepted: int = 0
    ) -> None: ...


def pytest_addoption(parser: pytest.Parser) -> None:
    # Absolute: a test may be in a folder of its own when it is counted.
    parser.addoption(
        "--matrix",
        type=lambda folder: Path(folder).absolute(),
        help="folder for the counts of the reliability matrix",
    )


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "proves(row, what, n): cases of the reliability matrix")


@pytest.fixture
def counted(request: pytest.FixtureRequest) -> Counted:
    """Tells how many cases of a row this test has proven; kept only if the test passes."""
    lines = request.node.stash.setdefault(LINES, [])

    def count(row: str, what: str, n: int, *, lost: int = 0, accepted: int = 0) -> None:
        lines.append(_line(request.node, row, what, n, lost=lost, accepted=accepted))

    return count


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item,
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Writes down what a test has counted, when it has passed."""
    report = yield
    folder: Path | None = item.config.getoption("--matrix")
    if folder is not None and report.when == "call" and report.passed:
        marks = [_line(item, *mark.args, **mark.kwargs) for mark in item.iter_markers("proves")]
        folder.mkdir(parents=True, exist_ok=True)
        with (folder / f"counts-{os.getpid()}.jsonl").open("a") as stream:
            stream.writelines(f"{line}\n" for line in [*item.stash.get(LINES, []), *marks])
    return report


LINES = pytest.StashKey[list[str]]()


def _line(
    item: pytest.Item, row: str, what: str, n: int, *, lost: int = 0, accepted: int = 0
) -> str:
    assert row in ROWS, f"{row} is no row of tests/matrix.py"
    assert n > 0, f"{row}: no case was tried"
    facts = {"row": row, "what": what, "cases": n, "lost": lost, "accepted": accepted}
    return json.dumps({**facts, "test": item.nodeid})
