"""The matrix of docs/reliability.md from what the tests have counted:

    python -m pytest tests --matrix runs/matrix
    python -m tests.reliability.table runs/matrix docs/reliability.md

(`make matrix`). A row is one kind of fault; its counts are sums over the tests that have passed.
"""

import json
import sys
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import tyro

from common.errors import UserError
from tests.matrix import ROWS, Row

BEGIN, END = "<!-- matrix -->", "<!-- end of matrix -->"


@dataclass(kw_only=True)
class Shown:
    """What the tests of a row have counted."""

    cases: int = 0
    lost: int = 0
    accepted: int = 0
    of: Counter[str] = field(default_factory=Counter)  # cases by what was tried


def main(counts: tyro.conf.Positional[Path], document: tyro.conf.Positional[Path]) -> int:
    """Join the counts of a folder into the table between the two markers of a document."""
    try:
        shown = read_counts(counts)
        document.write_text(with_table(document.read_text(), table(shown)))
    except UserError as error:
        sys.stderr.write(f"error: {error}\n")
        return 2
    few = [name for name, row in ROWS.items() if shown[name].cases < row.fewest]
    sys.stdout.write(f"{document}: {len(ROWS)} rows; below what is asked: {few or 'none'}\n")
    return 0


def read_counts(folder: Path) -> dict[str, Shown]:
    """The sums of every row, also of those that nothing was counted for.

    Raises:
        UserError: the folder holds no counts.
    """
    files = sorted(folder.glob("counts-*.jsonl"))
    if not files:
        raise UserError(f"{folder} holds no counts; run pytest with --matrix {folder} first")
    shown = {name: Shown() for name in ROWS}
    lines = {line for file in files for line in file.read_text().splitlines()}
    for line in sorted(lines):
        count = json.loads(line)
        row = shown[count["row"]]
        row.cases += count["cases"]
        row.lost += count["lost"]
        row.accepted += count["accepted"]
        row.of[count["what"]] += count["cases"]
    return shown


def table(shown: Mapping[str, Shown]) -> str:
    """Markdown, a line for a row."""
    head = ["", "fault", "must hold", "cases", "asked", "lost", "accepted", "of these"]
    lines = [_line(head), _line(["---"] * len(head))]
    return "\n".join([*lines, *(_row(name, ROWS[name], found) for name, found in shown.items())])


def with_table(text: str, table: str) -> str:
    """The document with another table between its markers.

    Raises:
        UserError: a marker is missing.
    """
    before, found, rest = text.partition(BEGIN)
    _, ended, after = rest.partition(END)
    if not found or not ended:
        raise UserError(f"the document lacks {BEGIN} ... {END}, where the table belongs")
    return f"{before}{BEGIN}\n{table}\n{END}{after}"


def _row(name: str, row: Row, found: Shown) -> str:
    parts = "; ".join(f"{what} {cases:,}" for what, cases in sorted(found.of.items()))
    numbers = [found.cases, row.fewest, found.lost, found.accepted]
    return _line([name, row.fault, row.holds, *(f"{number:,}" for number in numbers), parts])


def _line(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"


if __name__ == "__main__":
    sys.exit(tyro.cli(main))
