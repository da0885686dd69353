"""Lines of text files of any size, plain or compressed (gz, zst, zip), one at a time as bytes. A
line that is too long is skipped and a damaged file ends early; both are faults among the lines."""

import gzip
import io
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeAlias, cast

from common.data.faults import BadSample
from common.errors import UserError

MAX_LINE_BYTES = 64_000_000
# What the standard library and Arrow raise on damaged files.
DAMAGE = (OSError, EOFError, zlib.error, zipfile.BadZipFile)
FORMAT_SUFFIXES = frozenset(
    {".gz", ".zst", ".zip", ".json", ".jsonl", ".parquet", ".csv", ".wet", ".warc", ".txt"}
)
Line: TypeAlias = tuple[int, bytes]  # its number, from 1, and its content


def read_lines(path: Path) -> Iterator[Line | BadSample]:
    """The lines of a file that are not blank; of a zip, those of its only member.

    Raises:
        UserError: the file does not exist, or a `.zst` file cannot be read without pyarrow.
    """
    try:
        with open_file(path) as stream:
            yield from _lines(stream, path=path)
    except DAMAGE as error:
        yield damaged(path, error)


def damaged(path: Path, error: Exception) -> BadSample:
    """The fault of a file of which the rest cannot be read."""
    return BadSample("unreadable", f"{path} is damaged: {error}; fetch it again")


@contextmanager
def open_file(path: Path) -> Iterator[io.BufferedReader]:
    """The content of a file, decompressed while it is read.

    Raises:
        UserError: the file does not exist, or a `.zst` file cannot be read without pyarrow.
    """
    if not path.is_file():
        raise UserError(f"data file {path} does not exist; check the path")
    with _opened(path) as stream:
        yield stream


def bare_name(path: Path) -> str:
    """The name without the suffixes of formats: `docs_v2.1.jsonl.zip` -> `docs_v2.1`."""
    name = path.name
    for suffix in reversed(path.suffixes):
        if suffix not in FORMAT_SUFFIXES:
            break
        name = name.removesuffix(suffix)
    return name


def _opened(path: Path) -> io.BufferedReader:
    match path.suffix:
        case ".gz":
            return io.BufferedReader(gzip.GzipFile(path))
        case ".zst":
            return _zstandard(path)
        case ".zip":
            return _only_member(path)
        case _:
            return path.open("rb")


def _zstandard(path: Path) -> io.BufferedReader:
    """Arrow decompresses a stream of any number of frames, so pyarrow is all that it takes."""
    try:
        import pyarrow  # noqa: PLC0415 -- optional
    except ImportError as error:
        raise needs_extra(path) from error
    return io.BufferedReader(pyarrow.input_stream(str(path), compression="zstd"))


def needs_extra(path: Path) -> UserError:
    """The mistake of reading a file without the packages for its format."""
    return UserError(f"{path} needs pyarrow; run `pip install 'flare-flamingo[ingest]'`")


def _only_member(path: Path) -> io.BufferedReader:
    archive = zipfile.ZipFile(path)
    members = [member for member in archive.infolist() if not member.is_dir()]
    if len(members) != 1:
        raise UserError(f"{path} holds {len(members)} files instead of one; unpack it first")
    # A member opened for reading is a ZipExtFile; the stub does not say so.
    return io.BufferedReader(cast(zipfile.ZipExtFile, archive.open(members[0])))


def _lines(stream: io.BufferedReader, *, path: Path) -> Iterator[Line | BadSample]:
    number = 0
    while line := stream.readline(MAX_LINE_BYTES):
        number += 1
        if len(line) == MAX_LINE_BYTES and not line.endswith(b"\n"):
            _skip_line(stream)
            yield BadSample("text_long", f"{path} line {number} is too long; divide it")
        elif line.strip():
            yield number, line


def _skip_line(stream: io.BufferedReader) -> None:
    while (rest := stream.readline(MAX_LINE_BYTES)) and not rest.endswith(b"\n"):
        pass
