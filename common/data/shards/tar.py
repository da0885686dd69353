"""The samples of a tar by its headers alone: nothing is extracted, no link is followed. Members
are grouped as WebDataset does: the key is the path up to the first dot of the base name, and
neighbours of one key are a sample. An archive that ends too early gives what is complete before
the cut, and the cut is reported."""

import tarfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import BinaryIO

from common.data.faults import Cause

# What tarfile raises on damaged headers, beside its own errors.
HEADER_ERRORS = (tarfile.TarError, ValueError, OverflowError, RecursionError, MemoryError)
CHUNK_BYTES = 2**20


@dataclass(frozen=True, kw_only=True)
class Member:
    """Where the bytes of one file lie in its shard."""

    offset: int
    size: int


@dataclass(kw_only=True)
class Group:
    """The members of one sample by extension; `fault`: why it cannot be used."""

    key: str
    members: dict[str, Member] = field(default_factory=dict)
    fault: Cause | None = None


@dataclass(frozen=True, kw_only=True)
class TarScan:
    """`damage` says why the archive could not be read to its end, None: it could."""

    groups: list[Group]
    damage: str | None


def scan_tar(path: Path) -> TarScan:
    """All samples of an archive, usable or not.

    Members that belong to no sample, having no extension or a hidden name, are passed over.

    Raises:
        OSError: the file cannot be read.
    """
    groups: list[Group] = []
    with path.open("rb") as file:
        size = file.seek(0, 2)
        file.seek(0)
        end = 0
        for header, next_offset in _headers(file):
            end = next_offset
            key, extension = _split(header.name)
            if header.isdir() or not key:
                continue
            if not groups or groups[-1].key != key or extension in groups[-1].members:
                groups.append(Group(key=key))
            group = groups[-1]
            group.members[extension] = Member(offset=header.offset_data, size=header.size)
            if not _is_safe(header):
                group.fault = "member_unsafe"
            elif header.offset_data + header.size > size:
                group.fault = "tar_truncated"
        damage = _damage(file, end=end, size=size)
        if damage and groups and _names(file, end=end, key=groups[-1].key):
            groups[-1].fault = groups[-1].fault or "tar_truncated"
    return TarScan(groups=groups, damage=damage)


def _headers(file: BinaryIO) -> Iterator[tuple[tarfile.TarInfo, int]]:
    """Every member and where the next header should be, up to the first fault."""
    try:
        archive = tarfile.TarFile(fileobj=file)
        end = 0
        while (header := archive.next()) is not None:
            # tarfile would keep every header in memory.
            archive.members.clear()  # type: ignore[attr-defined]  # not in its stub
            # A damaged size can point backwards, without end.
            if header.size < 0 or header.offset < end or archive.offset <= header.offset:
                return
            end = archive.offset
            yield header, end
    except HEADER_ERRORS:
        return


def _split(name: str) -> tuple[str, str]:
    """Key and extension: `a/b.0.JPG` -> `a/b`, `0.jpg`; no key for what is in no sample."""
    folder, slash, base = name.rpartition("/")
    stem, _, extension = base.partition(".")
    if not stem or not extension:
        return "", ""
    # Bytes that are not UTF-8 become visible escapes, so that every key can be written anywhere.
    key = f"{folder}{slash}{stem}".encode("utf-8", "backslashreplace").decode()
    return key, extension.lower().encode("utf-8", "backslashreplace").decode()


def _is_safe(header: tarfile.TarInfo) -> bool:
    path = PurePosixPath(header.name)
    plain = header.isreg() and not header.issparse()
    return plain and not path.is_absolute() and ".." not in path.parts


def _damage(file: BinaryIO, *, end: int, size: int) -> str | None:
    """An archive is closed by zeros up to its end; tarfile itself takes anything for the end."""
    if end > size:
        return f"ends inside a member, {end - size} bytes too early"
    if end == size:
        return "ends without the closing zeros"
    file.seek(end)
    while chunk := file.read(CHUNK_BYTES):
        if chunk.count(0) != len(chunk):
            return f"holds something that is no tar header after {end} bytes"
    return None


def _names(file: BinaryIO, *, end: int, key: str) -> bool:
    """Whether the broken header at the end, or what is left of it, is of this sample."""
    file.seek(end)
    return file.read(100).startswith(f"{key}.".encode())
