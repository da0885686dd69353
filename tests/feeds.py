"""Feeds of documents that a function makes, and rows of sources that pack, for tests."""

from collections.abc import Callable, Iterator
from typing import Any

from transformers import PreTrainedTokenizerBase

from common.data.corpus import MadeCorpus
from common.data.document import Document
from common.data.feed import Feed
from common.data.mixture import Mixture
from common.data.packing import PackedRow, PackState
from common.data.sampler import Order
from common.training.task import Packs

Draw = Callable[[int], Document]


def feed_of(
    corpora: dict[str, tuple[Draw, float]], *, tokenizer: PreTrainedTokenizerBase, seed: int = 0
) -> Feed:
    """Documents by name, function and weight, in the order of their indices."""
    made = [
        MadeCorpus(name, draw, digest=name, tokenizer=tokenizer)
        for name, (draw, _) in corpora.items()
    ]
    return Feed(
        corpora=made,
        orders=[Order(corpus.shard_sizes, seed=seed, visits="stored") for corpus in made],
        mixture=Mixture([weight for _, weight in corpora.values()], seed=seed),
        seed=seed,
    )


def packed_rows(source: Packs) -> Iterator[PackedRow]:
    """The rows of a source from its first update on, without end."""
    update, state = 0, PackState()
    while True:
        rows, state = source.pack(update, state)
        yield from rows
        update += 1


def packed_examples(source: Any, num: int) -> list[Any]:
    """The examples of a source's first rows."""
    return [source.example(row) for row, _ in zip(packed_rows(source), range(num), strict=False)]
