"""Rows of csv files with a header, one at a time. A malformed row is a fault among the rows; bytes
that are no UTF-8 stay in the text as half surrogate pairs, for whoever uses the text to refuse."""

import csv
from collections.abc import Iterator, Sequence
from io import TextIOWrapper
from pathlib import Path
from typing import TypeAlias

from common.data.faults import BadSample
from common.data.ingest.lines import DAMAGE, damaged, open_file
from common.errors import UserError

CsvRow: TypeAlias = tuple[int, dict[str, str]]  # its number, from 1, and its columns


def read_csv(path: Path, *, columns: Sequence[str]) -> Iterator[CsvRow | BadSample]:
    """Every row below the header, with the named columns.

    Raises:
        UserError: the file or a column does not exist.
    """
    try:
        with open_file(path) as stream:
            text = TextIOWrapper(stream, "utf-8-sig", errors="surrogateescape", newline="")
            rows = csv.reader(text, strict=True)
            places = _places(rows, columns, path=path)
            yield from _rows(rows, places, path=path)
    except DAMAGE as error:
        yield damaged(path, error)


def _places(rows: Iterator[list[str]], columns: Sequence[str], *, path: Path) -> dict[str, int]:
    try:
        header = next(rows, [])
    except csv.Error as error:
        raise UserError(f"{path} is no csv file ({error}); convert it to one") from error
    missing = [column for column in columns if column not in header]
    if missing:
        names = ascii(", ".join(header))
        raise UserError(f"{path} has no column {missing[0]!r}, only {names}; correct the header")
    return {column: header.index(column) for column in columns}


def _rows(
    rows: Iterator[list[str]], places: dict[str, int], *, path: Path
) -> Iterator[CsvRow | BadSample]:
    number = 0
    while True:
        number += 1
        try:
            row = next(rows)
            yield number, {column: row[place] for column, place in places.items()}
        except StopIteration:
            return
        except (csv.Error, IndexError) as error:
            yield BadSample("json_invalid", f"{path} row {number}: {error}; correct the row")
