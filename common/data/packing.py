"""Documents into the rows of an update, by their sizes alone: what is in which row is decided
before anything is read, once for the whole update, so it depends on neither ranks nor workers.

Best fit, longest first: a document goes where the least room is left after it. What waits from the
update before is placed before anything new, so nothing waits for more than one update unless
documents as long as rows crowd in. The state is the next number and the numbers that wait.
"""

from bisect import bisect_left, insort
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from common.data.randomness import generator_at

SURPLUS = 0.04  # of an update's room: drawn beyond it, for a choice at the end
LEAST_SURPLUS_ROWS = 0.5
NO_LIMIT = 2**40


@dataclass(frozen=True, kw_only=True)
class Size:
    """What a document needs of a row."""

    tokens: int
    images: int = 0
    clips: int = 0

    def __add__(self, other: "Size") -> "Size":
        return Size(
            tokens=self.tokens + other.tokens,
            images=self.images + other.images,
            clips=self.clips + other.clips,
        )


@dataclass(frozen=True, kw_only=True)
class Room:
    """What a row holds."""

    tokens: int
    images: int = NO_LIMIT
    clips: int = NO_LIMIT

    def fills(self, size: Size, rows: float) -> bool:
        """Whether documents of this size together fill so many rows in any respect."""
        return (
            size.tokens >= rows * self.tokens
            or size.images >= rows * self.images
            or size.clips >= rows * self.clips
        )


@dataclass(frozen=True, kw_only=True)
class PackState:
    """How far the documents were drawn, and which of them still wait for a row."""

    next_number: int = 0
    waiting: tuple[int, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """The state as plain lists and numbers."""
        return {"next_number": self.next_number, "waiting": list(self.waiting)}

    @classmethod
    def from_json(cls, state: Mapping[str, Any]) -> "PackState":
        """The state that `to_json` wrote."""
        return cls(next_number=state["next_number"], waiting=tuple(state["waiting"]))


@dataclass(frozen=True)
class PackedRow:
    """The documents of one row of an update."""

    update: int
    numbers: tuple[int, ...]


def pack(
    size_of: Callable[[int], Size], state: PackState, *, num_rows: int, room: Room
) -> tuple[list[tuple[int, ...]], PackState]:
    """The numbers of the documents in each of an update's rows, and the state after it.

    Rows of 10 tokens, documents of 6 7 4 3 5 -> rows (0, 2) and (1, 3) in either order, 4 waits.

    Every document must fit into an empty row; `size_of` is asked once for each. Rows stay emptier
    of tokens where images or clips run out of room first.
    """
    wanted = num_rows + max(SURPLUS * num_rows, LEAST_SURPLUS_ROWS)  # in rows
    waiting = [(number, size_of(number)) for number in state.waiting]
    total = sum((size for _, size in waiting), Size(tokens=0))
    drawn, number = [], state.next_number
    while not room.fills(total, wanted):
        drawn.append((number, size_of(number)))
        total += drawn[-1][1]
        number += 1
    rows = _Rows(num_rows, room)
    left = [item for part in (waiting, drawn) for item in rows.place(part)]
    # Long documents went into the first rows; no rank shall get them all.
    generator = generator_at(seed=0, index=state.next_number, stream="packing/rows")
    contents = [tuple(sorted(rows.contents[row])) for row in generator.permutation(num_rows)]
    return contents, PackState(next_number=number, waiting=tuple(sorted(left)))


class _Rows:
    """Rows being filled, in the order of the tokens left in them."""

    def __init__(self, num_rows: int, room: Room) -> None:
        self.contents: list[list[int]] = [[] for _ in range(num_rows)]
        self.images, self.clips = [room.images] * num_rows, [room.clips] * num_rows
        self.left = [(room.tokens, row) for row in range(num_rows)]

    def place(self, documents: Sequence[tuple[int, Size]]) -> list[int]:
        """Put documents into rows, the longest first; returns those without a place."""
        left_out = []
        for number, size in sorted(documents, key=lambda item: (-item[1].tokens, item[0])):
            position = self._best(size)
            if position is None:
                left_out.append(number)
                continue
            tokens, row = self.left.pop(position)
            insort(self.left, (tokens - size.tokens, row))
            self.images[row] -= size.images
            self.clips[row] -= size.clips
            self.contents[row].append(number)
        return left_out

    def _best(self, size: Size) -> int | None:
        """Where in `left` the fullest row with enough room stands."""
        for position in range(bisect_left(self.left, (size.tokens, -1)), len(self.left)):
            row = self.left[position][1]
            if self.images[row] >= size.images and self.clips[row] >= size.clips:
                return position
        return None
