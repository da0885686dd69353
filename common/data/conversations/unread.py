"""Media of a conversation that are known by name: a set of conversations is measured and packed
without a look at its media, and whoever takes one reads them."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Generic, TypeVar, overload

import numpy as np

from common.data.conversations.messages import Conversation
from common.data.document import Recording
from common.errors import UserError

NameT = TypeVar("NameT")
MediumT = TypeVar("MediumT")


class Unread(Sequence[MediumT], Generic[NameT, MediumT]):
    """Media in order, each read every time that it is asked for."""

    def __init__(self, names: Sequence[NameT], read: Callable[[NameT], MediumT]) -> None:
        self.names, self.read = names, read

    def __len__(self) -> int:
        return len(self.names)

    @overload
    def __getitem__(self, index: int) -> MediumT: ...

    @overload
    def __getitem__(self, index: slice) -> Sequence[MediumT]: ...

    def __getitem__(self, index: int | slice) -> MediumT | Sequence[MediumT]:
        if isinstance(index, slice):
            return Unread(self.names[index], self.read)
        return self.read(self.names[index])


def opened(conversation: Conversation) -> Conversation:
    """The same with its media read."""
    return {
        "messages": conversation["messages"],
        "images": [*conversation.get("images", ())],
        "audios": [*conversation.get("audios", ())],
    }


def outlined(conversation: Conversation) -> Conversation:
    """The same with as many blank media in the places of its own, which nobody reads."""
    return {
        "messages": conversation["messages"],
        "images": [np.zeros((1, 1, 3), dtype=np.uint8)] * len(conversation.get("images", ())),
        "audios": [Recording(samples=np.zeros(1, dtype=np.float32))]
        * len(conversation.get("audios", ())),
    }


@contextmanager
def located(index: int, name: str) -> Iterator[None]:
    """Around what is done to a record of a file: what is wrong with it is told with its place.

    Raises:
        UserError: as inside, with the record's number and the file's name before it.
    """
    try:
        yield
    except UserError as error:
        raise UserError(f"record {index} of {name}: {error}") from error
