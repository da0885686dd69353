"""Rows of parquet files, a small batch in memory at a time. Texts come as bytes, since one string
that is not UTF-8 would otherwise cost its whole batch."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

from common.data.faults import BadSample
from common.data.ingest.lines import damaged, needs_extra
from common.errors import UserError

if TYPE_CHECKING:
    import pyarrow
    import pyarrow.parquet

ROWS_PER_BATCH = 256
Row: TypeAlias = tuple[int, dict[str, object]]  # its number, from 0, and its columns


def read_rows(
    path: Path, *, columns: Sequence[str], optional: Sequence[str] = ()
) -> Iterator[Row | BadSample]:
    """Every row, with the named columns; `optional` ones only where the file has them.

    Raises:
        UserError: the file or a column does not exist, or pyarrow is not installed.
    """
    if not path.is_file():
        raise UserError(f"data file {path} does not exist; check the path")
    try:
        import pyarrow  # noqa: PLC0415 -- optional
        import pyarrow.parquet  # noqa: PLC0415 -- optional
    except ImportError as error:
        raise needs_extra(path) from error
    try:
        with pyarrow.parquet.ParquetFile(path, pre_buffer=False) as file:
            wanted = _present(file.schema_arrow.names, columns, optional, path=path)
            for number, row in enumerate(_rows(file, wanted)):
                yield number, dict(zip(wanted, row, strict=True))
    except (pyarrow.ArrowException, OSError) as error:
        yield damaged(path, error)


def decoded(value: object, *, name: str) -> object:
    """Bytes, also in a list, as text; anything else as it is.

    Raises:
        BadSample: the bytes are not UTF-8.
    """
    if isinstance(value, list):
        return [decoded(item, name=name) for item in value]
    if not isinstance(value, bytes):
        return value
    try:
        return value.decode()
    except UnicodeDecodeError as error:
        raise BadSample(
            "text_encoding", f"text of {name} is not UTF-8; correct it or leave it out"
        ) from error


def _present(
    names: Sequence[str], columns: Sequence[str], optional: Sequence[str], *, path: Path
) -> list[str]:
    missing = [column for column in columns if column not in names]
    if missing:
        raise UserError(f"{path} has no column {missing[0]!r}, only {', '.join(names)}")
    return [*columns, *(column for column in optional if column in names)]


def _rows(
    file: "pyarrow.parquet.ParquetFile", columns: Sequence[str]
) -> Iterator[tuple[object, ...]]:
    for batch in file.iter_batches(batch_size=ROWS_PER_BATCH, columns=columns):
        values = [_as_bytes(batch.column(name)).to_pylist() for name in columns]
        yield from zip(*values, strict=True)


def _as_bytes(column: "pyarrow.Array") -> "pyarrow.Array":
    """Strings, and lists of strings, as their bytes."""
    import pyarrow  # noqa: PLC0415 -- optional

    kinds = pyarrow.types
    if kinds.is_dictionary(column.type):
        column = column.dictionary_decode()
    if kinds.is_string(column.type) or kinds.is_large_string(column.type):
        return column.cast(pyarrow.large_binary())
    if kinds.is_list(column.type) or kinds.is_large_list(column.type):
        inner = column.type.value_type
        if kinds.is_string(inner) or kinds.is_large_string(inner):
            return column.cast(pyarrow.large_list(pyarrow.large_binary()))
    return column
