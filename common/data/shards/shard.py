"""One shard, opened with its index: the bytes of its samples, checked by their CRC-32, and what
they say."""

from collections.abc import Mapping
from pathlib import Path
from zlib import crc32

from common.data.audio import decode_audio
from common.data.document import Document, Image, Recording
from common.data.faults import BadSample
from common.data.images import decode_image
from common.data.shards.files import ShardFile
from common.data.shards.index import ShardIndex, Span
from common.data.shards.records import Medium, Record, parse_line, parse_sample


def index_path(shard: Path) -> Path:
    """Where the index of a shard is."""
    return shard.with_name(f"{shard.name}.index.npz")


class Shard:
    """Samples by their number in the shard; `name` is the shard's path in its dataset."""

    def __init__(self, name: str, *, file: ShardFile, index: ShardIndex) -> None:
        self._name, self._file, self.index = name, file, index
        self._stem = name[: name.rindex(".")]

    def members(self, number: int) -> dict[str, bytes]:
        """Everything the sample has, by extension.

        Raises:
            BadSample: `unreadable` or `member_changed`.
        """
        spans = self.index.spans(number)
        return {member: self._bytes(number, span) for member, span in spans.items()}

    def record(self, number: int) -> Record:
        """What the sample says, its media unread.

        Raises:
            BadSample: a text member cannot be read or has changed.
        """
        name = f"{self._name}/{self.index.key(number)}"
        return self._record(number, self.index.spans(number), name=name)

    def document(self, number: int, *, variant: int, least_side: int | None) -> Document:
        """The sample with its media decoded.

        Raises:
            BadSample: it cannot be used.
        """
        key, spans = self.index.key(number), self.index.spans(number)

        name = f"{self._name}/{key}"

        def decode(medium: Medium) -> Image | Recording:
            data = self._bytes(number, spans[medium.member])
            if medium.kind == "audio":
                return decode_audio(data, name=f"{name}.{medium.member}")
            return decode_image(data, name=f"{name}.{medium.member}", least_side=least_side)

        record = self._record(number, spans, name=name)
        return record.document(key=f"{self._stem}/{key}", variant=variant, decode=decode)

    def _record(self, number: int, spans: Mapping[str, Span], *, name: str) -> Record:
        if self._name.endswith(".tar"):
            return parse_sample(spans, lambda member: self._bytes(number, spans[member]), name=name)
        return parse_line(self._bytes(number, spans["json"]), name=name)[1]

    def _bytes(self, number: int, span: Span) -> bytes:
        data = self._file.read(span.offset, span.size)
        if crc32(data) != span.crc32:
            fault = f"{self._name}/{self.index.key(number)} has changed at byte {span.offset}"
            raise BadSample("member_changed", f"{fault}; restore it or index the dataset again")
        return data
