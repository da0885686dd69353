"""Plain text from JSON lines, parquet, Common Crawl's WET or text files, as JSON lines of bounded
pieces. Files are streamed: memory does not grow with their size."""

from collections.abc import Iterable, Iterator, Mapping
from io import TextIOWrapper
from pathlib import Path
from typing import TypeAlias

from common.data.faults import BadSample
from common.data.ingest.lines import DAMAGE, Line, bare_name, damaged, open_file, read_lines
from common.data.ingest.parquet import Row, decoded, read_rows
from common.data.ingest.pieces import MAX_CHARACTERS, divide, numbered
from common.data.ingest.report import IngestReport
from common.data.ingest.wet import Page, read_pages
from common.data.shards.writer import TextWriter
from common.data.text_decoding import decode_json, decode_text
from common.errors import UserError

KEY_FIELDS = ("key", "id")
CHUNK_CHARACTERS = 1_000_000
COMPRESSIONS = (".gz", ".zst", ".zip")
Keyed: TypeAlias = tuple[str, list[str]]  # a key and its text, as the only chunk


def ingest_text(
    path: Path,
    writer: TextWriter,
    *,
    text_field: str = "text",
    max_characters: int = MAX_CHARACTERS,
) -> IngestReport:
    """Write the texts of one file, told by its name: `.jsonl`, `.parquet`, `.warc.wet` or `.txt`.

    All but parquet may be compressed (`.gz`, `.zst`, `.zip`). Keys are the record's `key` or `id`,
    the page's address, or `FILE-NUMBER`. A text that is longer than `max_characters` is divided
    into pieces `KEY#0`, `KEY#1`, ...; a piece of nothing but whitespace is left out. A `.txt` file
    is one text of any length; other texts have at most 10 MB and lose whitespace at both ends.

    Raises:
        UserError: the file does not exist, is of another format, has no such column, or needs a
            package that is not installed.
    """
    report = IngestReport()

    def write(key: str, chunks: Iterable[str]) -> None:
        before = report.written
        for piece_key, piece in numbered(key, divide(chunks, max_characters=max_characters)):
            if piece.strip():
                writer.write(piece_key, piece)
                report.written += 1
        if report.written == before:
            raise BadSample("text_empty", f"text {key} of {path} is empty; leave it out")

    match _format_of(path):
        case ".jsonl" | ".json":
            lines = read_lines(path)
            return report.take_each(lines, lambda line: write(*_of_line(path, line, text_field)))
        case ".parquet":
            rows = read_rows(path, columns=[text_field], optional=KEY_FIELDS)
            return report.take_each(rows, lambda row: write(*_of_row(path, row, text_field)))
        case ".wet":
            return report.take_each(read_pages(path), lambda page: write(*_of_page(page)))
        case ".txt":
            return report.take_each([path], lambda file: write(bare_name(file), _chunks(file)))
        case _:
            raise UserError(f"{path} is no .jsonl, .parquet, .warc.wet or .txt file; convert it")


def _format_of(path: Path) -> str:
    suffixes = [suffix for suffix in path.suffixes if suffix not in COMPRESSIONS]
    return suffixes[-1] if suffixes else ""


def _of_line(path: Path, line: Line, text_field: str) -> Keyed:
    name = f"{path} line {line[0]}"
    record = decode_json(line[1], name=name)
    text = _checked(record.get(text_field), name=name)
    return _key_of(record, path=path, number=line[0]), [text]


def _of_row(path: Path, row: Row, text_field: str) -> Keyed:
    name = f"{path} row {row[0]}"
    keys = {field: decoded(row[1].get(field), name=name) for field in KEY_FIELDS}
    text = _checked(row[1][text_field], name=name)
    return _key_of(keys, path=path, number=row[0]), [text]


def _of_page(page: Page) -> Keyed:
    return page[0], [decode_text(page[1], name=page[0])]


def _checked(value: object, *, name: str) -> str:
    if isinstance(value, str):
        value = value.encode()
    if not isinstance(value, bytes):
        raise BadSample("text_missing", f"{name} has no text; correct it or leave it out")
    return decode_text(value, name=name)


def _key_of(record: Mapping[str, object], *, path: Path, number: int) -> str:
    for field in KEY_FIELDS:
        key = record.get(field)
        if isinstance(key, str | int) and key != "":
            return str(key)
    return f"{bare_name(path)}-{number}"


def _chunks(path: Path) -> Iterator[str]:
    try:
        with open_file(path) as stream:
            text = TextIOWrapper(stream, encoding="utf-8-sig", newline="")
            while chunk := text.read(CHUNK_CHARACTERS):
                yield _without_nul(chunk, path=path)
    except UnicodeDecodeError as error:
        raise BadSample("text_encoding", f"text {path} is not UTF-8; convert it") from error
    except DAMAGE as error:
        raise damaged(path, error) from error


def _without_nul(chunk: str, *, path: Path) -> str:
    if "\0" in chunk:
        raise BadSample("text_encoding", f"text {path} holds NUL; convert it to UTF-8")
    return chunk
