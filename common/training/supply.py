"""What the data gave: documents, epochs, cut and replaced samples by corpus, counted from what was
trained on. Too many replaced samples end the run, and say why."""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from common.data.feed import Supply
from common.errors import UserError

BLOCK = 10_000  # documents of a corpus over which its share of replaced samples is judged
FEWEST_FAULTS = 10  # that can end a run
SHOWN = 3  # replaced samples of a corpus that are shown

Counts = dict[str, Counter[str]]  # corpus -> what -> how often


class SupplyTally:
    """The counts of one rank since the start of the run, and what all ranks know of each other's.

    Saved by the main rank for all, so a run goes on with another number of ranks.
    """

    def __init__(self, *, max_fault_share: float, say: Callable[[str], None]) -> None:
        self.max_fault_share, self.say = max_fault_share, say
        self.counts: Counts = {}
        self.epochs: dict[str, int] = {}  # begun, by corpus
        self.block_starts: dict[str, list[int]] = {}  # documents and faults before the block
        self.shown: Counter[str] = Counter()

    def add(self, supply: Supply) -> None:
        """Count what was read for a batch."""
        for name, number in supply.documents.items():
            self._of(name)["documents"] += number
        for name, number in supply.cut.items():
            self._of(name)["cut"] += number
        for fault in supply.faults:
            self._of(fault.corpus)[f"faults/{fault.cause}"] += 1
            self.shown[fault.corpus] += 1
            if self.shown[fault.corpus] <= SHOWN:
                self.say(f"replaced a sample of {fault.corpus}: {fault.message}")
        for name, epoch in supply.epochs.items():
            self._of(name)["epoch"] = max(epoch, self._of(name)["epoch"])

    def figures(self, everyone: Sequence[Counts]) -> dict[str, int]:
        """Counts over all ranks, as `data/CORPUS/documents`; tells when a corpus begins anew.

        Raises:
            UserError: more than the allowed share of a corpus had to be replaced.
        """
        total = summed(everyone)
        for name, counts in total.items():
            self._tell_epoch(name, counts)
            self._judge(name, counts)
        return {
            f"data/{name}/{what}": number
            for name, counts in total.items()
            for what, number in counts.items()
        }

    def to_json(self, everyone: Sequence[Counts]) -> dict[str, Any]:
        """What the main rank stores."""
        return {
            "counts": summed(everyone),
            "epochs": self.epochs,
            "block_starts": self.block_starts,
        }

    def load(self, saved: Mapping[str, Any], *, is_main: bool) -> None:
        """Go on counting; one rank alone takes over what was counted so far."""
        counts = saved["counts"] if is_main else {}
        self.counts = {name: Counter(numbers) for name, numbers in counts.items()}
        self.epochs, self.block_starts = dict(saved["epochs"]), dict(saved["block_starts"])

    def _of(self, name: str) -> Counter[str]:
        return self.counts.setdefault(name, Counter())

    def _tell_epoch(self, name: str, counts: Mapping[str, int]) -> None:
        if counts["epoch"] > self.epochs.get(name, 0):
            self.epochs[name] = counts["epoch"]
            causes = [f"{w.split('/')[1]} {n}" for w, n in counts.items() if w.startswith("faults")]
            replaced = ", ".join(causes) or "none"
            self.say(
                f"{name}: epoch {counts['epoch'] + 1} begins after {counts['documents']:,} "
                f"documents; cut {counts['cut']:,}; replaced: {replaced}"
            )

    def _judge(self, name: str, counts: Mapping[str, int]) -> None:
        faults = sum(number for what, number in counts.items() if what.startswith("faults"))
        documents_before, faults_before = self.block_starts.setdefault(name, [0, 0])
        documents, new_faults = counts["documents"] - documents_before, faults - faults_before
        if new_faults >= FEWEST_FAULTS and new_faults > self.max_fault_share * documents:
            causes = {what.split("/")[1]: n for what, n in counts.items() if "faults/" in what}
            raise UserError(
                f"{new_faults} of the last {documents} samples of {name} could not be used "
                f"(since the start: {causes}), more than max_fault_share={self.max_fault_share}; "
                "look at them with prepare_data.py inspect, or allow a larger share"
            )
        if documents >= BLOCK:
            self.block_starts[name] = [counts["documents"], faults]


def summed(everyone: Iterable[Counts]) -> Counts:
    """Counts of all ranks together; of epochs the latest."""
    total: Counts = {}
    for counts in everyone:
        for name, numbers in counts.items():
            mine = total.setdefault(name, Counter())
            latest = max(mine["epoch"], numbers["epoch"])
            mine.update(numbers)
            mine["epoch"] = latest
    return total
