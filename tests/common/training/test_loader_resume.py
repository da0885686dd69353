"""A run stopped anywhere and continued by other ranks and workers reads what one that was never
stopped reads: every document once, in the same rows, across epochs, packed or not, from shards."""

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import pytest

from common.data.feed import Feed, Supply, merged
from common.data.mixture import Mixture
from common.data.packing import PackedRow, PackState, Room, Size, pack
from common.data.sampler import Order
from common.data.shards.build import build_indices
from common.data.shards.corpus import open_shards
from common.data.shards.writer import TextWriter
from common.training.loader import Share, read_updates
from flare.corpora import embedded_tokenizer

TOPOLOGIES = [(ranks, workers) for ranks in (1, 2, 4) for workers in (0, 1, 2)]
BATCH_SIZE, NUM_MICRO_BATCHES, UPDATES = 8, 2, 12
STOPS = sorted(np.random.default_rng(0).choice(np.arange(1, UPDATES), 5, replace=False).tolist())


@dataclass(frozen=True)
class KeysExample:
    key: str
    supply: Supply = field(default_factory=Supply)


@dataclass(frozen=True)
class KeysBatch:
    keys: list[str]


@dataclass(frozen=True)
class PlainKeys:
    """A document a row."""

    feed: Feed
    batch_size: int = BATCH_SIZE
    weight: float = 1.0

    def example(self, row: int) -> KeysExample:
        return self._read([row])

    def collate(self, examples: Sequence[KeysExample]) -> KeysBatch:
        return KeysBatch([example.key for example in examples])

    def _read(self, numbers: Sequence[int]) -> KeysExample:
        drawn = [self.feed.read(number) for number in numbers]
        key = "+".join(f"{d.epoch}:{d.document.key}" for d in drawn)
        return KeysExample(key, merged(d.supply(is_cut=False) for d in drawn))


@dataclass(frozen=True)
class PackedKeys(PlainKeys):
    """Rows of 64 tokens."""

    @property
    def digest(self) -> str:
        return self.feed.digest

    def pack(self, update: int, state: PackState) -> tuple[list[PackedRow], PackState]:
        def size_of(number: int) -> Size:
            return Size(tokens=min(64, 2 + self.feed.extent(number).tokens))

        rows, state = pack(size_of, state, num_rows=self.batch_size, room=Room(tokens=64))
        return [PackedRow(update, numbers) for numbers in rows], state

    def example(self, row: PackedRow) -> KeysExample:
        return self._read(row.numbers)


@pytest.fixture(scope="module")
def feed(tmp_path_factory: pytest.TempPathFactory) -> Feed:
    """Shards of 90, 43 and 7 short texts; the larger sets last for some epochs, the small many."""
    corpora, generator = [], np.random.default_rng(0)
    for name, size in (("large", 90), ("middle", 43), ("small", 7)):
        folder = tmp_path_factory.mktemp(name)
        with TextWriter(folder, samples_per_shard=13) as writer:
            for number in range(size):
                words = int(np.clip(generator.lognormal(2, 0.8), 1, 60))
                writer.write(f"{name}-{number}", " ".join(["red"] * words))
        build_indices(folder, tokenizer=embedded_tokenizer())
        corpora.append(open_shards(folder, tokenizer=embedded_tokenizer()))
    return Feed(
        corpora=corpora,
        orders=[Order(corpus.shard_sizes, seed=3, window_shards=3) for corpus in corpora],
        mixture=Mixture([3.0, 1.5, 0.5], seed=3),
        seed=3,
    )


def rows_read(
    source: PlainKeys, *, first: int, last: int, ranks: int, workers: int, state: PackState
) -> tuple[list[str], PackState]:
    """The rows in the order of an update, from all ranks, and the state after them."""
    columns, states = [], [state]
    for rank in range(ranks):
        share = Share(rank=rank, num_ranks=ranks, num_micro_batches=NUM_MICRO_BATCHES)
        updates = read_updates(
            {"all": source},
            first=first,
            last=last,
            share=share,
            num_workers=workers,
            states={"all": state},
        )
        parts = []
        for update in updates:
            parts.append([part.batch.keys for part in update.parts])
            states.append(update.states.get("all", state))
        columns.append(parts)
    keys = [
        key
        for update in range(last - first)
        for micro_batch in range(NUM_MICRO_BATCHES)
        for rank in range(ranks)
        for key in columns[rank][update][micro_batch]
    ]
    return keys, PackState.from_json(json.loads(json.dumps(states[-1].to_json())))


@pytest.mark.proves("R5", "order of the data, 1, 2, 4 ranks, 0 to 2 workers", len(TOPOLOGIES))
@pytest.mark.slow
@pytest.mark.parametrize("kind", [PlainKeys, PackedKeys])
@pytest.mark.parametrize("stop", STOPS)
def test_a_stopped_run_goes_on_with_the_same_rows_on_any_topology(
    feed: Feed, kind: type[PlainKeys], stop: int
) -> None:
    source, start = kind(feed), PackState()
    whole, _ = rows_read(source, first=0, last=UPDATES, ranks=1, workers=0, state=start)
    for turn, (ranks, workers) in enumerate(TOPOLOGIES):
        before, state = rows_read(
            source, first=0, last=stop, ranks=ranks, workers=workers, state=start
        )
        others, again = TOPOLOGIES[(turn * 4 + 5) % len(TOPOLOGIES)]  # any but the same
        after, _ = rows_read(
            source, first=stop, last=UPDATES, ranks=others, workers=again, state=state
        )
        assert before + after == whole


@pytest.mark.proves("R5", "order of packed data, three times in one epoch", 3)
@pytest.mark.slow
def test_a_run_stopped_twice_in_an_epoch_goes_on_alike(feed: Feed) -> None:
    source, state, rows = PackedKeys(feed), PackState(), []
    for first, last, (ranks, workers) in ((0, 2, (4, 1)), (2, 3, (1, 2)), (3, 9, (2, 0))):
        part, state = rows_read(
            source, first=first, last=last, ranks=ranks, workers=workers, state=state
        )
        rows += part
    assert rows == rows_read(source, first=0, last=9, ranks=1, workers=0, state=PackState())[0]


@pytest.mark.parametrize("kind", [PlainKeys, pytest.param(PackedKeys, marks=pytest.mark.slow)])
def test_nothing_is_missing_and_nothing_is_doubled(feed: Feed, kind: type[PlainKeys]) -> None:
    rows, state = rows_read(kind(feed), first=0, last=60, ranks=2, workers=1, state=PackState())
    read = Counter(key for row in rows for key in row.split("+"))
    assert set(read.values()) == {1}
    num_read, waiting = sum(read.values()), len(state.waiting)
    assert num_read + waiting == (state.next_number or 60 * BATCH_SIZE)
    for name, size in (("middle", 43), ("small", 7)):
        keys = [key for key in read if f"/{name}-" in key]
        epochs = Counter(int(key.split(":")[0]) for key in keys)
        complete = [epoch for epoch in epochs if epoch < max(epochs) - 1]
        assert complete
        assert all(epochs[epoch] == size for epoch in complete)
