"""What became of the records of a source: a bad record is counted by its cause and the next one
follows, so that one fault among millions ends nothing and none goes unseen."""

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import TypeVar

from common.data.faults import BadSample, Cause

Record = TypeVar("Record")


@dataclass(kw_only=True)
class IngestReport:
    """Counts of an ingest; reports of several sources add up."""

    written: int = 0  # samples
    faults: Counter[Cause] = field(default_factory=Counter)  # records rejected
    left_out: Counter[Cause] = field(default_factory=Counter)  # parts, of documents written or not
    unplaced: int = 0  # images that belong to no sentence
    examples: dict[Cause, str] = field(default_factory=dict)  # the first message of each cause

    def take_each(
        self, records: Iterable[Record | BadSample], write: Callable[[Record], None]
    ) -> "IngestReport":
        """Write every record; a record that is a fault already, or proves to be one, is counted."""
        for record in records:
            try:
                if isinstance(record, BadSample):
                    raise record
                write(record)
            except BadSample as fault:
                self._count(self.faults, fault)
        return self

    def leave_out(self, fault: BadSample) -> None:
        """Count a part of a document that the document will do without."""
        self._count(self.left_out, fault)

    def __add__(self, other: "IngestReport") -> "IngestReport":
        return IngestReport(
            written=self.written + other.written,
            faults=self.faults + other.faults,
            left_out=self.left_out + other.left_out,
            unplaced=self.unplaced + other.unplaced,
            examples=other.examples | self.examples,
        )

    def _count(self, counts: Counter[Cause], fault: BadSample) -> None:
        counts[fault.cause] += 1
        self.examples.setdefault(fault.cause, str(fault))
