"""Chapter: what the models reach on benchmarks, each beside the same without media, chance, and
what others have published, with curves over the number of shots."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from common.evaluation.technical_report.curves import Curve, Panel, shots_figure
from common.evaluation.technical_report.document import (
    Block,
    Chapter,
    Heading,
    Inline,
    Origin,
    Picture,
    Shown,
    Table,
    paragraph,
)
from common.evaluation.technical_report.inputs import Evaluation, Inputs
from common.evaluation.technical_report.own_tests import own_tests
from common.evaluation.technical_report.published import PUBLISHED, Published, published_of
from common.evaluation.technical_report.sources import ends, fixed, number

BASELINE = "baseline"  # the setting of scores that stand beside those of the model


@dataclass(frozen=True, kw_only=True)
class Row:
    """A score and the baselines of the same metric, shots and setting, by their places."""

    score: Mapping[str, Any]
    place: int
    baselines: Mapping[str, int]  # "blind", "chance" -> place


def benchmarks(inputs: Inputs, pictures: Path) -> Chapter | None:
    """Scores of all evaluations; None without any."""
    if not inputs.evaluations:
        return None
    blocks: list[Block] = [_introduction()]
    for evaluation in inputs.evaluations:
        if evaluation.is_suite:
            name = evaluation.results.data["name"]
            blocks.append(Heading(f"{name} — {evaluation.model_name}"))
            blocks.append(_scores(evaluation))
            blocks += _beside_published(evaluation)
        else:
            blocks += own_tests(evaluation, pictures)
    blocks += _curves(inputs, pictures)
    return Chapter(title="Benchmarks", blocks=tuple(blocks))


def rows_of(evaluation: Evaluation) -> list[Row]:
    """The scores over all examples, each once, baselines with the score that they belong to."""
    found: dict[tuple[object, ...], dict[str, int]] = {}
    scores = evaluation.results.data["scores"]
    for place, score in enumerate(scores):
        if not score["part"]:
            found.setdefault(_key(score), {})[_kind(score)] = place
    return [
        Row(
            score=scores[kinds[""]],
            place=kinds[""],
            baselines={kind: place for kind, place in kinds.items() if kind},
        )
        for kinds in found.values()
        if "" in kinds
    ]


def setting_of(score: Mapping[str, Any]) -> str:
    """`random`, `rices`; empty where there is none."""
    return ", ".join(word for name, word in score["setting"].items() if name != BASELINE)


def _introduction() -> Block:
    return paragraph(
        "Figures are in the unit that the field quotes: shares in per cent, CIDEr-D times 100. "
        "Intervals are 95 %. “Blind” is the same prompts with every medium removed. Rows of "
        "others are theirs, taken on the official files; compare them with a row of ours only "
        "where its examples are not generated."
    )


def _scores(evaluation: Evaluation) -> Table:
    rows = rows_of(evaluation)
    kinds = list(dict.fromkeys(kind for row in rows for kind in row.baselines))
    has_shots = any(row.score["shots"] is not None for row in rows)
    has_setting = any(setting_of(row.score) for row in rows)
    names = ["shots"] * has_shots + ["setting"] * has_setting
    return Table(
        headings=("metric", *names, "value", "95 % interval", *kinds, "examples"),
        rows=tuple(
            _score_row(evaluation, row, kinds, has_shots=has_shots, has_setting=has_setting)
            for row in rows
        ),
        caption=f"{evaluation.results.data['name']}: {evaluation.model_name}.",
        words=(0, 1 + has_shots) if has_setting else (0,),
    )


def _score_row(
    evaluation: Evaluation, row: Row, kinds: Sequence[str], *, has_shots: bool, has_setting: bool
) -> tuple[Inline, ...]:
    results = evaluation.results
    value = fixed(2)
    shots = results.shown("scores", row.place, "shots", form=number)
    baselines = [
        results.shown("scores", row.baselines[kind], "value", form=value)
        if kind in row.baselines
        else ""
        for kind in kinds
    ]
    return (
        row.score["metric"],
        *([shots] if has_shots else []),
        *([setting_of(row.score)] if has_setting else []),
        results.shown("scores", row.place, "value", form=value),
        results.shown("scores", row.place, "interval", form=ends(2)) or "",
        *baselines,
        results.shown("scores", row.place, "num", form=number),
    )


def _beside_published(evaluation: Evaluation) -> Iterator[Table]:
    """Models down; numbers of shots across, or metrics where shots have no meaning."""
    name = evaluation.results.data["name"]
    known = [row for row in PUBLISHED if row.benchmark == name]
    if not known:
        return
    metrics = dict.fromkeys(row.metric for row in known)
    ours = [row for row in rows_of(evaluation) if row.score["metric"] in metrics]
    columns = [
        (metric, shots) for metric in metrics for shots in _all_shots(known, ours, metric=metric)
    ]
    settings = list(dict.fromkeys(setting_of(row.score) for row in ours))
    own = "this report, on generated examples" if evaluation.is_generated else "this report"
    own_rows = [
        (
            ", ".join([own, *([setting] if setting else [])]),
            *(_own_cell(evaluation, ours, setting, column) for column in columns),
        )
        for setting in settings
    ]
    models = dict.fromkeys(row.model for row in known)
    others = [
        (model, *(_published_cell(known, model, column) for column in columns)) for model in models
    ]
    metric = f", {next(iter(metrics))}" if len(metrics) == 1 else ""
    yield Table(
        headings=("model", *(_heading(column, len(metrics)) for column in columns)),
        rows=(*own_rows, *others),
        caption=f"{name} beside published figures{metric}.",
        notes=tuple(_sources(known)),
        emphasised=tuple(range(len(own_rows))),
    )


def _own_cell(
    evaluation: Evaluation, ours: Sequence[Row], setting: str, column: tuple[str, int | None]
) -> Inline:
    for row in ours:
        if (row.score["metric"], row.score["shots"], setting_of(row.score)) == (*column, setting):
            return evaluation.results.shown("scores", row.place, "value", form=fixed(1))
    return None


def _published_cell(
    known: Sequence[Published], model: str, column: tuple[str, int | None]
) -> Inline:
    metric, shots = column
    for row in known:
        if (row.model, row.metric) == (model, metric) and shots in row.figures:
            value = row.figures[shots]
            return Shown(text=str(value), value=value, citation=f"{model}: {row.source}")
    return ""


def _all_shots(known: Sequence[Published], ours: Sequence[Row], *, metric: str) -> list[int | None]:
    shots = {number for row in known if row.metric == metric for number in row.figures}
    shots |= {row.score["shots"] for row in ours if row.score["metric"] == metric}
    return sorted(shots, key=lambda number: -1 if number is None else number)


def _heading(column: tuple[str, int | None], num_metrics: int) -> str:
    metric, shots = column
    words = [metric] if num_metrics > 1 or shots is None else []
    return ", ".join([*words, *([f"{shots} shots"] if shots is not None else [])])


def _sources(known: Sequence[Published]) -> Iterator[str]:
    for source in dict.fromkeys(row.source for row in known):
        rows = [row for row in known if row.source == source]
        models = ", ".join(dict.fromkeys(row.model for row in rows))
        remarks = "".join(
            f"; {remark}" for remark in dict.fromkeys(r.remark for r in rows if r.remark)
        )
        yield f"{models}: {source}{remarks}."


def _curves(inputs: Inputs, pictures: Path) -> Iterator[Block]:
    panels, origins = [], []
    for evaluation in (one for one in inputs.evaluations if one.is_suite):
        panel = _panel(evaluation)
        if panel is not None:
            panels.append(panel)
            origins.append(Origin(file=evaluation.results.file, key=("scores",)))
    if panels:
        file = pictures / "few_shot.svg"
        shots_figure(panels, file)
        yield Heading("Few-shot curves")
        yield Picture(
            file=file,
            caption=(
                "Scores over the number of demonstrations in the prompt, with 95 % intervals; "
                "grey: published figures, as in the tables above."
            ),
            origins=tuple(origins),
        )


def _panel(evaluation: Evaluation) -> Panel | None:
    """Of the first metric that was taken at several numbers of shots."""
    rows = [row for row in rows_of(evaluation) if row.score["shots"] is not None]
    if len({row.score["shots"] for row in rows}) < 2:
        return None
    metric = rows[0].score["metric"]
    name = evaluation.results.data["name"]
    scores = evaluation.results.data["scores"]
    curves = []
    for setting in dict.fromkeys(setting_of(row.score) for row in rows):
        own = [r for r in rows if (r.score["metric"], setting_of(r.score)) == (metric, setting)]
        curves.append(_curve([row.score for row in own], label=setting or "this report"))
        blind = [scores[row.baselines["blind"]] for row in own if "blind" in row.baselines]
        if blind:
            curves.append(_curve(blind, label=f"{setting} blind".strip(), is_baseline=True))
    published = [
        Curve(
            label=row.model,
            shots=[shots for shots in row.figures if shots is not None],
            values=[value for shots, value in row.figures.items() if shots is not None],
            is_published=True,
        )
        for row in published_of(name, metric)
        if len(row.figures) > 1
    ]
    return Panel(title=name, unit=metric, curves=[*published, *curves])


def _curve(scores: Sequence[Mapping[str, Any]], *, label: str, is_baseline: bool = False) -> Curve:
    scores = sorted(scores, key=lambda score: int(score["shots"]))
    ends = [tuple(score["interval"] or [score["value"]] * 2) for score in scores]
    return Curve(
        label=label,
        shots=[score["shots"] for score in scores],
        values=[score["value"] for score in scores],
        ends=[(low, high) for low, high in ends],
        is_baseline=is_baseline,
    )


def _key(score: Mapping[str, Any]) -> tuple[object, ...]:
    return score["metric"], score["shots"], setting_of(score)


def _kind(score: Mapping[str, Any]) -> str:
    return "blind" if score["blind"] else str(score["setting"].get(BASELINE, ""))
