"""Times our way beside the plain way, in one process, alternating, results checked equal.

    python scripts/benchmark.py media-attention --plot media-attention.png
    python scripts/benchmark.py loss --json
    python scripts/benchmark.py data
    python scripts/benchmark.py training
    python scripts/benchmark.py all --json > figures.jsonl

A suite is a module of `scripts/benchmarks` that says what it measures.
"""

import json
import platform
import sys
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table

from common.training.options import OneLineParser

ROOT = Path(__file__).resolve().parent.parent
SUITES = (
    "floors",
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
NAMES = f"{', '.join(SUITES)}, or all of them one after the other"


def main(arguments: Sequence[str] | None = None) -> int:
    """Prints every chosen suite's figures as a table, or as JSON with the machine's name."""
    parser = OneLineParser(description="Times our way beside the plain way.")
    parser.add_argument("suites", nargs="+", choices=(*SUITES, "all"), metavar="SUITE", help=NAMES)
    parser.add_argument("--json", action="store_true", help="print a line of JSON for each suite")
    parser.add_argument("--plot", type=Path, metavar="FILE", help="also draw the figures")
    chosen = parser.parse_args(arguments)
    sys.path.insert(0, str(ROOT))  # a script finds no modules but those of its own folder
    names = SUITES if "all" in chosen.suites else chosen.suites
    suites = {name: import_module(f"scripts.benchmarks.{_module(name)}") for name in names}
    if chosen.plot is not None and not (len(names) == 1 and hasattr(suites[names[0]], "plot")):
        parser.error(f"{', '.join(names)} cannot be drawn as one picture; leave out --plot")
    for name, suite in suites.items():
        rows = suite.figures()
        if chosen.plot is not None:
            suite.plot(rows, chosen.plot)
        _tell(name, rows, as_json=chosen.json)
    return 0


def _module(suite: str) -> str:
    """`import` is a word of Python's own."""
    return "importing" if suite == "import" else suite.replace("-", "_")


def _tell(suite: str, rows: list[dict[str, int | float | str]], *, as_json: bool) -> None:
    on_gpu = torch.cuda.is_available()
    device = torch.cuda.get_device_name() if on_gpu else f"cpu {platform.machine()}"
    if as_json:
        machine = {"device": device, "threads": torch.get_num_threads(), "torch": torch.__version__}
        print(json.dumps({"suite": suite, "rows": rows, **machine}), flush=True)
        return
    table = Table(*rows[0], title=f"{suite} on {device}", title_justify="left")
    for row in rows:
        table.add_row(*map(str, row.values()))
    Console(width=max(100, 12 * len(rows[0]))).print(table)


if __name__ == "__main__":
    sys.exit(main())
