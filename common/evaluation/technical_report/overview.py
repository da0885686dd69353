"""Chapter: what a hurried reader takes away: sizes, lengths of the runs, and a main figure of each
benchmark beside its baseline."""

from common.evaluation.technical_report.architecture import total
from common.evaluation.technical_report.benchmarks import Row, rows_of, setting_of
from common.evaluation.technical_report.document import Block, Chapter, Inline, Table, paragraph
from common.evaluation.technical_report.inputs import Evaluation, Inputs
from common.evaluation.technical_report.safety import TOTALS, origins_of
from common.evaluation.technical_report.sources import ends, fixed, number, shown


def overview(inputs: Inputs) -> Chapter:
    """A table of the models and runs, one of main figures, one of tuning."""
    candidates = [_runs(inputs), _figures(inputs), _tuning(inputs)]
    blocks: list[Block] = [table for table in candidates if table.rows]
    for plan in inputs.plans:
        parameters = plan.shown("parameters", form=number)
        blocks.append(
            paragraph(f"{plan.data['model']}: planned, not run; ", parameters, " parameters.")
        )
    return Chapter(title="At a glance", blocks=tuple(blocks))


def _runs(inputs: Inputs) -> Table:
    models = {model.folder.resolve(): model for model in inputs.models}
    rows: list[tuple[Inline, ...]] = []
    for run in inputs.runs:
        model = models.pop((run.folder / "model").resolve(), None)
        last = len(run.records) - 1
        rows.append(
            (
                run.name,
                run.recipe,
                "" if model is None else total(model),
                run.metrics.shown(last, "step", form=number),
                run.config.shown("steps", form=number) or "",
                run.metrics.shown(last, "tokens", form=number),
            )
        )
    rows += [(model.name, model.kind, total(model), "", "", "") for model in models.values()]
    return Table(
        headings=("run or model", "kind", "parameters", "updates", "of", "tokens"),
        rows=tuple(rows),
        caption="Runs and models of this report.",
        words=(0, 1),
    )


def _figures(inputs: Inputs) -> Table:
    rows = [_main(evaluation) for evaluation in inputs.evaluations if evaluation.is_suite]
    return Table(
        headings=("benchmark", "model", "metric", "value", "95 %", "baseline", "examples"),
        rows=tuple(row for row in rows if row is not None),
        caption="A main figure of each benchmark, beside its blind baseline or chance.",
        words=(0, 1, 2),
    )


def _tuning(inputs: Inputs) -> Table:
    rows: list[tuple[Inline, ...]] = []
    for alignment in inputs.alignments:
        before, after = (list(alignment.results.data)[place] for place in (0, -1))
        for asked in TOTALS:
            both = [origins_of(alignment, name, asked) for name in (before, after)]
            if all(both):
                shares = (
                    shown(origins, rule="share", factor=100, form=fixed(1)) for origins in both
                )
                rows.append((alignment.name, asked.title, f"be {asked.should}", *shares))
    return Table(
        headings=("tuning", "per cent", "should", "before", "after"),
        rows=tuple(rows),
        caption="Instructions and refusals before and after tuning.",
        words=(0, 1, 2),
    )


def _main(evaluation: Evaluation) -> tuple[Inline, ...] | None:
    """The first metric, at the most shots."""
    rows = rows_of(evaluation)
    if not rows:
        return None
    same = [row for row in rows if row.score["metric"] == rows[0].score["metric"]]
    row = max(same, key=lambda row: row.score["shots"] or 0)
    results = evaluation.results
    baseline = next(iter(row.baselines.items()), None)
    return (
        results.data["name"],
        evaluation.model_name,
        _metric(row),
        results.shown("scores", row.place, "value", form=fixed(1)),
        results.shown("scores", row.place, "interval", form=ends(1)) or "",
        results.shown("scores", baseline[1], "value", form=fixed(1, f" ({baseline[0]})"))
        if baseline
        else "",
        results.shown("scores", row.place, "num", form=number),
    )


def _metric(row: Row) -> str:
    shots = row.score["shots"]
    words = [row.score["metric"], *([f"{shots} shots"] if shots is not None else [])]
    return ", ".join([*words, *([setting_of(row.score)] if setting_of(row.score) else [])])
