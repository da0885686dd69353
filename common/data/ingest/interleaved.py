"""The project's own JSON lines of interleaved documents, as `common.data.folder` reads them."""

from pathlib import Path

from common.data.faults import BadSample
from common.data.ingest.documents import find_parts, named_parts, write_document
from common.data.ingest.lines import Line, bare_name, read_lines
from common.data.ingest.media import MediaFinder
from common.data.ingest.report import IngestReport
from common.data.shards.writer import ShardWriter
from common.data.text_decoding import decode_json


def ingest_interleaved(path: Path, writer: ShardWriter, *, find: MediaFinder) -> IngestReport:
    """Write the documents of one file; keys are `FILE-LINE`. Missing media as in OBELICS.

    A line is `{"texts": [null, "a red circle"], "images": ["a.jpg", null]}`; it may have a list
    `audios` too and, with a single medium, a `caption` to contrast with it.

    Raises:
        UserError: the file does not exist.
    """
    report = IngestReport()

    def write(line: Line) -> None:
        name = f"{path} line {line[0]}"
        record = decode_json(line[1], name=name)
        caption = record.get("caption")
        if not isinstance(caption, str | None):
            raise BadSample("json_invalid", f"caption of {name} is no text; correct it")
        parts = find_parts(named_parts(record, name=name), find=find, report=report)
        write_document(writer, f"{bare_name(path)}-{line[0]}", parts, caption=caption)
        report.written += 1

    return report.take_each(read_lines(path), write)
