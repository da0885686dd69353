"""Batches of every update by random access: what update t reads is a pure function of t.

Position p of a source belongs to update p // batch_size. Within an update, micro-batch i of rank r
takes the next batch_size / (micro-batches x ranks) positions, ranks innermost. The only state is
the number of updates done, so a run resumes at its exact sample, with any number of workers.
"""

import multiprocessing
import os
import signal
from collections.abc import Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from multiprocessing.synchronize import Event
from types import FrameType
from typing import Any, Generic

import torch
from torch.utils.data import DataLoader, Dataset, Sampler

from common.errors import UserError
from common.training.task import Batch, BatchT, Example, Source

Sources = Mapping[str, Source[Any, BatchT]]  # Examples concern nobody but their own source.


@dataclass(frozen=True, kw_only=True)
class MicroBatch(Generic[BatchT]):
    """One part of an update."""

    source: str
    weight: float
    batch: BatchT


@dataclass(frozen=True, kw_only=True)
class Share:
    """Which part of every update this rank reads."""

    rank: int
    num_ranks: int
    num_micro_batches: int

    def positions(self, update: int, micro_batch: int, *, batch_size: int) -> range:
        """Update 3 of 8 examples, 2 micro-batches, 2 ranks: rank 1 reads 26 27, then 30 31."""
        size = batch_size // (self.num_ranks * self.num_micro_batches)
        first = update * batch_size + (micro_batch * self.num_ranks + self.rank) * size
        return range(first, first + size)


def read_updates(
    sources: Sources[BatchT], *, first: int, last: int, share: Share, num_workers: int
) -> Generator[list[MicroBatch[BatchT]]]:
    """For every update first ... last - 1 (from 0) this rank's micro-batches of all sources.

    Close it, also after an error: that ends the workers.
    """
    check_batch_sizes(sources, share)
    done = multiprocessing.Event()
    streams = {
        name: iter(_loader(source, range(first, last), share, num_workers, done))
        for name, source in sources.items()
    }
    try:
        for _ in range(first, last):
            yield [
                MicroBatch(source=name, weight=source.weight, batch=_unwrap(next(streams[name])))
                for _ in range(share.num_micro_batches)
                for name, source in sources.items()
            ]
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


def _loader(
    source: Source[Any, BatchT], updates: range, share: Share, num_workers: int, done: Event
) -> DataLoader[Any]:
    return DataLoader(
        _Examples(source),
        batch_sampler=_Positions(source.batch_size, updates, share),
        collate_fn=partial(_collate, source),
        num_workers=num_workers,
        worker_init_fn=partial(_prepare_worker, done),
        # A loader without its own generator draws its seed from the training's, at every start.
        generator=torch.Generator(),
    )


class _Positions(Sampler[list[int]]):
    """The positions of each batch, in the order of updates and micro-batches."""

    def __init__(self, batch_size: int, updates: range, share: Share) -> None:
        self.batch_size, self.updates, self.share = batch_size, updates, share

    def __iter__(self) -> Iterator[list[int]]:
        for update in self.updates:
            for part in range(self.share.num_micro_batches):
                yield list(self.share.positions(update, part, batch_size=self.batch_size))


class _Examples(Dataset[Example | UserError]):
    """A source as torch wants it; errors travel as values, for workers would wrap their text."""

    def __init__(self, source: Source[Any, Any]) -> None:
        self.source = source

    def __getitem__(self, position: int) -> Example | UserError:
        try:
            example: Example = self.source.example(position)
        except UserError as error:
            return error
        return example


def _collate(
    source: Source[Any, BatchT], examples: Sequence[Example | UserError]
) -> BatchT | UserError:
    errors = [item for item in examples if isinstance(item, UserError)]
    try:
        return errors[0] if errors else source.collate(examples)
    except UserError as error:
        return error


def _unwrap(batch: BatchT | UserError) -> BatchT:
    if isinstance(batch, UserError):
        raise batch
    assert isinstance(batch, Batch)
    return batch


def _prepare_worker(done: Event, _: int) -> None:
    torch.set_num_threads(1)

    def ignore_until_done(number: int, frame: FrameType | None) -> None:
        if done.is_set():
            os._exit(0)

    # Ctrl-C and a scheduler's SIGTERM reach the whole group; the training process decides.
    signal.signal(signal.SIGINT, ignore_until_done)
    signal.signal(signal.SIGTERM, ignore_until_done)
