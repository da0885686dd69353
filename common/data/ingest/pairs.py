"""Captioned images and sounds from folders of files, csv, JSON lines and COCO's captions. The
encoded bytes are copied as they are; first bytes, not names, tell images from sounds."""

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from common.data.faults import BadSample
from common.data.folder import read_audio_pairs, read_pairs
from common.data.ingest.csv_rows import read_csv
from common.data.ingest.documents import find_medium
from common.data.ingest.lines import DAMAGE, bare_name, damaged, open_file, read_lines
from common.data.ingest.media import MediaFinder
from common.data.ingest.report import IngestReport
from common.data.shards.records import EXTENSIONS
from common.data.shards.writer import ShardWriter, safe_key
from common.data.text_decoding import decode_json, decode_text
from common.errors import UserError


@dataclass(frozen=True, kw_only=True)
class NamedPair:
    """A caption and what its medium is called, neither of them checked."""

    key: str
    medium: object
    text: object


def ingest_image_folder(folder: Path, writer: ShardWriter) -> IngestReport:
    """Write the pairs that `common.data.folder.read_pairs` finds; keys are relative paths.

    Raises:
        UserError: the folder's captions are missing or malformed.
    """
    pairs = [
        NamedPair(key=pair.key, medium=str(pair.image), text=pair.text)
        for pair in read_pairs(folder)
    ]
    return _write_pairs(pairs, writer, find=_read_file)


def ingest_audio_folder(folder: Path, writer: ShardWriter) -> IngestReport:
    """Write the pairs that `common.data.folder.read_audio_pairs` finds; keys are relative paths.

    Raises:
        UserError: the folder's captions are missing or malformed.
    """
    pairs = [
        NamedPair(key=pair.key, medium=str(pair.audio), text=pair.text)
        for pair in read_audio_pairs(folder)
    ]
    return _write_pairs(pairs, writer, find=_read_file)


def ingest_csv(
    path: Path,
    writer: ShardWriter,
    *,
    find: MediaFinder,
    medium_column: str = "image",
    text_column: str = "text",
) -> IngestReport:
    """Write a pair for each row of a csv file with a header; keys are `FILE-ROW`.

    Raises:
        UserError: the file or a column does not exist.
    """
    rows = read_csv(path, columns=[medium_column, text_column])
    pairs = (
        row
        if isinstance(row, BadSample)
        else NamedPair(
            key=f"{bare_name(path)}-{row[0]}",
            medium=row[1][medium_column],
            text=row[1][text_column],
        )
        for row in rows
    )
    return _write_pairs(pairs, writer, find=find)


def ingest_json_lines(
    path: Path,
    writer: ShardWriter,
    *,
    find: MediaFinder,
    medium_field: str = "image",
    text_field: str = "text",
) -> IngestReport:
    """Write a pair for each line `{"image": "a.jpg", "text": "a circle"}`; keys are `FILE-LINE`.

    Raises:
        UserError: the file does not exist.
    """
    return _write_pairs(
        _pairs_of_lines(path, medium_field=medium_field, text_field=text_field), writer, find=find
    )


def ingest_coco(path: Path, writer: ShardWriter, *, find: MediaFinder) -> IngestReport:
    """Write a pair for each caption of COCO's json; keys are `IMAGEID_CAPTIONID`.

    The json is held in memory, as it is a single object.

    Raises:
        UserError: the file does not exist or is no such json.
    """
    record = _json_file(path)
    images, annotations = record.get("images"), record.get("annotations")
    if not isinstance(images, list) or not isinstance(annotations, list):
        raise UserError(f"{path} has no lists images and annotations; is it COCO's captions?")
    names = {
        image["id"]: image.get("file_name")
        for image in images
        if isinstance(image, dict) and isinstance(image.get("id"), str | int)
    }
    pairs = (_coco_pair(annotation, names, path=path) for annotation in annotations)
    return _write_pairs(pairs, writer, find=find)


def _write_pairs(
    pairs: Iterable[NamedPair | BadSample], writer: ShardWriter, *, find: MediaFinder
) -> IngestReport:
    report = IngestReport()

    def write(pair: NamedPair) -> None:
        if not isinstance(pair.text, str):
            raise BadSample("text_missing", f"{pair.key} has no text; write one or leave it out")
        if not isinstance(pair.medium, str):
            raise BadSample("media_missing", f"{pair.key} names no file; correct it")
        text = decode_text(pair.text.encode(errors="surrogateescape"), name=pair.key)
        medium = find_medium(find, pair.medium)
        is_image = medium.extension in EXTENSIONS["image"]
        described = {"txt": text} if is_image else {"json": json.dumps({"text": text})}
        members = {extension: content.encode() for extension, content in described.items()}
        writer.write(safe_key(pair.key), {medium.extension: medium.data, **members})
        report.written += 1

    return report.take_each(pairs, write)


def _read_file(name: str) -> bytes | None:
    try:
        return Path(name).read_bytes()
    except OSError as error:
        raise damaged(Path(name), error) from error


def _pairs_of_lines(
    path: Path, *, medium_field: str, text_field: str
) -> Iterator[NamedPair | BadSample]:
    for line in read_lines(path):
        try:
            if isinstance(line, BadSample):
                raise line
            record = decode_json(line[1], name=f"{path} line {line[0]}")
            key = f"{bare_name(path)}-{line[0]}"
            pair: NamedPair | BadSample = NamedPair(
                key=key, medium=record.get(medium_field), text=record.get(text_field)
            )
        except BadSample as fault:
            pair = fault
        yield pair


def _json_file(path: Path) -> dict[str, object]:
    with open_file(path) as stream:
        try:
            record = json.load(stream)
        except (ValueError, RecursionError, *DAMAGE) as error:
            raise UserError(f"{path} is not valid JSON ({error}); fetch it again") from error
    if not isinstance(record, dict):
        raise UserError(f"{path} is no JSON object; is it COCO's captions?")
    return record


def _coco_pair(
    annotation: object, names: Mapping[object, object], *, path: Path
) -> NamedPair | BadSample:
    if not isinstance(annotation, dict) or "caption" not in annotation:
        return BadSample("json_invalid", f"an annotation of {path} has no caption; is it COCO's?")
    image, caption = annotation.get("image_id"), annotation.get("id")
    if not all(isinstance(number, str | int) for number in (image, caption)):
        return BadSample("json_invalid", f"an annotation of {path} has no ids; is it COCO's?")
    return NamedPair(key=f"{image}_{caption}", medium=names.get(image), text=annotation["caption"])
