"""Feeds of documents that a function makes, and rows of sources that pack, for tests."""

from collections.abc import Callable, Iterator
from typing import Any

from transformers import PreTrainedTokenizerBase

from common.data.corpus import MadeCorpus
from common.data.document import Document
from common.data.feed import Feed, mixed
from common.data.packing import PackedRow, PackState
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
    weights = [weight for _, weight in corpora.values()]
    return mixed(made, seed=seed, visits=["stored"] * len(made), weights=weights)


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
