"""The user's own data by path: shards with an index (`common.data.shards`), or plain files for a
start: a folder of pairs, a JSON-lines file of interleaved documents, a file of text."""

from collections.abc import Callable, Mapping, Sequence
from hashlib import blake2b
from pathlib import Path
from typing import Literal, Protocol, runtime_checkable

from transformers import PreTrainedTokenizerBase

from common.data.corpus import Corpus, num_tokens
from common.data.document import Document, Extent
from common.data.folder import read_audio_pairs, read_interleaved, read_pairs
from common.data.shards.corpus import open_shards
from common.data.texts import read_texts

OwnKind = Literal["image_pairs", "audio_pairs", "interleaved", "text"]
OWN_KINDS: dict[OwnKind, str] = {
    "image_pairs": "a folder of images and their captions, or of shards",
    "audio_pairs": "a folder of recordings and their captions, or of shards",
    "interleaved": "a .jsonl file of documents, or a folder of shards",
    "text": "a .txt or .jsonl file, or a folder of shards",
}


def open_own(
    kind: OwnKind, path: Path, *, tokenizer: PreTrainedTokenizerBase | None = None
) -> Corpus:
    """The documents at a path; with a tokenizer their extents are known.

    Raises:
        UserError: nothing of the kind is there, or its index is missing or stale.
    """
    if _is_sharded(path):
        return open_shards(path, tokenizer=tokenizer)
    return FileCorpus(path, _READERS[kind](path), tokenizer=tokenizer)


@runtime_checkable
class Record(Protocol):
    """A document in plain files: its texts are read, its media are not decoded."""

    @property
    def texts(self) -> Sequence[str]: ...

    @property
    def num_images(self) -> int: ...

    @property
    def num_clips(self) -> int: ...

    def load(self) -> Document:
        """Decode the media."""
        ...


class FileCorpus:
    """Records as a corpus; all their texts are held in memory."""

    def __init__(
        self, path: Path, records: Sequence[Record], *, tokenizer: PreTrainedTokenizerBase | None
    ) -> None:
        self.name, self.records, self.tokenizer = str(path), records, tokenizer
        self.shard_sizes: Sequence[int] = (len(records),)
        self.digest = blake2b(repr(records).encode(), digest_size=16).hexdigest()
        self._extents: dict[int, Extent] = {}

    def extent(self, index: int) -> Extent:
        assert self.tokenizer is not None, "opened without a tokenizer"
        if index not in self._extents:
            record = self.records[index]
            self._extents[index] = Extent(
                tokens=num_tokens(record.texts, self.tokenizer),
                num_texts=len(record.texts),
                num_images=record.num_images,
                num_clips=record.num_clips,
            )
        return self._extents[index]

    def read(self, index: int, *, variant: int = 0, least_side: int | None = None) -> Document:
        return self.records[index].load()


_READERS: Mapping[OwnKind, Callable[[Path], Sequence[Record]]] = {
    "image_pairs": read_pairs,
    "audio_pairs": read_audio_pairs,
    "interleaved": read_interleaved,
    "text": read_texts,
}


def _is_sharded(path: Path) -> bool:
    """Plain folders of pairs hold no tar; shards of text stand beside their index."""
    return path.is_dir() and ((path / "index.json").exists() or any(path.rglob("*.tar")))
