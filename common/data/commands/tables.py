"""What the commands found, as tables to be shown."""

from collections.abc import Mapping
from typing import TypeVar

from rich.markup import escape
from rich.table import Table

from common.data.commands.filter import FilterReport
from common.data.commands.index import IndexedFolder
from common.data.ingest.report import IngestReport
from common.data.inspection import CorpusFacts, ReadReport, Spread, TokenFacts

NOTE_CHARACTERS = 200
_Cause = TypeVar("_Cause", bound=str)


def index_table(folder: IndexedFolder) -> Table:
    """What is indexed, and why the rest is not."""
    table, report = _table("index"), folder.report
    shards = report.num_indexed + report.num_kept
    table.add_row("shards", f"{shards:,}", f"{report.num_indexed:,} indexed now")
    table.add_row("samples", f"{report.num_samples:,}", "")
    table.add_row("bytes", f"{folder.num_bytes:,}", "")
    if folder.num_tokens is not None:
        table.add_row("tokens", f"{folder.num_tokens:,}", "of texts, without control tokens")
    return _with_rejected(table, report.rejected, damaged=report.damaged)


def facts_table(facts: CorpusFacts) -> Table:
    """A data set by its index."""
    table = _table("data set")
    table.add_row("shards", f"{facts.num_shards:,}", f"{facts.num_bytes:,} bytes")
    kinds = ", ".join(f"{kind} {number:,}" for kind, number in facts.kinds.items())
    table.add_row("samples", f"{facts.num_samples:,}", kinds)
    for part, number in facts.parts.items():
        if number:
            hours = f"{facts.hours:,.2f} hours" if part == "clips" else ""
            table.add_row(part, f"{number:,}", hours)
    _add_spread(table, "characters of a sample", facts.characters)
    _add_spread(table, "shorter side, pixels", facts.short_side)
    _add_spread(table, "longer side, pixels", facts.long_side)
    _add_spread(table, "sound, seconds", facts.seconds, digits=2)
    return _with_rejected(table, facts.rejected, damaged=facts.damaged)


def tokens_table(facts: TokenFacts, *, row_tokens: int) -> Table:
    """How a data set fills rows."""
    table = _table("tokens of texts")
    table.add_row("all", f"{facts.num_tokens:,}", "without control tokens and media")
    _add_spread(table, "of a sample", facts.per_sample)
    filled = f"filled to {100 * facts.fill:.1f} %"
    table.add_row(f"rows of {row_tokens:,}", f"{facts.num_rows:,}", filled)
    table.add_row("samples longer than that", f"{facts.num_longer:,}", "")
    return table


def read_table(report: ReadReport) -> Table:
    """What cannot be read."""
    return _causes("read", report.num_samples, report.faults, examples=report.examples)


def ingest_table(report: IngestReport) -> Table:
    """What was written, and why the rest was not."""
    table = _causes("written", report.written, report.faults, examples=report.examples)
    for cause, number in report.left_out.items():
        note = _short(report.left_out_examples.get(cause, ""))
        table.add_row(f"parts left out: {cause}", f"{number:,}", note)
    if report.unplaced:
        table.add_row("images of no sentence", f"{report.unplaced:,}", "")
    return table


def filter_table(report: FilterReport) -> Table:
    """What is kept, and why the rest is not."""
    table = _table("filter")
    table.add_row("samples", f"{report.num_samples:,}", "")
    table.add_row("kept", f"{report.num_kept:,}", "")
    for reason, number in sorted(report.reasons.items(), key=lambda item: -item[1]):
        table.add_row(f"left out: {reason}", f"{number:,}", "")
    return table


def _table(title: str) -> Table:
    table = Table(title, "", "")
    table.columns[1].justify = "right"
    return table


def _causes(
    title: str, number: int, faults: Mapping[_Cause, int], *, examples: Mapping[_Cause, str]
) -> Table:
    table = _table("samples")
    table.add_row(title, f"{number:,}", "")
    for cause, count in faults.items():
        table.add_row(f"fault: {cause}", f"{count:,}", _short(examples.get(cause, "")))
    return table


def _with_rejected(
    table: Table, rejected: Mapping[str, int], *, damaged: Mapping[str, str]
) -> Table:
    for cause, number in rejected.items():
        table.add_row(f"rejected: {cause}", f"{number:,}", "")
    for file, damage in damaged.items():
        table.add_row("damaged shard", escape(file), _short(damage))
    return table


def _add_spread(table: Table, what: str, spread: Spread | None, *, digits: int = 0) -> None:
    if spread is None:
        return
    low, high, least, greatest = (
        f"{value:,.{digits}f}" for value in (spread.low, spread.high, spread.least, spread.greatest)
    )
    note = f"median; 90 % in {low}..{high}, all in {least}..{greatest}"
    table.add_row(what, f"{spread.median:,.{digits}f}", note)


def _short(text: str) -> str:
    """A message as it may stand in a table: it can hold anything that a file's name can."""
    return escape(text if len(text) <= NOTE_CHARACTERS else f"{text[:NOTE_CHARACTERS]}...")
