"""OBELICS' parquet files: documents as two parallel lists, of texts and of image addresses."""

from pathlib import Path

from common.data.ingest.documents import find_parts, named_parts, write_document
from common.data.ingest.lines import bare_name
from common.data.ingest.media import MediaFinder
from common.data.ingest.parquet import Row, decoded, read_rows
from common.data.ingest.report import IngestReport
from common.data.shards.writer import ShardWriter


def ingest_obelics(path: Path, writer: ShardWriter, *, find: MediaFinder) -> IngestReport:
    """Write the documents of one file; keys are `FILE-ROW`.

    An image that is not found, and what is no image, is left out of its document; a document
    without any image or any text is a fault.

    Raises:
        UserError: the file or a column does not exist, or pyarrow is not installed.
    """
    report = IngestReport()

    def write(row: Row) -> None:
        number, columns = row
        name = f"{path} row {number}"
        lists = {column: decoded(values, name=name) for column, values in columns.items()}
        parts = find_parts(named_parts(lists, name=name), find=find, report=report)
        write_document(writer, f"{bare_name(path)}-{number}", parts)
        report.written += 1

    return report.take_each(read_rows(path, columns=["texts", "images"]), write)
