"""One shard, opened with its index: the bytes of its samples, checked by their CRC-32, and what
they say."""

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
        name, spans = self._name_of(number), self.index.spans(number)
        if self._name.endswith(".tar"):
            return parse_sample(spans, lambda m: self._bytes(number, spans[m]), name=name)
        return parse_line(self._bytes(number, spans["json"]), name=name)[1]

    def document(self, number: int, *, variant: int, least_side: int | None) -> Document:
        """The sample with its media decoded.

        Raises:
            BadSample: it cannot be used.
        """
        spans = self.index.spans(number)

        def decode(medium: Medium) -> Image | Recording:
            name = f"{self._name_of(number)}.{medium.member}"
            data = self._bytes(number, spans[medium.member])
            if medium.kind == "audio":
                return decode_audio(data, name=name)
            return decode_image(data, name=name, least_side=least_side)

        key = f"{self._stem}/{self.index.key(number)}"
        return self.record(number).document(key=key, variant=variant, decode=decode)

    def _name_of(self, number: int) -> str:
        return f"{self._name}/{self.index.key(number)}"

    def _bytes(self, number: int, span: Span) -> bytes:
        data = self._file.read(span.offset, span.size)
        if crc32(data) != span.crc32:
            fault = f"{self._name_of(number)} has changed at byte {span.offset}"
            raise BadSample("member_changed", f"{fault}; restore it or index the dataset again")
        return data
