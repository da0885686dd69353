"""Prints the parameters of every preset, per component, counted on the meta device.

python scripts/parameters.py                 all presets
python scripts/parameters.py flamingo_80b    one of them
"""

import sys

from rich.console import Console
from rich.table import Table

from flamingo.presets import PRESETS, count_parameters


def main() -> int:
    """Prints the table; exit status 2 for an unknown preset."""
    names = sys.argv[1:] or list(PRESETS)
    unknown = [name for name in names if name not in PRESETS]
    if unknown:
        print(f"error: no preset {unknown[0]!r}; presets are {', '.join(PRESETS)}", file=sys.stderr)
        return 2
    counts = {name: count_parameters(PRESETS[name]()) for name in names}
    table = Table("component", *names)
    for component in counts[names[0]]:
        row = [f"{counts[name][component]:,}" for name in names]
        table.add_row(component, *row, end_section=component == "new tokens")
    Console(width=max(80, 28 + 18 * len(names))).print(table)
    return 0


if __name__ == "__main__":
    sys.exit(main())
