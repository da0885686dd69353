"""Prints the parameters of every preset, per component, counted on the meta device.

python scripts/parameters.py                 all presets
python scripts/parameters.py flamingo_80b    one of them
"""

import sys
from collections.abc import Mapping, Sequence

from rich.console import Console
from rich.table import Table

import flamingo.presets
import flare.presets

LAST_COMPONENTS = ("new tokens", "contrastive heads")  # sums follow


def main(arguments: Sequence[str] | None = None) -> int:
    """Prints a table for each model; exit status 2 for an unknown preset."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    names = given or [*flamingo.presets.PRESETS, *flare.presets.PRESETS]
    counts: list[dict[str, Mapping[str, int]]] = []
    for room in (flamingo.presets, flare.presets):
        chosen = [name for name in names if name in room.PRESETS]
        counts.append({name: room.count_parameters(room.PRESETS[name]()) for name in chosen})
    unknown = [name for name in names if not any(name in table for table in counts)]
    if unknown:
        known = [*flamingo.presets.PRESETS, *flare.presets.PRESETS]
        print(f"error: no preset {unknown[0]!r}; presets are {', '.join(known)}", file=sys.stderr)
        return 2
    for table in counts:
        if table:
            show(table)
    return 0


def show(counts: Mapping[str, Mapping[str, int]]) -> None:
    """One model's presets side by side."""
    table = Table("component", *counts)
    for component in next(iter(counts.values())):
        row = [f"{parts[component]:,}" for parts in counts.values()]
        table.add_row(component, *row, end_section=component in LAST_COMPONENTS)
    Console(width=max(80, 28 + 18 * len(counts))).print(table)


if __name__ == "__main__":
    sys.exit(main())
