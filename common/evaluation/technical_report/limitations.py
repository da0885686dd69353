"""Chapter: what the figures do not say. All statements but those on the structure of a model follow
from the files: what was not measured, what chance explains, what went wrong."""

from collections import defaultdict
from collections.abc import Iterator

from common.evaluation.suite_files import weights_digest
from common.evaluation.technical_report.benchmarks import rows_of, setting_of
from common.evaluation.technical_report.cost import finished_starts
from common.evaluation.technical_report.document import (
    Block,
    Bullets,
    Chapter,
    Heading,
    Inline,
    paragraph,
)
from common.evaluation.technical_report.inputs import Evaluation, Inputs, Run
from common.evaluation.technical_report.published import PUBLISHED
from common.evaluation.technical_report.sources import fixed, number

Statement = tuple[Inline, ...]
CONTAMINATED = " lie in "  # of notes that tell of evaluated media found elsewhere
PERCENT = fixed(1)


def limitations(inputs: Inputs) -> Chapter:
    """Sections of statements; a section without any says so."""
    derived = {
        "What was not measured": [*_unmeasured(inputs)],
        "Examples": [*_examples(inputs)],
        "What chance or words alone explain": [*_explained(inputs)],
        "Runs": [*_runs(inputs)],
    }
    blocks: list[Block] = []
    for title, statements in derived.items():
        none = paragraph("Nothing was found in the files.")
        blocks += [Heading(title), Bullets(tuple(statements)) if statements else none]
    kinds = dict.fromkeys(model.kind for model in inputs.models)
    structural = [limit for kind in kinds for limit in inputs.limits.get(kind, ())]
    if structural:
        blocks += [Heading("Structure"), Bullets(tuple((limit,) for limit in structural))]
    return Chapter(title="Limitations", blocks=tuple(blocks))


def _unmeasured(inputs: Inputs) -> Iterator[Statement]:
    done = {one.results.data["name"] for one in inputs.evaluations if one.is_suite}
    missing = [name for name in dict.fromkeys(row.benchmark for row in PUBLISHED)
               if name not in done]  # fmt: skip
    if missing:
        yield (f"Benchmarks with published figures that were not taken: {', '.join(missing)}.",)
    if not inputs.alignments:
        yield ("Instructions and refusals, before and after tuning.",)
    without = [run.name for run in inputs.runs if run.starts is None]
    if without:
        yield (f"Commands, devices and wall time of {', '.join(without)}: no run.json.",)
    bare = [r.name for r in inputs.runs if not any(k.startswith("data/") for k in r.records[-1])]
    if bare:
        yield (f"Documents and faults by source of {', '.join(bare)}: not in the metrics.",)
    evaluated = {one.model.resolve() for one in inputs.evaluations if one.model is not None}
    for model in inputs.models:
        if model.folder.resolve() not in evaluated:
            yield (f"{model.name} on any official benchmark: no evaluation names this model.",)


def _examples(inputs: Inputs) -> Iterator[Statement]:
    generated = [part for one in inputs.evaluations for part in _generated(one)]
    if generated:
        words = (
            ". Their figures show that the procedure works, and must not be compared with "
            "published ones."
        )
        yield "Generated examples in the layout of the official files:", *generated[:-1], words
    for evaluation in (one for one in inputs.evaluations if one.is_suite):
        results, name = evaluation.results, evaluation.results.data["name"]
        if evaluation.config is not None and evaluation.config.at("limit") is not None:
            yield f"{name}: only the first ", evaluation.config.shown("limit"), " examples."
        yield from ((f"{name}: {note}",) for note in results.data["notes"] if CONTAMINATED in note)
        if _has_other_weights(evaluation):
            yield (f"{name} was taken with other weights than lie in the model's folder now.",)


def _explained(inputs: Inputs) -> Iterator[Statement]:
    for evaluation in inputs.evaluations:
        if evaluation.is_suite:
            yield from _explained_scores(evaluation)
        else:
            yield from _explained_answers(evaluation)


