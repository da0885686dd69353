"""Times our way beside the plain way, in one process, alternating, results checked equal.

    python scripts/benchmark.py media-attention --plot media-attention.png
    python scripts/benchmark.py loss --json
    python scripts/benchmark.py data
    python scripts/benchmark.py training

A suite is a module of `scripts/benchmarks` that says what it measures.
"""

import argparse
import json
import platform
import sys
from importlib import import_module
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table

ROOT = Path(__file__).resolve().parent.parent
SUITES = (
    "media-attention",
    "resampler",
    "step",
    "wavlm",
    "self-attention",
    "loss",
    "data",
    "training",
    "decode",
    "import",
    "load",
)
MODULES = {"import": "importing"}  # where a name is a word of Python's own


def main() -> int:
    """Prints one suite's figures as a table, or as JSON with the machine they were taken on."""
    parser = argparse.ArgumentParser(description="Times our way beside the plain way.")
    parser.add_argument("suite", choices=SUITES)
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    parser.add_argument("--plot", type=Path, metavar="FILE", help="also draw the figures")
    chosen = parser.parse_args()
    sys.path.insert(0, str(ROOT))  # a script finds no modules but those of its own folder
    name = MODULES.get(chosen.suite, chosen.suite.replace("-", "_"))
    suite = import_module(f"scripts.benchmarks.{name}")
    if chosen.plot is not None and not hasattr(suite, "plot"):
        parser.error(f"{chosen.suite} has no picture; leave out --plot")
    rows = suite.figures()
    if chosen.plot is not None:
        suite.plot(rows, chosen.plot)
    if chosen.json:
        machine = {"torch": torch.__version__, "processor": platform.machine()}
        figures = {"suite": chosen.suite, "threads": torch.get_num_threads(), "rows": rows}
        print(json.dumps({**figures, **machine}, indent=2))
        return 0
    table = Table(*rows[0])
    for row in rows:
        table.add_row(*map(str, row.values()))
    Console(width=max(100, 12 * len(rows[0]))).print(table)
    return 0


if __name__ == "__main__":
    sys.exit(main())
