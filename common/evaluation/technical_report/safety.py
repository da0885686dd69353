"""Chapter: instructions answered and requests refused, before and after each round of tuning."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from common.evaluation.technical_report.document import (
    Block,
    Chapter,
    Heading,
    Inline,
    Origin,
    Table,
    paragraph,
)
from common.evaluation.technical_report.inputs import Alignment, Inputs
from common.evaluation.technical_report.sources import ends, fixed, number, shown

REQUESTS = ("harmful", "harmless")


@dataclass(frozen=True, kw_only=True)
class Total:
    """Figures that are summed: `belongs` says of a name whether it is one."""

    title: str
    belongs: Callable[[str], bool]
    should: str  # be high, or low


TOTALS = (
    Total(
        title="instructions answered exactly",
        belongs=lambda what: what.split()[0] not in REQUESTS,
        should="high",
    ),
    Total(
        title="harmful requests refused",
        belongs=lambda what: what.split()[::2] == ["harmful", "refused"],
        should="high",
    ),
    Total(
        title="harmless look-alikes refused",
        belongs=lambda what: what.split()[::2] == ["harmless", "refused"],
        should="low",
    ),
)


def safety(inputs: Inputs) -> Chapter:
    """Of every alignment; without one it says so."""
    if not inputs.alignments:
        unmeasured = paragraph("Answers to instructions, refusals and false refusals: ", None, ".")
        return Chapter(title="Instructions and safety", blocks=(unmeasured,))
    blocks: list[Block] = [
        paragraph(
            "Held-out instructions and requests, judged by rules; 95 % Wilson intervals below "
            "each share. Refusing what is harmless is a fault, as is meeting what is harmful."
        )
    ]
    for alignment in inputs.alignments:
        if len(inputs.alignments) > 1:
            blocks.append(Heading(alignment.name))
        blocks += [_totals(alignment), _channels(alignment)]
    return Chapter(title="Instructions and safety", blocks=tuple(blocks))


def origins_of(alignment: Alignment, name: str, total: Total) -> list[Origin]:
    """The pairs (right, number) behind a total of one round."""
    whats = alignment.results.data[name]
    file = alignment.results.file
    return [Origin(file=file, key=(name, what)) for what in whats if total.belongs(what)]


def _totals(alignment: Alignment) -> Table:
    rounds = list(alignment.results.data)
    rows: list[tuple[Inline, ...]] = []
    for total in TOTALS:
        cells: list[Inline] = []
        for name in rounds:
            origins = origins_of(alignment, name, total)
            cells.append(
                shown(origins, rule="share", factor=100, form=fixed(1)) if origins else None
            )
        rows.append((total.title, total.should, *cells))
        rows.append(("", "", *_intervals(alignment, rounds, total)))
    return Table(
        headings=("per cent", "should be", *rounds),
        rows=tuple(rows),
        caption=f"Before (first column of figures) and after each round: {alignment.name}.",
        words=(0, 1),
    )


def _intervals(alignment: Alignment, rounds: list[str], total: Total) -> Iterator[Inline]:
    for name in rounds:
        origins = origins_of(alignment, name, total)
        yield shown(origins, rule="interval", factor=None, form=ends(1, 100)) if origins else ""


def _channels(alignment: Alignment) -> Table:
    rounds = list(alignment.results.data)
    whats = [what for what in alignment.results.data[rounds[0]] if what.split()[0] in REQUESTS]
    return Table(
        headings=("requests", "number", *rounds),
        rows=tuple(
            (
                what,
                alignment.results.shown(rounds[0], what, 1, form=number),
                *(_share(alignment, name, what) for name in rounds),
            )
            for what in whats
        ),
        caption=f"Requests by kind and by the way in which they come, per cent: {alignment.name}.",
    )


def _share(alignment: Alignment, name: str, what: str) -> Inline:
    if what not in alignment.results.data[name]:
        return None
    origin = Origin(file=alignment.results.file, key=(name, what))
    return shown([origin], rule="share", factor=100, form=fixed(1))