def _explained_scores(evaluation: Evaluation) -> Iterator[Statement]:
    results = evaluation.results
    scores = results.data["scores"]
    for row in rows_of(evaluation):
        for kind, place in row.baselines.items():
            interval = row.score["interval"]
            other = scores[place]
            if interval is None:
                continue
            reach = other["interval"] or [other["value"]] * 2
            if interval[0] <= reach[1]:
                shots = "" if row.score["shots"] is None else f", {row.score['shots']} shots"
                setting = f", {setting_of(row.score)}" if setting_of(row.score) else ""
                what = f"{results.data['name']}, {row.score['metric']}{shots}{setting}: "
                value = results.shown("scores", row.place, "value", form=PERCENT)
                beside = results.shown("scores", place, "value", form=PERCENT)
                yield what, value, f" cannot be told from {kind} (", beside, ")."


def _explained_answers(evaluation: Evaluation) -> Iterator[Statement]:
    """Generated tests: rows whose interval reaches down to chance or to the frequent answer."""
    results = evaluation.results
    groups: defaultdict[str, list[Inline]] = defaultdict(list)
    for place, row in enumerate(results.data.get("few_shot", [])):
        if row["control"] == "none" and row["interval_95"][0] <= max(row["chance"], row["prior"]):
            value = results.shown("few_shot", place, "accuracy", factor=100, form=PERCENT)
            groups[row["split"]] += [f" {row['shots']} shots ", value, ","]
    for split, parts in groups.items():
        words = f"{evaluation.name}, {split.replace('_', ' ')}, no better than the frequent answer:"
        yield words, *parts[:-1], "."
    for split, row in results.data.get("captions", {}).items():
        if row["interval_95"][0] <= row["prior"]:
            value = results.shown("captions", split, "accuracy", factor=100, form=PERCENT)
            yield f"{evaluation.name}, captions of {split}: ", value, " is within the prior."


def _runs(inputs: Inputs) -> Iterator[Statement]:
    seeds: defaultdict[str, set[object]] = defaultdict(set)
    for run in inputs.runs:
        seeds[f"{run.recipe} {run.folder.name}"].add(run.config.at("seed"))
    single = [name for name, own in seeds.items() if len(own) == 1]
    if single:
        yield (f"One seed only: {', '.join(single)}. What others would give is not known.",)
    for run in inputs.runs:
        yield from _shortfalls(run)


def _shortfalls(run: Run) -> Iterator[Statement]:
    last = len(run.records) - 1
    step, steps = run.records[last]["step"], run.config.at("steps")
    if steps is not None and step < steps:
        reached = run.metrics.shown(last, "step", form=number)
        yield f"{run.name} ended early, after ", reached, " of ", run.config.shown("steps"), "."
    for key, words in (("skipped_updates", "skipped updates"), ("roll_backs", "roll-backs")):
        if run.records[last].get(key):
            yield f"{run.name}: ", run.metrics.shown(last, key, form=number), f" {words}."
    for key, value in run.records[last].items():
        if "/faults/" in key and value:
            _, corpus, _, cause = key.split("/", 3)
            num = run.metrics.shown(last, key, form=number)
            yield f"{run.name}: ", num, f" samples of {corpus} were replaced ({cause})."
    if run.starts is not None and len(finished_starts(run)) < len(run.starts.data):
        yield (f"{run.name}: a start has no recorded end; its time is missing from the cost.",)


def _generated(evaluation: Evaluation) -> list[Inline]:
    """` VQAv2 (60 examples)` and a comma, if a folder of its files generates benchmarks."""
    if not evaluation.is_suite or not evaluation.is_generated:
        return []
    results = evaluation.results
    num = results.shown("scores", rows_of(evaluation)[0].place, "num", form=number)
    return [f" {results.data['name']} (", num, ")", ","]


def _has_other_weights(evaluation: Evaluation) -> bool:
    if evaluation.model is None or evaluation.config is None or not evaluation.model.is_dir():
        return False
    return weights_digest(evaluation.model) != evaluation.config.at("weights")
