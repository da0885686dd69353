"""Common Crawl's WET files: the plain text of web pages, each in a WARC record of its own. Only
what these files need of WARC 1.0 (ISO 28500) is read: headers, Content-Length, conversions."""

import io
from collections.abc import Iterator
from pathlib import Path
from typing import TypeAlias

from common.data.faults import BadSample
from common.data.ingest.lines import DAMAGE, damaged, open_file
from common.data.text_decoding import MAX_TEXT_BYTES

MAX_HEADERS = 100
MAX_HEADER_BYTES = 65_536
Page: TypeAlias = tuple[str, bytes]  # its address and its text


def read_pages(path: Path) -> Iterator[Page | BadSample]:
    """The pages of a `.warc.wet` or `.warc.wet.gz` file.

    Raises:
        UserError: the file does not exist.
    """
    try:
        with open_file(path) as stream:
            yield from _pages(stream, path=path)
    except DAMAGE as error:
        yield damaged(path, error)


def _pages(stream: io.BufferedReader, *, path: Path) -> Iterator[Page | BadSample]:
    while _find_record(stream):
        page = _read_page(stream, path=path)
        if page is not None:
            yield page


def _find_record(stream: io.BufferedReader) -> bool:
    """Pass the line that begins a record, and whatever comes before it; False at the end."""
    while line := stream.readline(MAX_HEADER_BYTES):
        if line.startswith(b"WARC/"):
            return True
    return False


def _read_page(stream: io.BufferedReader, *, path: Path) -> Page | BadSample | None:
    """The record that begins here; None if it is no page."""
    headers = _headers(stream)
    address = headers.get("warc-target-uri", "").strip("<>")
    length = headers.get("content-length", "")
    if not length.isascii() or not length.isdigit():
        return BadSample("unreadable", f"a record of {path} has no length; fetch it again")
    size = int(length)
    is_page = headers.get("warc-type") == "conversion"
    if not is_page or size > MAX_TEXT_BYTES:
        _skip(stream, size)
        return BadSample("text_long", f"{address} in {path} is too long") if is_page else None
    data = stream.read(size)
    if len(data) < size:
        return BadSample("unreadable", f"{path} ends inside {address}; fetch it again")
    return address, data


def _headers(stream: io.BufferedReader) -> dict[str, str]:
    """By name in small letters, as far as the blank line after them."""
    headers = {}
    for _ in range(MAX_HEADERS):
        line = stream.readline(MAX_HEADER_BYTES).decode("utf-8", "replace").strip()
        if not line:
            break
        name, _, value = line.partition(":")
        headers[name.lower()] = value.strip()
    return headers


def _skip(stream: io.BufferedReader, size: int) -> None:
    while size > 0 and (passed := len(stream.read(min(size, MAX_TEXT_BYTES)))):
        size -= passed
