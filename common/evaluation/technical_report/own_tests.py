"""The tests that the quickstarts end with, on generated scenes and sounds that no training showed:
few-shot answers with their controls, retrieval, captions, losses beside those of word counts."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from common.evaluation.plots import LINES
from common.evaluation.technical_report.curves import Curve, Panel, shots_figure
from common.evaluation.technical_report.document import Block, Heading, Origin, Picture, Table
from common.evaluation.technical_report.inputs import Evaluation
from common.evaluation.technical_report.sources import ends, fixed, number

PERCENT = fixed(1)


def own_tests(evaluation: Evaluation, pictures: Path) -> Iterator[Block]:
    """A section with every table that `results.json` has the figures of."""
    data = evaluation.results.data
    yield Heading(f"Generated tests — {evaluation.name}")
    if "few_shot" in data:
        yield _few_shot(evaluation)
        yield _few_shot_picture(evaluation, pictures)
    for kind in ("retrieval", "captions"):
        if kind in data:
            yield {"retrieval": _retrieval, "captions": _captions}[kind](evaluation)
    if "language" in data:
        yield _language(evaluation)


def _few_shot(evaluation: Evaluation) -> Table:
    rows = evaluation.results.data["few_shot"]
    shots = sorted({row["shots"] for row in rows})
    places = {(r["split"], r["control"], r["shots"]): n for n, r in enumerate(rows)}
    lines = []
    for split, control in dict.fromkeys((row["split"], row["control"]) for row in rows):
        first = next(place for key, place in places.items() if key[:2] == (split, control))
        lines.append(
            (
                split.replace("_", " "),
                _control(control),
                *(
                    _percent(evaluation, "few_shot", places[key], "accuracy")
                    if (key := (split, control, n)) in places
                    else ""
                    for n in shots
                ),
                _percent(evaluation, "few_shot", first, "prior"),
                _percent(evaluation, "few_shot", first, "chance"),
            )
        )
    return Table(
        headings=(
            "split",
            "prompt",
            *(f"{n} shots" for n in shots),
            "frequent answer",
            "chance",
        ),
        rows=tuple(lines),
        caption=f"Open-ended answers of {evaluation.name}, per cent right.",
        words=(0, 1),
        emphasised=tuple(n for n, line in enumerate(lines) if line[1] == _control("none")),
    )


def _few_shot_picture(evaluation: Evaluation, pictures: Path) -> Picture:
    rows = evaluation.results.data["few_shot"]
    panels = []
    for split in dict.fromkeys(row["split"] for row in rows):
        own = [row for row in rows if row["split"] == split]
        curves = [
            _curve([row for row in own if row["control"] == control], control)
            for control in dict.fromkeys(row["control"] for row in own)
        ]
        levels = {"frequent answer": 100 * own[0]["prior"], "chance": 100 * own[0]["chance"]}
        title = split.replace("_", " ")
        panels.append(Panel(title=title, unit="answers right, %", curves=curves, levels=levels))
    file = pictures / f"answers_{evaluation.name.replace('/', '_')}.svg"
    shots_figure(panels, file)
    return Picture(
        file=file,
        caption=f"Answers of {evaluation.name} over the number of shots, with 95 % intervals.",
        origins=(Origin(file=evaluation.results.file, key=("few_shot",)),),
    )


def _curve(rows: list[dict[str, Any]], control: str) -> Curve:
    rows = sorted(rows, key=lambda row: int(row["shots"]))
    return Curve(
        label=_control(control),
        shots=[row["shots"] for row in rows],
        values=[100 * row["accuracy"] for row in rows],
        ends=[(100 * row["interval_95"][0], 100 * row["interval_95"][1]) for row in rows],
        is_baseline=control != "none",
    )


def _retrieval(evaluation: Evaluation) -> Table:
    splits = evaluation.results.data["retrieval"]
    columns = ("image to text", "text to image", "audio to text", "text to audio")
    ranks = ("r1", "r5")
    shown = [c for c in columns if any(f"{_snake(c)}_r1" in figures for figures in splits.values())]
    return Table(
        headings=("split", *(f"{c}, R@{rank[1:]}" for c in shown for rank in ranks)),
        rows=tuple(
            (
                split.replace("_", " "),
                *(
                    _percent(evaluation, "retrieval", split, key) if key in figures else ""
                    for c in shown
                    for rank in ranks
                    for key in [f"{_snake(c)}_{rank}"]
                ),
            )
            for split, figures in splits.items()
        ),
        caption=f"Retrieval by {evaluation.name}, per cent.",
    )


def _captions(evaluation: Evaluation) -> Table:
    splits = evaluation.results.data["captions"]
    return Table(
        headings=("split", "attributes right", "95 % interval", "media exchanged", "frequent word"),
        rows=tuple(
            (
                split.replace("_", " "),
                _percent(evaluation, "captions", split, "accuracy"),
                evaluation.results.shown("captions", split, "interval_95", form=ends(1, 100)) or "",
                _percent(evaluation, "captions", split, "media_exchanged"),
                _percent(evaluation, "captions", split, "prior"),
            )
            for split in splits
        ),
        caption=(
            f"Attributes named in captions by {evaluation.name}, per cent; “media exchanged”: "
            "beside another example's truth."
        ),
    )


def _language(evaluation: Evaluation) -> Table:
    figures = evaluation.results.data["language"]
    kinds = [name.removesuffix("_loss") for name in figures if name.endswith("_loss")]
    return Table(
        headings=("prediction", "loss", "entropy of word counts"),
        rows=tuple(
            (
                kind,
                evaluation.results.shown("language", f"{kind}_loss", form=number),
                evaluation.results.shown("language", f"{kind}_unigram_entropy", form=number),
            )
            for kind in kinds
        ),
        caption=f"Held-out text of {evaluation.name}, nats per token.",
    )


def _percent(evaluation: Evaluation, *key: str | int) -> Any:
    return evaluation.results.shown(*key, form=PERCENT, factor=100)


def _control(name: str) -> str:
    return next((label for control, (_, _, label) in LINES.items() if control == name), name)


def _snake(words: str) -> str:
    return words.replace(" ", "_")
