"""Documents of several parts on their way into a shard: the texts and the media's names as a
dataset lists them, media found and recognised by their first bytes, never decoded or changed."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from common.data.faults import BadSample
from common.data.ingest.media import MediaFinder
from common.data.ingest.report import IngestReport
from common.data.shards.writer import EncodedMedium, ShardWriter, interleaved_members, safe_key

SIGNATURES = {  # offset and bytes that a file of the format has there
    "jpg": ((0, b"\xff\xd8\xff"),),
    "png": ((0, b"\x89PNG\r\n\x1a\n"),),
    "webp": ((0, b"RIFF"), (8, b"WEBP")),
    "gif": ((0, b"GIF8"),),
    "bmp": ((0, b"BM"),),
    "tif": ((0, b"II*\0"),),
    "wav": ((0, b"RIFF"), (8, b"WAVE")),
    "flac": ((0, b"fLaC"),),
    "ogg": ((0, b"OggS"),),
    "mp3": ((0, b"ID3"),),
}


@dataclass(frozen=True, kw_only=True)
class MediumName:
    """A medium that is still to be found, by the name or address that a dataset gives it."""

    name: str


def named_parts(record: Mapping[str, object], *, name: str) -> list[str | MediumName]:
    """Parts of a record in OBELICS' form of parallel lists, which may have `audios` as well.

    Raises:
        BadSample: the lists differ in length, or a position is not a string in exactly one.
    """
    texts, images = record.get("texts"), record.get("images")
    if not isinstance(texts, list) or not isinstance(images, list):
        raise BadSample("json_invalid", f"{name} has no lists texts and images; correct it")
    audios = record.get("audios")
    if audios is None:
        audios = [None] * len(texts)
    if not isinstance(audios, list) or not len(texts) == len(images) == len(audios):
        raise BadSample("json_invalid", f"lists of {name} are of unequal length; correct them")
    parts: list[str | MediumName] = []
    for position, slots in enumerate(zip(texts, images, audios, strict=True)):
        given = [slot for slot in slots if slot is not None]
        if len(given) != 1 or not isinstance(given[0], str):
            raise BadSample(
                "json_invalid",
                f"{name} position {position} must be a string in one list and null in the others",
            )
        parts.append(given[0] if slots[0] is not None else MediumName(name=given[0]))
    return parts


def find_parts(
    parts: Sequence[str | MediumName], *, find: MediaFinder, report: IngestReport
) -> list[str | EncodedMedium]:
    """The parts with their media; what is missing, unknown or empty is left out and counted."""
    found: list[str | EncodedMedium] = []
    for part in parts:
        try:
            found.append(_checked(part) if isinstance(part, str) else find_medium(find, part.name))
        except BadSample as fault:
            report.leave_out(fault)
    return found


def find_medium(find: MediaFinder, *names: str) -> EncodedMedium:
    """The medium that has one of the names; the first that is found counts.

    Raises:
        BadSample: there is none, it cannot be read, or it is no image or sound.
    """
    for name in names:
        data = find(name)
        if data is not None:
            return recognised(data, name=name)
    raise BadSample("media_missing", f"there is no file for {names[0]}; fetch it or do without")


def recognised(data: bytes, *, name: str) -> EncodedMedium:
    """A medium with the extension that its first bytes call for.

    Raises:
        BadSample: they are those of no format that training reads, like a page with an error.
    """
    for extension, marks in SIGNATURES.items():
        if all(data[offset : offset + len(mark)] == mark for offset, mark in marks):
            return EncodedMedium(data=data, extension=extension)
    if data[:4] == b"MM\0*":  # big-endian
        return EncodedMedium(data=data, extension="tif")
    if data[:1] == b"\xff" and data[1:2] >= b"\xe0":  # frames without a tag before them
        return EncodedMedium(data=data, extension="mp3")
    raise BadSample("image_corrupt", f"{name} is no image or sound; fetch it again or remove it")


def write_document(
    writer: ShardWriter,
    key: str,
    parts: Sequence[str | EncodedMedium],
    *,
    caption: str | None = None,
) -> None:
    """One interleaved sample.

    Raises:
        BadSample: the document has no text or no medium, or a caption and several media.
    """
    num_media = sum(isinstance(part, EncodedMedium) for part in parts)
    if not num_media:
        raise BadSample("media_missing", f"document {key} has no image or sound; leave it out")
    if num_media == len(parts):
        raise BadSample("text_missing", f"document {key} has no text; leave it out")
    if caption is not None and num_media > 1:
        raise BadSample("json_invalid", f"document {key} has one caption and {num_media} media")
    writer.write(safe_key(key), interleaved_members(parts, caption=caption))


def _checked(text: str) -> str:
    if not text.strip():
        raise BadSample("text_empty", "a text holds nothing but whitespace; leave it out")
    return text
