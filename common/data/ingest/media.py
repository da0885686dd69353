"""Finding downloaded media by the name or the web address that a dataset gives them, in the plain
files of a folder and in the tars that lie in it. Nothing is downloaded, and a name that fits two
files finds none: a wrong image is worse than a missing one."""

import json
import re
import tarfile
from collections.abc import Callable, Iterator, Mapping
from hashlib import sha256
from pathlib import Path, PurePosixPath
from typing import NamedTuple, TypeAlias

from common.data.faults import BadSample
from common.data.ingest.csv_rows import read_csv
from common.data.ingest.lines import damaged, read_lines
from common.data.ingest.parquet import decoded, read_rows
from common.data.text_decoding import decode_json
from common.errors import UserError

# The bytes for a name or an address; None if there are none.
MediaFinder: TypeAlias = Callable[[str], bytes | None]
SHA256_NAME = re.compile(r"[0-9a-f]{64}")


class MediaStore:
    """The media below a folder; a `MediaFinder`. Holds about half a kilobyte for each.

    A web address finds the file that `addresses` names for it, the one whose name is the address's
    SHA-256 in hexadecimal, or the member of an img2dataset tar whose json has it as `url`. Any
    other name finds the file or member of this path. Folders may be missing in front of either,
    as long as only one file has the base name: `x/a.jpg` finds `a.jpg`, but not `y/a.jpg`.

    Raises:
        UserError: the folder does not exist.
    """

    def __init__(self, folder: Path, *, addresses: Mapping[str, str] | None = None) -> None:
        if not folder.is_dir():
            raise UserError(f"media folder {folder} does not exist; check the path")
        self._addresses = addresses if addresses is not None else {}
        self._by_path: dict[str, _Place | None] = {}  # None: several, so none
        self._by_name: dict[str, _Place | None] = {}
        self._by_address: dict[str, _Place] = {}
        for path in sorted(path for path in folder.rglob("*") if path.is_file()):
            if path.suffix == ".tar":
                self._add_tar(path)
            else:
                name = path.relative_to(folder).as_posix()
                self._add(_Place(name, str(path), offset=0, size=path.stat().st_size))

    def __call__(self, name: str) -> bytes | None:
        """The bytes of a medium.

        Raises:
            BadSample: the file system gave an error, or the file ends inside the medium.
        """
        place = self._place_of(self._addresses.get(name, name))
        if place is None:
            return None
        try:
            with open(place.file, "rb") as stream:
                stream.seek(place.offset)
                data = stream.read(place.size)
        except OSError as error:
            raise damaged(Path(place.file), error) from error
        if len(data) < place.size:
            raise BadSample("unreadable", f"{place.file} ends inside {name}; fetch it again")
        return data

    def _place_of(self, name: str) -> "_Place | None":
        if "://" in name:
            digest = sha256(name.encode("utf-8", "surrogatepass")).hexdigest()
            return self._by_address.get(name) or self._by_address.get(digest)
        path = PurePosixPath(name)
        place = self._by_path.get(path.as_posix()) or self._by_name.get(path.name)
        return place if place is not None and _is_end(place.name, path.as_posix()) else None

    def _add(self, place: "_Place") -> None:
        path = PurePosixPath(place.name)
        self._by_path[place.name] = None if place.name in self._by_path else place
        self._by_name[path.name] = None if path.name in self._by_name else place
        if SHA256_NAME.fullmatch(path.stem):
            self._by_address[path.stem] = place

    def _add_tar(self, path: Path) -> None:
        members, addresses = _scan_tar(path)
        for place in members:
            self._add(place)
            address = addresses.get(place.name.rpartition(".")[0])
            if address is not None:
                self._by_address[address] = place


def read_addresses(
    path: Path, *, address_field: str = "url", file_field: str = "file"
) -> dict[str, str]:
    """Which file holds the medium of a web address, from a csv, jsonl or parquet file.

    Raises:
        UserError: the file is missing, of another format or malformed.
    """
    columns = [address_field, file_field]
    entries: dict[str, str] = {}
    for number, record in enumerate(_records(path, columns=columns), start=1):
        address, file = (record.get(column) for column in columns)
        if not isinstance(address, str) or not isinstance(file, str):
            raise UserError(f"{path} record {number} lacks {' or '.join(columns)}; correct it")
        entries[address] = file
    return entries


class _Place(NamedTuple):
    """Where a file, or a member of a tar, lies."""

    name: str  # its relative path, or the member's name
    file: str
    offset: int
    size: int


def _is_end(one: str, other: str) -> bool:
    """Whether one path is the other without some of the folders before it."""
    longer, shorter = (f"/{path}" for path in sorted((one, other), key=len, reverse=True))
    return longer.endswith(shorter)


def _scan_tar(path: Path) -> tuple[list[_Place], dict[str, str]]:
    """Places of media, and addresses by key as img2dataset notes them in a json."""
    file = str(path)
    places: list[_Place] = []
    addresses: dict[str, str] = {}
    for member, content in _members(path):
        key, _, extension = member.name.rpartition(".")
        address = _address_in(content) if extension == "json" else None
        if address is not None:
            addresses[key] = address
        if extension not in ("json", "txt"):
            name = PurePosixPath(member.name).as_posix()
            places.append(_Place(name, file, member.offset_data, member.size))
    return places, addresses


def _members(path: Path) -> Iterator[tuple[tarfile.TarInfo, bytes]]:
    """Members that are files, with the content of those that are json."""
    is_tar = False
    try:
        with tarfile.open(path) as tar:
            is_tar = True
            for member in filter(tarfile.TarInfo.isfile, tar):
                stream = tar.extractfile(member) if member.name.endswith(".json") else None
                yield member, stream.read() if stream is not None else b""
    except (tarfile.TarError, OSError) as error:
        if not is_tar:
            raise UserError(f"{path} is no tar: {error}; fetch it again or remove it") from error
        # One that was cut short still holds what came before; the rest is missing when asked for.


def _address_in(content: bytes) -> str | None:
    try:
        record = json.loads(content)
    except (ValueError, RecursionError):
        return None
    address = record.get("url") if isinstance(record, dict) else None
    return address if isinstance(address, str) else None


def _records(path: Path, *, columns: list[str]) -> Iterator[Mapping[str, object]]:
    rows: Iterator[tuple[int, Mapping[str, object] | bytes] | BadSample]
    match path.suffix:
        case ".csv":
            rows = read_csv(path, columns=columns)
        case ".parquet":
            rows = read_rows(path, columns=columns)
        case ".jsonl":
            rows = read_lines(path)
        case _:
            raise UserError(f"{path} is no .csv, .jsonl or .parquet file; convert it to one")
    for row in rows:
        if isinstance(row, BadSample):
            raise row
        name, values = f"{path} record {row[0]}", row[1]
        record = decode_json(values, name=name) if isinstance(values, bytes) else values
        yield {column: decoded(record.get(column), name=name) for column in columns}
