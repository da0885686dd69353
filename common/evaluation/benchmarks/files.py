"""Official files read strictly: an object of a JSON file knows where it stands, so that a missing
or mistyped field is told in one line; the media that a file names must lie where it says."""

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TypeVar

from common.data.faults import BadSample
from common.data.ingest.csv_rows import read_csv
from common.errors import UserError

ValueT = TypeVar("ValueT")
MAX_DIGITS = 30


@dataclass(frozen=True, kw_only=True)
class Entry:
    """An object of a JSON file, and its place in it: `annotations.json: annotations[3]`."""

    place: str
    values: dict[str, object]

    def text(self, name: str) -> str:
        """A string field.

        Raises:
            UserError: there is none.
        """
        return self._field(name, str)

    def number(self, name: str) -> int:
        """A whole number.

        Raises:
            UserError: there is none.
        """
        return self._field(name, int)

    def entries(self, name: str) -> list["Entry"]:
        """The objects of a list.

        Raises:
            UserError: there is no such list, or it holds something else.
        """
        return _objects(self._field(name, list), place=f"{self.place}: {name}")

    def _field(self, name: str, kind: type[ValueT]) -> ValueT:
        value = self.values.get(name)
        if not isinstance(value, kind) or isinstance(value, bool):
            wanted = {str: "text", int: "whole number", list: "list"}[kind]
            raise UserError(f"{self.place} has no {wanted} {name!r}; get the official file again")
        return value


def read_object(path: Path) -> Entry:
    """A JSON file that holds one object.

    Raises:
        UserError: it does not exist, is no JSON, or holds something else.
    """
    content = _read(path)
    if not isinstance(content, dict):
        raise UserError(f"{path} holds no JSON object; name the official file")
    return Entry(place=str(path), values=content)


def read_objects(path: Path) -> list[Entry]:
    """A JSON file that holds a list of objects.

    Raises:
        UserError: it does not exist, is no JSON, or holds something else.
    """
    content = _read(path)
    if not isinstance(content, list):
        raise UserError(f"{path} holds no JSON list; name the official file")
    return _objects(content, place=f"{path}: ")


def read_rows(path: Path, *, columns: Sequence[str]) -> Iterator[tuple[str, dict[str, str]]]:
    """The rows of a csv file with a header, each with its place; a bad row stops the reading.

    Raises:
        UserError: the file or a column does not exist, or a row is malformed.
    """
    for row in read_csv(path, columns=columns):
        if isinstance(row, BadSample):
            raise UserError(str(row))
        yield f"{path} row {row[0]}", row[1]


def read_lines(path: Path) -> list[str]:
    """The lines of a text file.

    Raises:
        UserError: it does not exist or is no text.
    """
    return _text(path).splitlines()


def whole_number(text: str, *, place: str) -> int:
    """The number that a column of a csv file holds.

    Raises:
        UserError: it holds none.
    """
    # Longer than any id; Python refuses to convert thousands of digits.
    if not text.strip().isdecimal() or len(text) > MAX_DIGITS:
        raise UserError(f"{place}: {text!r} is no whole number; get the official file again")
    return int(text)


def unique(keys: Iterable[int | str], *, place: str) -> None:
    """Nothing may be listed twice.

    Raises:
        UserError: something is.
    """
    seen: set[int | str] = set()
    for key in keys:
        if key in seen:
            raise UserError(f"{place} lists {key!r} twice; get the official file again")
        seen.add(key)


def media_finder(folder: Path) -> Callable[[str, str], Path]:
    """A function from a file's name and the place that names it to its path, which must exist.

    Each folder is listed once: a data set has more files than one would like to ask for singly.

    Raises:
        UserError: the folder does not exist; later: a file does not.
    """
    if not folder.is_dir():
        raise UserError(f"folder of media {folder} does not exist; check the path")
    listing = cache(_names_in)

    def find(name: str, place: str) -> Path:
        path = folder / name
        if Path(name).is_absolute() or ".." in Path(name).parts:
            raise UserError(f"{place} names {name}, outside {folder}; get the official file again")
        if path.name not in listing(path.parent):
            raise UserError(f"{place} names {path}, which does not exist; check the folder")
        return path

    return find


def _names_in(folder: Path) -> frozenset[str]:
    return frozenset(path.name for path in folder.iterdir()) if folder.is_dir() else frozenset()


def _read(path: Path) -> object:
    text = _text(path)
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path} is no JSON ({error}); get the official file again") from error


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}); check the path") from error
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is no UTF-8 ({error}); get the official file again") from error


def _objects(items: list[object], *, place: str) -> list[Entry]:
    entries = []
    for number, item in enumerate(items):
        if not isinstance(item, dict):
            raise UserError(f"{place}[{number}] is no object; get the official file again")
        entries.append(Entry(place=f"{place}[{number}]", values=item))
    return entries
