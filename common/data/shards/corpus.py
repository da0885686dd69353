"""A dataset of shards as one sequence of documents: the usable samples of all shards in order.
Opening reads the dataset's index alone; a shard is opened when it is first needed, its index and
descriptor are kept for a while, by each process for itself."""

from bisect import bisect_right
from collections.abc import Mapping, Sequence
from functools import lru_cache, partial
from itertools import accumulate
from pathlib import Path

from transformers import PreTrainedTokenizerBase

from common.data.document import Document, Extent
from common.data.shards.files import ShardFile
from common.data.shards.index import load_index
from common.data.shards.manifest import (
    ShardEntry,
    all_rejected,
    corpus_digest,
    read_manifest,
    stale,
)
from common.data.shards.shard import Shard, index_path
from common.data.shards.tokens import (
    Extents,
    dataset_tokens_path,
    load_extents,
    tokenizer_digest,
)
from common.errors import UserError

OPEN_SHARDS = 64  # descriptors, and about a megabyte each for 10,000 samples


def open_shards(root: Path, *, tokenizer: PreTrainedTokenizerBase | None = None) -> "ShardCorpus":
    """The dataset in a folder; with a tokenizer its extents are known.

    Raises:
        UserError: the folder is not indexed, for this tokenizer, or has changed since.
    """
    entries = read_manifest(root)
    digest = None if tokenizer is None else tokenizer_digest(tokenizer)
    return ShardCorpus(root, entries, tokenizer=digest)


class ShardCorpus:
    """Documents of a dataset by index, in any order and from any process."""

    def __init__(
        self, root: Path, entries: Sequence[ShardEntry], *, tokenizer: str | None = None
    ) -> None:
        """`tokenizer` is the digest of the one whose tokens are counted.

        Raises:
            UserError: nothing is usable, or its tokens are not counted.
        """
        self._root, self._entries, self._tokenizer = root, tuple(entries), tokenizer
        self.name: str = root.resolve().name
        self.shard_sizes: Sequence[int] = tuple(entry.num_samples for entry in entries)
        self.digest: str = corpus_digest(entries)
        self.rejected: Mapping[str, int] = all_rejected(entries)
        self._ends = list(accumulate(self.shard_sizes))
        if not len(self):
            raise UserError(f"dataset {root} has no usable sample: {self.rejected}; replace it")
        self._shard = lru_cache(maxsize=OPEN_SHARDS)(partial(_opened, root, self._entries))
        self._extents = None if tokenizer is None else self._mapped_extents(tokenizer)

    def __len__(self) -> int:
        return self._ends[-1]

    def extent(self, index: int) -> Extent:
        """What a document will take in a row, of several captions with the longest.

        Raises:
            UserError: the dataset was opened without a tokenizer.
        """
        if self._extents is None:
            raise UserError(f"dataset {self._root} was opened without a tokenizer; pass one")
        tokens, num_texts, num_images, num_clips = self._extents[self._checked(index)].tolist()
        return Extent(
            tokens=tokens, num_texts=num_texts, num_images=num_images, num_clips=num_clips
        )

    def members(self, index: int) -> dict[str, bytes]:
        """Everything a sample has in its shard, by extension.

        Raises:
            BadSample: `unreadable` or `member_changed`.
            UserError: the shard is not the one that was indexed.
        """
        shard, number = self._located(index)
        return shard.members(number)

    def read(self, index: int, *, variant: int = 0, least_side: int | None = None) -> Document:
        """One document, of several captions the one of `variant`, counted around.

        `least_side`: its images will be scaled down to no less than this many pixels.

        Raises:
            BadSample: it cannot be used.
            UserError: the shard is not the one that was indexed.
        """
        shard, number = self._located(index)
        return shard.document(number, variant=variant, least_side=least_side)

    def __reduce__(self) -> tuple[object, ...]:
        return _reopened, (self._root, self._entries, self._tokenizer)

    def _checked(self, index: int) -> int:
        if not 0 <= index < len(self):
            raise IndexError(f"sample {index} of {len(self)} of dataset {self._root}")
        return index

    def _located(self, index: int) -> tuple[Shard, int]:
        place = bisect_right(self._ends, self._checked(index))
        return self._shard(place), index - self._ends[place] + self.shard_sizes[place]

    def _mapped_extents(self, tokenizer: str) -> Extents:
        path = dataset_tokens_path(self._root, tokenizer=tokenizer, corpus=self.digest)
        extents = load_extents(path, size=len(self))
        if extents is None:
            raise stale(
                self._root,
                "its tokens are not counted for this tokenizer",
                options=" --tokenizer DIR",
            )
        return extents


def _opened(root: Path, entries: Sequence[ShardEntry], place: int) -> Shard:
    entry = entries[place]
    path = root / entry.file
    index = load_index(index_path(path))
    if index is None or index.digest != entry.digest:
        raise stale(root, f"the index of shard {entry.file} is missing or another one")
    file = ShardFile(path)
    if file.fingerprint() != entry.fingerprint:
        raise stale(root, f"shard {entry.file} is not the one that was indexed")
    return Shard(entry.file, file=file, index=index)


def _reopened(root: Path, entries: Sequence[ShardEntry], tokenizer: str | None) -> ShardCorpus:
    return ShardCorpus(root, entries, tokenizer=tokenizer)
