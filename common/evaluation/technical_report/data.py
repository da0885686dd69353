"""Chapter: what the runs were trained on: sources, what each gave, what could not be used, and how
many examples the evaluations had."""

from collections.abc import Iterator
from pathlib import Path

from common.evaluation.technical_report.document import (
    Block,
    Chapter,
    Heading,
    Inline,
    Table,
    paragraph,
)
from common.evaluation.technical_report.inputs import Inputs, Run
from common.evaluation.technical_report.sources import number


def data(inputs: Inputs) -> Chapter | None:
    """Sources and supply of every run, sizes of held-out sets; None without runs."""
    if not inputs.runs:
        return None
    blocks: list[Block] = []
    for run in inputs.runs:
        blocks += [Heading(run.name), *_sources(run), *_supply(run)]
    blocks += _held_out(inputs)
    return Chapter(title="Data", blocks=tuple(blocks))


def _sources(run: Run) -> Iterator[Block]:
    sources = run.config.at("task", "sources")
    if not isinstance(sources, list) or not sources:
        yield paragraph("One source, which the task itself draws (", _seed(run), ").")
        return
    columns = [name for name in ("weight", "batch_size") if name in sources[0]]
    rows = [
        (
            str(source.get("name") or source.get("kind")),
            str(source.get("kind", "")),
            Path(source["path"]).name if source.get("path") else "generated",
            *(
                run.config.shown("task", "sources", place, column, form=number) or ""
                for column in columns
            ),
        )
        for place, source in enumerate(sources)
    ]
    yield Table(
        headings=("source", "kind", "files", *(column.replace("_", " ") for column in columns)),
        rows=tuple(rows),
        caption=f"Sources of {run.name}, with their weights in the loss or in the mixture.",
        words=(0, 1, 2),
    )


def _seed(run: Run) -> Inline:
    seed = run.config.shown("task", "data_seed", form=lambda value: f"data seed {value}")
    return seed or "data seed not recorded"


def _supply(run: Run) -> Iterator[Block]:
    """Counts over the whole run stand in every record, so the last has them all."""
    last = len(run.records) - 1
    keys = [key for key in run.records[last] if key.startswith("data/")]
    tokens = run.metrics.shown(last, "tokens", form=number)
    if not keys:
        yield paragraph("Tokens: ", tokens, ". Documents, cut and replaced samples: ", None, ".")
        return
    yield paragraph("Tokens: ", tokens, ".")
    corpora = list(dict.fromkeys(key.split("/")[1] for key in keys))
    whats = list(dict.fromkeys(key.split("/", 2)[2] for key in keys))
    rows = [
        (
            corpus.replace("_", " "),
            *(
                run.metrics.shown(last, f"data/{corpus}/{what}", form=number) or "0"
                for what in whats
            ),
        )
        for corpus in corpora
    ]
    yield Table(
        headings=("corpus", *(_heading(what) for what in whats)),
        rows=tuple(rows),
        caption=f"What the corpora gave to {run.name}.",
        notes=() if any("faults/" in key for key in keys) else ("No sample had to be replaced.",),
    )


def _heading(what: str) -> str:
    return f"replaced: {what.removeprefix('faults/')}" if what.startswith("faults/") else what


def _held_out(inputs: Inputs) -> Iterator[Block]:
    rows = []
    for evaluation in inputs.evaluations:
        results = evaluation.results
        if evaluation.is_suite:
            whole = [n for n, s in enumerate(results.data["scores"]) if not s["part"]]
            num = results.shown("scores", whole[0], "num", form=number) if whole else None
            rows.append((results.data["name"], "all", num))
        seen = set()
        for place, row in enumerate(results.data.get("few_shot", [])):
            if row["split"] not in seen:
                seen.add(row["split"])
                num = results.shown("few_shot", place, "num", form=number)
                rows.append((evaluation.name, row["split"].replace("_", " "), num))
    if rows:
        yield Heading("Held-out examples")
        yield Table(
            headings=("evaluation", "split", "examples"),
            rows=tuple(rows),
            caption="How many examples each evaluation had.",
            words=(0, 1),
        )
