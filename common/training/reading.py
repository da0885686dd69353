"""What a run has read of its sources: position, packing, a digest of all keys, counts.

None of it depends on ranks and micro-batches, so a run goes on with others. The position counts
updates that were read; after a roll-back fewer are trained.
"""

import hashlib
from collections.abc import Callable, Generator, Mapping
from typing import Any, Generic

from common.training.loader import Share, Sources, States, Update, read_updates
from common.training.metrics import Record
from common.training.packing_state import packing_from_json, packing_to_json
from common.training.run import RunConfig
from common.training.runtime import Runtime
from common.training.supply import SupplyTally
from common.training.task import BatchT

DIGEST_BITS = 64


class Reading(Generic[BatchT]):
    """Hands out the updates of a run and remembers what was taken."""

    def __init__(
        self,
        run: RunConfig[Any],
        sources: Sources[BatchT],
        runtime: Runtime,
        *,
        say: Callable[[str], None],
    ) -> None:
        self.run, self.sources, self.runtime = run, sources, runtime
        self.position = 0
        self.states: States = {}  # of the sources' packing
        self.keys = 0  # digest of this rank's share
        self.recent: list[list[str]] = []  # keys of the updates since they were last taken
        self.supply = SupplyTally(max_fault_share=run.max_fault_share, say=say)

    def updates(self) -> Generator[Update[BatchT]]:
        """From the position on, without end; to be closed."""
        share = Share(
            rank=self.runtime.rank,
            num_ranks=self.runtime.num_ranks,
            num_micro_batches=self.run.num_micro_batches,
        )
        return read_updates(
            self.sources,
            first=self.position,
            share=share,
            num_workers=self.run.num_workers,
            states=self.states,
        )

    def take(self, update: Update[BatchT]) -> None:
        """Count an update as read."""
        self.recent.append([key for part in update.parts for key in part.batch.keys])
        for part in update.parts:
            for key in part.batch.keys:
                self.keys += key_digest(self.position, part.source, key)
            self.supply.add(part.supply)
        self.states = update.states
        self.position += 1

    def take_keys(self) -> list[list[str]]:
        """What this rank has read for each update since the last call."""
        keys, self.recent = self.recent, []
        return keys

    def figures(self) -> Record:
        """Digest and counts over all ranks.

        Raises:
            UserError: more than the allowed share of a corpus had to be replaced.
        """
        counts: Record = {**self.supply.figures(self.runtime.collect(self.supply.counts))}
        return {"keys": self._digest()} | counts

    def to_json(self) -> dict[str, Any]:
        """What a checkpoint keeps; all ranks must call."""
        return {
            "position": self.position,
            "keys": self._digest(),
            "packing": packing_to_json(self.sources, self.states),
            "supply": self.supply.to_json(self.runtime.collect(self.supply.counts)),
        }

    def load(self, saved: Mapping[str, Any]) -> None:
        """Go on behind what was read.

        Raises:
            UserError: the data are not those of the checkpoint.
        """
        is_main = self.runtime.is_main
        self.position = saved["position"]
        # One rank takes over what all of them have summed up.
        self.keys = int(saved["keys"], base=16) if is_main else 0
        self.states = packing_from_json(self.sources, saved["packing"])
        self.supply.load(saved["supply"], is_main=is_main)

    def _digest(self) -> str:
        total = sum(self.runtime.collect(self.keys)) % 2**DIGEST_BITS
        return f"{total:0{DIGEST_BITS // 4}x}"


def key_digest(position: int, source: str, key: str) -> int:
    """Summed over what was read: equal sums, equal samples in equal updates, on whatever rank."""
    digest = hashlib.sha256(f"{position} {source} {key}".encode()).digest()
    return int.from_bytes(digest[: DIGEST_BITS // 8])
