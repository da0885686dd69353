"""What training data is made of: a corpus has documents with random access and knows each one's
extent without reading it. Shards on disk are one (`common.data.shards`); here are the user's plain
files and generated documents, and the division into what is trained on and what is held out."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from itertools import accumulate, pairwise
from typing import Literal, Protocol, runtime_checkable

from transformers import PreTrainedTokenizerBase

from common.data.document import Document, Extent, Recording
from common.data.prompt_safety import encode_plain
from common.errors import UserError

HELD_OUT_SHARE = 0.05
MOST_HELD_OUT = 1000
ENDLESS = 2**40  # documents of a generated corpus
KEPT_DOCUMENTS = 1024  # generated ones, which are small, are measured shortly before they are read

Split = Literal["train", "validation"]


@runtime_checkable
class Corpus(Protocol):
    """Documents with random access."""

    @property
    def name(self) -> str:
        """Under which its documents are counted."""
        ...

    @property
    def shard_sizes(self) -> Sequence[int]:
        """Documents of each of its files; all together are the corpus."""
        ...

    @property
    def digest(self) -> str:
        """Equal digests mean equal documents."""
        ...

    def extent(self, index: int) -> Extent:
        """What a document will take in a row."""
        ...

    def read(self, index: int, *, variant: int = 0, least_side: int | None = None) -> Document:
        """One document, of several captions the one of `variant`, counted around.

        `least_side`: its images will be scaled down to no less than this many pixels.

        Raises:
            BadSample: it cannot be used.
        """
        ...


class MadeCorpus:
    """Small documents that a function makes of their index; to measure one is to make it."""

    def __init__(
        self,
        name: str,
        make: Callable[[int], Document],
        *,
        size: int = ENDLESS,
        digest: str,
        tokenizer: PreTrainedTokenizerBase,
    ) -> None:
        self.name, self.digest, self.tokenizer = name, digest, tokenizer
        self.shard_sizes: Sequence[int] = (size,)
        self._document = lru_cache(maxsize=KEPT_DOCUMENTS)(make)

    def extent(self, index: int) -> Extent:
        parts = self._document(index).parts
        texts = [part for part in parts if isinstance(part, str)]
        num_clips = sum(isinstance(part, Recording) for part in parts)
        return Extent(
            tokens=num_tokens(texts, self.tokenizer),
            num_texts=len(texts),
            num_images=len(parts) - len(texts) - num_clips,
            num_clips=num_clips,
        )

    def read(self, index: int, *, variant: int = 0, least_side: int | None = None) -> Document:
        return self._document(index)


@dataclass(frozen=True)
class PartialCorpus:
    """The documents `first` up to, not including, `last` of a corpus."""

    whole: Corpus
    first: int
    last: int
    name: str

    @cached_property
    def shard_sizes(self) -> Sequence[int]:
        ends = list(accumulate(self.whole.shard_sizes))
        inside = [max(self.first, min(end, self.last)) for end in [0, *ends]]
        return [end - start for start, end in pairwise(inside) if end > start]

    @property
    def digest(self) -> str:
        return f"{self.whole.digest}[{self.first}:{self.last}]"

    def extent(self, index: int) -> Extent:
        return self.whole.extent(self.first + index)

    def read(self, index: int, *, variant: int = 0, least_side: int | None = None) -> Document:
        return self.whole.read(self.first + index, variant=variant, least_side=least_side)


def part_of(corpus: Corpus, split: Split, *, name: str) -> PartialCorpus:
    """What is trained on, or the held-out documents at the end, at most 5 % and 1000.

    Raises:
        UserError: there is nothing left to train on.
    """
    size = sum(corpus.shard_sizes)
    held_out = min(MOST_HELD_OUT, max(1, int(size * HELD_OUT_SHARE)))
    if size <= held_out:
        raise UserError(
            f"{name} holds {size} usable records; at least 2 are needed, one of them held out"
        )
    border = size - held_out
    first, last = (0, border) if split == "train" else (border, size)
    return PartialCorpus(corpus, first, last, name)


def num_tokens(texts: Sequence[str], tokenizer: PreTrainedTokenizerBase) -> int:
    """Tokens of texts, each encoded alone."""
    return sum(len(encode_plain(text, tokenizer)) for text in texts)
