"""From a shard to its index: every member is read once for its CRC-32, texts are parsed and the
headers of media looked at. What is found wrong is left out of the index and counted by cause."""

from collections import Counter
from collections.abc import Iterator, Mapping
from math import fsum
from pathlib import Path
from zlib import crc32

from common.data.faults import BadSample, Cause
from common.data.shards.files import ShardFile
from common.data.shards.headers import audio_seconds, image_size
from common.data.shards.index import IndexDraft, ShardIndex, Span, Summary
from common.data.shards.records import EXTENSIONS, Record, parse_line, parse_sample
from common.data.shards.tar import Group, scan_tar
from common.data.text_decoding import MAX_JSON_BYTES

MAX_MEMBER_BYTES = 2**30  # a member is held in memory


def index_shard(path: Path, *, name: str) -> ShardIndex:
    """The index of a tar or of JSON lines; `name` appears in errors.

    A file that is damaged or cannot be read is no error here: its index holds what is usable,
    counts what is not, and tells of the damage.
    """
    draft, rejected = IndexDraft(), Counter[Cause]()
    damage = None
    try:
        file = ShardFile(path)
        fingerprint = file.fingerprint()
        if path.suffix == ".tar":
            damage = _add_tar(draft, rejected, path, file=file, name=name)
        else:
            _add_lines(draft, rejected, path, name=name)
    except (BadSample, OSError) as error:
        # Without a fingerprint the next run tries again.
        return IndexDraft().finished(fingerprint="", rejected={"unreadable": 1}, damage=str(error))
    return draft.finished(fingerprint=fingerprint, rejected=rejected, damage=damage)


def _add_tar(
    draft: IndexDraft, rejected: Counter[Cause], path: Path, *, file: ShardFile, name: str
) -> str | None:
    scan = scan_tar(path)
    keys: dict[str, int] = {}
    for group in scan.groups:
        key = _unique(group.key, keys)
        try:
            data = _contents(group, file, name=f"{name}/{key}")
            record = parse_sample(data, data.__getitem__, name=f"{name}/{key}")
            summary = _summary(record, data, name=f"{name}/{key}")
        except BadSample as fault:
            # A cut costs one sample, the one in which it is, whether any of it is left or not.
            if scan.damage is None or group is not scan.groups[-1]:
                rejected[fault.cause] += 1
            continue
        spans = {
            member: Span(span.offset, span.size, crc32(data[member]))
            for member, span in group.members.items()
        }
        draft.add(key, spans, summary)
    if scan.damage is not None:
        rejected["tar_truncated"] += 1
    return scan.damage


def _add_lines(draft: IndexDraft, rejected: Counter[Cause], path: Path, *, name: str) -> None:
    keys: dict[str, int] = {}
    summary = Summary(kind="text", num_texts=1, num_images=0, num_clips=0)
    for number, offset, line in _lines(path):
        if not line.strip():
            continue
        try:
            key, _ = parse_line(line, name=f"{name} line {number}")
        except BadSample as fault:
            rejected[fault.cause] += 1
            continue
        span = Span(offset, len(line), crc32(line))
        draft.add(_unique(key or str(number), keys), {"json": span}, summary)


def _contents(group: Group, file: ShardFile, *, name: str) -> dict[str, bytes]:
    """All members of a sample that may be read."""
    if group.fault is not None:
        raise BadSample(group.fault, f"{name} is cut off or is no plain file")
    for member, span in group.members.items():
        if span.size > MAX_MEMBER_BYTES:
            limit = MAX_MEMBER_BYTES // 2**20
            raise BadSample(_too_large(member), f"{name}.{member} has more than {limit} MiB")
    return {member: file.read(span.offset, span.size) for member, span in group.members.items()}


def _too_large(member: str) -> Cause:
    extension = member.rpartition(".")[2]
    if extension in EXTENSIONS["image"]:
        return "image_pixels"
    return "audio_long" if extension in EXTENSIONS["audio"] else "text_long"


def _summary(record: Record, data: Mapping[str, bytes], *, name: str) -> Summary:
    """The sample's media by their headers."""
    members = {
        kind: [medium.member for medium in record.media if medium.kind == kind]
        for kind in EXTENSIONS
    }
    sizes = [image_size(data[m], name=f"{name}.{m}") for m in members["image"]]
    seconds = fsum(audio_seconds(data[m], name=f"{name}.{m}") for m in members["audio"])
    width, height = sizes[0] if sizes else (0, 0)
    return Summary(
        kind=record.kind,
        num_texts=len(record.texts),
        num_images=len(members["image"]),
        num_clips=len(members["audio"]),
        width=width,
        height=height,
        seconds=seconds,
    )


def _lines(path: Path) -> Iterator[tuple[int, int, bytes]]:
    """Number, offset and bytes of every line; of a line that is too long only its beginning."""
    longest = MAX_JSON_BYTES + 1
    offset = 0
    with path.open("rb") as file:
        number = 0
        while line := file.readline(longest):
            number += 1
            yield number, offset, line.rstrip(b"\r\n")
            offset += len(line)
            while not line.endswith(b"\n") and (line := file.readline(longest)):
                offset += len(line)


def _unique(key: str, keys: dict[str, int]) -> str:
    """The key, from its second occurrence on with a number: `a`, `a~2`, `a~3`."""
    number = keys.get(key, 0) + 1
    name = key if number == 1 else f"{key}~{number}"
    while number > 1 and name in keys:
        number += 1
        name = f"{key}~{number}"
    keys[key] = number
    keys.setdefault(name, 1)
    return name
