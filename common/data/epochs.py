"""Finite records as endless data: an order of its own for every epoch, and the last records held
out for validation."""

from collections.abc import Callable, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Literal, TypeVar

from common.data.randomness import generator_at
from common.errors import UserError

RecordT = TypeVar("RecordT")
CorpusSplit = Literal["train", "validation"]

HELD_OUT_SHARE = 0.05
MOST_HELD_OUT = 1000


def shuffled(num_records: int, *, seed: int) -> Callable[[int], int]:
    """Index without end -> record: every epoch is a permutation of its own."""

    @lru_cache(maxsize=2)
    def order(epoch: int) -> list[int]:
        generator = generator_at(seed=seed, index=epoch, stream="epoch")
        return generator.permutation(num_records).tolist()

    return lambda index: order(index // num_records)[index % num_records]


def records_of(records: Sequence[RecordT], *, path: Path, split: CorpusSplit) -> Sequence[RecordT]:
    """The records of one split of the user's data at `path`.

    Raises:
        UserError: there is nothing left to train on.
    """
    held_out = min(MOST_HELD_OUT, max(1, int(len(records) * HELD_OUT_SHARE)))
    if len(records) <= held_out:
        raise UserError(f"{path} holds {len(records)} record; at least 2 are needed, one held out")
    return records[:-held_out] if split == "train" else records[-held_out:]
