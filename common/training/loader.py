"""Batches of every update by random access. An update has batch_size rows of every source; row i is
position update * batch_size + i, or what a source that packs decides for the whole update at once.
Micro-batch j of rank r takes the next batch_size / (micro-batches x ranks) rows, ranks innermost.
The state is the number of updates done and the packing's; it is the state of what was handed out,
not of what was fetched ahead, so a run resumes at its exact sample with any number of workers or
ranks.
"""

import multiprocessing
import os
import signal
from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import count
from multiprocessing.synchronize import Event
from types import FrameType
from typing import Any, Generic, TypeVar

import torch
from torch.utils.data import DataLoader, Dataset, Sampler

from common.data.feed import Supply, merged
from common.data.packing import PackState
from common.data.transfer import pinned
from common.errors import UserError
from common.training.interruption import CAUGHT
from common.training.task import Batch, BatchT, Example, Packs, Source, Supplied

Sources = Mapping[str, Source[Any, BatchT]]  # Examples concern nobody but their own source.
LoadedT = TypeVar("LoadedT")
States = Mapping[str, PackState]  # of the sources that pack


@dataclass(frozen=True, kw_only=True)
class MicroBatch(Generic[BatchT]):
    """One part of an update."""

    source: str
    weight: float
    batch: BatchT
    supply: Supply  # what was read for it


@dataclass(frozen=True, kw_only=True)
class Update(Generic[BatchT]):
    """This rank's part of one update, and the state of the packing after it."""

    parts: list[MicroBatch[BatchT]]
    states: States


@dataclass(frozen=True, kw_only=True)
class Share:
    """Which part of every update this rank reads."""

    rank: int
    num_ranks: int
    num_micro_batches: int

    def rows(self, micro_batch: int, *, batch_size: int) -> slice:
        """Of an update of 8 rows, 2 micro-batches and 2 ranks, rank 1 reads 2 3, then 6 7."""
        size = batch_size // (self.num_ranks * self.num_micro_batches)
        first = (micro_batch * self.num_ranks + self.rank) * size
        return slice(first, first + size)


def read_updates(
    sources: Sources[BatchT],
    *,
    first: int,
    last: int | None = None,
    share: Share,
    num_workers: int,
    states: States | None = None,
) -> Generator[Update[BatchT]]:
    """Updates first ... last - 1 (from 0), or for ever: this rank's micro-batches of all sources.

    `states` are those after update first - 1. Close it, also after an error: that ends the workers.
    """
    check_batch_sizes(sources, share)
    done = multiprocessing.Event()
    numbers = partial(count, first) if last is None else partial(range, first, last)
    plans = {
        name: _Plan(source, numbers(), share, (states or {}).get(name, PackState()))
        for name, source in sources.items()
    }
    streams = {
        name: iter(_loader(source, plans[name], num_workers, done))
        for name, source in sources.items()
    }
    try:
        for update in numbers():
            parts = [
                _micro_batch(name, source, _next(streams[name]))
                for _ in range(share.num_micro_batches)
                for name, source in sources.items()
            ]
            packing = [name for name, source in sources.items() if isinstance(source, Packs)]
            yield Update(parts=parts, states={n: plans[n].states.pop(update) for n in packing})
    finally:
        done.set()
        streams.clear()  # Ends the workers, even while an error still holds this frame.


def check_batch_sizes(sources: Sources[BatchT], share: Share) -> None:
    """An update must divide evenly, or ranks and micro-batches would not weigh the same."""
    parts = share.num_ranks * share.num_micro_batches
    for name, source in sources.items():
        if source.batch_size % parts or source.batch_size < 1:
            raise UserError(
                f"batch size {source.batch_size} of source {name} is not a multiple of ranks x "
                f"micro-batches = {share.num_ranks} x {share.num_micro_batches} = {parts}; "
                "change the batch size or num_micro_batches"
            )


def rows_of(
    source: Source[Any, Any], update: int, state: PackState
) -> tuple[Sequence[Any], PackState]:
    """What stands for each row of an update, and the packing after it."""
    if isinstance(source, Packs):
        return source.pack(update, state)
    return range(update * source.batch_size, (update + 1) * source.batch_size), state


def _loader(
    source: Source[Any, BatchT], plan: "_Plan", num_workers: int, done: Event
) -> DataLoader[Any]:
    return DataLoader(
        _Examples(source),
        batch_sampler=plan,
        collate_fn=partial(_collate, source),
        num_workers=num_workers,
        worker_init_fn=partial(_prepare_worker, done),
        pin_memory=torch.cuda.is_available(),
        # A loader without its own generator draws its seed from the training's, at every start.
        generator=torch.Generator(),
    )


class _Plan(Sampler[list[Any]]):
    """What each batch is made of, in the order of updates and micro-batches.

    Fetched ahead of training; `states` has the packing after every update not yet handed out.
    """

    def __init__(
        self, source: Source[Any, Any], updates: Iterable[int], share: Share, state: PackState
    ) -> None:
        self.source, self.updates, self.share, self.state = source, updates, share, state
        self.states: dict[int, PackState] = {}

    def __iter__(self) -> Iterator[list[Any]]:
        batch_size = self.source.batch_size
        for update in self.updates:
            rows, self.state = rows_of(self.source, update, self.state)
            self.states[update] = self.state
            for part in range(self.share.num_micro_batches):
                yield list(rows[self.share.rows(part, batch_size=batch_size)])


class _Examples(Dataset[Example | UserError]):
    """A source as torch wants it; errors travel as values, for workers would wrap their text."""

    def __init__(self, source: Source[Any, Any]) -> None:
        self.source = source

    def __getitem__(self, row: Any) -> Example | UserError:
        try:
            example: Example = self.source.example(row)
        except UserError as error:
            return error
        return example


@dataclass(frozen=True, kw_only=True)
class _Loaded(Generic[BatchT]):
    """A batch, and what was read for it."""

    batch: BatchT
    supply: Supply

    def pin_memory(self) -> "_Loaded[BatchT]":
        """What a loader's thread asks for while the training process does other things."""
        return _Loaded(batch=pinned(self.batch), supply=self.supply)


def _collate(
    source: Source[Any, BatchT], examples: Sequence[Example | UserError]
) -> _Loaded[BatchT] | UserError:
    errors = [item for item in examples if isinstance(item, UserError)]
    if errors:
        return errors[0]
    supply = merged(item.supply for item in examples if isinstance(item, Supplied))
    try:
        return _Loaded(batch=source.collate(examples), supply=supply)
    except UserError as error:
        return error


def _next(stream: Iterator[LoadedT]) -> LoadedT:
    try:
        return next(stream)
    except RuntimeError as error:
        if "DataLoader worker" not in str(error):
            raise
        raise UserError(
            "a process that prepares batches was killed, probably for want of memory; lower "
            "num_workers or give the machine more"
        ) from error


def _micro_batch(
    name: str, source: Source[Any, BatchT], loaded: _Loaded[BatchT] | UserError
) -> MicroBatch[BatchT]:
    if isinstance(loaded, UserError):
        raise loaded
    assert isinstance(loaded.batch, Batch)
    return MicroBatch(source=name, weight=source.weight, batch=loaded.batch, supply=loaded.supply)


def _prepare_worker(done: Event, _: int) -> None:
    torch.set_num_threads(1)

    def ignore_until_done(number: int, frame: FrameType | None) -> None:
        if done.is_set():
            os._exit(0)

    # Ctrl-C and a scheduler's signals reach the whole group; the training process decides.
    for number in CAUGHT:
        signal.signal(number, ignore_until_done)
