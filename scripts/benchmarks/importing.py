"""Time to import both packages beside torch and transformers alone, which loads nothing of itself:
fresh processes by turns. Classes are loaded when they are used, see `common/deferred.py`."""

import subprocess
import sys
from functools import partial
from pathlib import Path

from scripts.benchmarks.timing import Row, alternating, ratio

WAYS = ("import torch, transformers", "import flamingo, flare")
REPEATS = 9
ROOT = Path(__file__).resolve().parents[2]


def figures() -> list[Row]:
    """A row for each way."""
    for way in WAYS:  # once, so that files are in the page cache and compiled
        _run(way)
    times = alternating([partial(_run, way) for way in WAYS], repeats=REPEATS)
    return [
        {"way": way, "time, s": round(time, 2), "ratio": ratio(time, times[0])}
        for way, time in zip(WAYS, times, strict=True)
    ]


def _run(statement: str) -> None:
    subprocess.run([sys.executable, "-c", statement], check=True, cwd=ROOT)
