"""Conversations and pairs as a corpus: each is a document with a dialogue, so they are mixed,
packed, shuffled, replaced and counted like all other documents."""

from collections.abc import Callable, Sequence
from itertools import islice
from typing import Protocol, cast, runtime_checkable

import numpy as np

from common.data.conversations.messages import (
    Conversation,
    Conversations,
    Part,
    Turn,
    turns_of,
)
from common.data.conversations.pairs import Pair, Pairs
from common.data.conversations.unread import outlined
from common.data.document import Dialogue, Document, Extent, Recording
from common.data.faults import BadSample
from common.errors import UserError

# Tokens that a model's encoding of a dialogue takes, of a pair for both answers, without media.
Measure = Callable[[Document], int]
# What is wrong with a record that cannot be measured is told when it is read.
UNKNOWN = Extent(tokens=0, num_texts=0, num_images=0, num_clips=0)


@runtime_checkable
class Outlines(Protocol):
    """A set that shows a conversation or a pair without reading its media."""

    def outline(self, index: int, /) -> Conversation | Pair:
        """The same as by index, but for the media."""
        ...


class ConversationCorpus:
    """Each conversation, or each pair, is a document."""

    def __init__(
        self, name: str, items: Conversations | Pairs, *, digest: str, measure: Measure
    ) -> None:
        self.name, self.items, self.digest, self.measure = name, items, digest, measure
        self.shard_sizes: Sequence[int] = (len(items),)
        self._extents: dict[int, Extent] = {}

    def extent(self, index: int) -> Extent:
        if index not in self._extents:
            self._extents[index] = self._measured(index)
        return self._extents[index]

    def read(self, index: int, *, variant: int = 0, least_side: int | None = None) -> Document:
        try:
            return document_of(self.items[index], key=f"{self.name}/{index}")
        except UserError as error:
            fault = error.__cause__  # of a file's record, whose place is told around it
            cause = fault.cause if isinstance(fault, BadSample) else "json_invalid"
            raise BadSample(cause, str(error)) from error

    def _measured(self, index: int) -> Extent:
        try:
            document = document_of(self._outline(index), key="", blank=True)
        except UserError:
            return UNKNOWN
        assert document.dialogue is not None
        copies = len(document.dialogue.answers) or 1  # each answer follows a prompt of its own
        num_texts = sum(isinstance(part, str) for part in document.parts)
        num_clips = sum(isinstance(part, Recording) for part in document.parts)
        return Extent(
            tokens=self.measure(document),
            num_texts=copies * num_texts,
            num_images=copies * (len(document.parts) - num_texts - num_clips),
            num_clips=copies * num_clips,
        )

    def _outline(self, index: int) -> Conversation | Pair:
        if isinstance(self.items, Outlines):
            return self.items.outline(index)
        return self.items[index]


def document_of(item: Conversation | Pair, *, key: str, blank: bool = False) -> Document:
    """A conversation, or a prompt with two answers, as a document; `blank` reads no media.

    Raises:
        UserError: the conversation is not in the format.
    """
    conversation, answers = _divided(item)
    turns = turns_of(outlined(conversation) if blank else conversation)
    return Document(
        key=key,
        parts=tuple(_plain(part) for turn in turns for part in turn["parts"]),
        dialogue=Dialogue(
            turns=tuple((turn["role"], len(turn["parts"])) for turn in turns), answers=answers
        ),
    )


def turns_in(document: Document) -> list[Turn]:
    """The turns of a dialogue, without the answers of a pair."""
    assert document.dialogue is not None
    left = iter(document.parts)
    return [Turn(role=role, parts=[*islice(left, num)]) for role, num in document.dialogue.turns]


def _divided(item: Conversation | Pair) -> tuple[Conversation, tuple[str, ...]]:
    if "prompt" in item:
        pair = cast("Pair", item)
        return pair["prompt"], (pair["chosen"], pair["rejected"])
    return item, ()


def _plain(part: Part) -> str | Recording | np.ndarray:
    """Pictures as arrays of bytes."""
    return part if isinstance(part, str | Recording | np.ndarray) else np.asarray(part)
