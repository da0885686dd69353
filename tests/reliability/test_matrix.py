"""Every row of the published matrix has a test that counts for it, and the table is their sums."""

import re
from pathlib import Path

import pytest

from common.errors import UserError
from tests.matrix import ROWS
from tests.reliability.table import BEGIN, END, read_counts, table, with_table

ROOT = Path(__file__).resolve().parents[2]
COUNT = re.compile(r"(?:counted|proves)\(\s*\"(\w+)\"")


def test_every_row_has_a_test_and_every_count_a_row() -> None:
    sources = [path.read_text() for path in (ROOT / "tests").rglob("test_*.py")]
    assert {row for text in sources for row in COUNT.findall(text)} == set(ROWS)


def test_the_document_shows_every_row() -> None:
    text = (ROOT / "docs" / "reliability.md").read_text()
    shown = text.partition(BEGIN)[2].partition(END)[0]
    assert re.findall(r"^\| (\w+) \|", shown, flags=re.MULTILINE) == [*ROWS]


def test_the_table_adds_what_was_counted(tmp_path: Path) -> None:
    common = '"row": "R4", "lost": 0, "accepted": 1, "test": '
    lines = [f'{{"what": "flips", "cases": {n}, {common} "{n}"}}' for n in (1100, 3)]
    (tmp_path / "counts-1.jsonl").write_text("\n".join(lines) + "\n")
    # The same test once more, as by a second run into the same folder, counts once.
    (tmp_path / "counts-2.jsonl").write_text(lines[0] + "\n")
    made = table(read_counts(tmp_path))
    (line,) = [line for line in made.splitlines() if line.startswith("| R4 ")]
    assert line.endswith(f"| 1,103 | {ROWS['R4'].fewest} | 0 | 2 | flips 1,103 |")
    assert with_table(f"a\n{BEGIN}\nold\n{END}\nb", "new") == f"a\n{BEGIN}\nnew\n{END}\nb"


def test_a_folder_without_counts_is_told(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"run pytest with --matrix"):
        read_counts(tmp_path)
