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
    # The first message of each cause.
    examples: dict[Cause, str] = field(default_factory=dict)  # of rejected records
    left_out_examples: dict[Cause, str] = field(default_factory=dict)

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
                self.faults[fault.cause] += 1
                self.examples.setdefault(fault.cause, str(fault))
        return self

    def leave_out(self, fault: BadSample) -> None:
        """Count a part of a document that the document will do without."""
        self.left_out[fault.cause] += 1
        self.left_out_examples.setdefault(fault.cause, str(fault))

    def __add__(self, other: "IngestReport") -> "IngestReport":
        return IngestReport(
            written=self.written + other.written,
            faults=self.faults + other.faults,
            left_out=self.left_out + other.left_out,
            unplaced=self.unplaced + other.unplaced,
            examples=other.examples | self.examples,
            left_out_examples=other.left_out_examples | self.left_out_examples,
        )
