"""The report of one benchmark: all figures with their settings and intervals, the blind baseline
beside each, parts, pictures of hits and misses, remarks, and how to repeat it. A section without
data is left out."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path

from common.evaluation.report import Json, Section, settings_section, table, write_report
from common.evaluation.scores import Sample, Score, SuiteResult
from common.evaluation.suite_files import result_to_json
from common.evaluation.suite_plots import (
    distinct,
    parts_figure,
    samples_figure,
    series_of,
    setting_of,
    shots_figure,
)

SAMPLES_PER_FIGURE = 8
MOST_BARS = 60  # in one picture; the table has all
BASELINE = "baseline"  # a setting of scores that stand beside those of the model
MOST_COLUMNS = 6  # of a table of parts


def write_suite_report(
    folder: Path, result: SuiteResult, *, command: str, settings: Mapping[str, Json]
) -> Path:
    """Write `report.md` with its pictures and `results.json`; returns the path of the report."""
    whole = [score for score in result.scores if not score.part]
    sections = [
        *_scores_section(whole, folder),
        *_parts_sections([score for score in result.scores if score.part], folder),
        *_samples_section(result.samples, folder),
        *([Section(title="Remarks", text=_list(result.notes))] if result.notes else []),
        settings_section(commands=[command], settings=settings),
    ]
    return write_report(
        folder, title=result.name, sections=sections, results=result_to_json(result, folder)
    )


def _scores_section(scores: Sequence[Score], folder: Path) -> list[Section]:
    if not scores:
        return []
    text = [table(*_score_table(scores))]
    if any(score.blind for score in scores):
        text.append("Blind: the same prompts with every medium removed.")
    if len({score.shots for score in scores} - {None}) > 1:
        shots_figure([score for score in scores if score.shots is not None], folder / "shots.png")
        text.insert(0, "![scores by number of shots](shots.png)")
    return [Section(title="Scores", text="\n\n".join(text))]


def _score_table(scores: Sequence[Score]) -> tuple[list[str], list[list[str]]]:
    """Baselines in the row of the score that they belong to, or of their own if there is none."""
    baselines = {(_row_key(score), _baseline(score)): score for score in scores}
    kinds = [kind for kind in distinct(_baseline(score) for score in scores) if kind]
    names = [name for name in distinct(n for s in scores for n in s.setting) if name != BASELINE]
    has_shots = any(score.shots is not None for score in scores)
    rows = []
    for key in dict.fromkeys(_row_key(score) for score in scores):
        own = [score for score in scores if _row_key(score) == key]
        score = baselines.get((key, ""))
        rows.append(
            [
                own[0].metric,
                *([str(own[0].shots)] if has_shots else []),
                *(own[0].setting.get(name, "") for name in names),
                "" if score is None else _value(score.value),
                "" if score is None else _interval(score),
                *(_with_interval(baselines.get((key, kind))) for kind in kinds),
                f"{own[0].num:,}",
            ]
        )
    shots = ["shots"] * has_shots
    return ["metric", *shots, *names, "value", "95 %", *kinds, "examples"], rows


def _parts_sections(scores: Sequence[Score], folder: Path) -> list[Section]:
    groups: defaultdict[tuple[str, str], list[Score]] = defaultdict(list)
    for score in scores:
        groups[", ".join(score.part), score.metric].append(score)
    sections = []
    for number, ((kind, metric), group) in enumerate(groups.items()):
        title = f"{metric} per {kind}"
        text = [table(*_part_table(group, kind))]
        shown = _most_shots(group)
        if len(group[0].part) == 1 and len({s.part[kind] for s in shown}) <= MOST_BARS:
            name = f"parts_{number}.png"
            parts_figure(shown, kind, folder / name)
            text.insert(0, f"![{title}]({name})")
        sections.append(Section(title=title, text="\n\n".join(text)))
    return sections


def _part_table(scores: Sequence[Score], kind: str) -> tuple[list[str], list[list[str]]]:
    """A few parts across and all settings down, or many parts down and the most shots across."""
    num = {_part(score): f"{score.num:,}" for score in scores}
    is_short = len(num) <= MOST_COLUMNS
    shown = scores if is_short else _most_shots(scores)
    series = distinct(series_of(score) for score in shown)
    cells = {(_part(score), series_of(score)): score for score in shown}
    if is_short:
        rows = [
            [own or "value", *(_with_interval(cells.get((part, own))) for part in num)]
            for own in series
        ]
        return ["", *num], [*rows, ["examples", *num.values()]]
    down = [[part, *(_with_interval(cells.get((part, own))) for own in series)] for part in num]
    rows = [[*row, count] for row, count in zip(down, num.values(), strict=True)]
    return [kind, *(own or "value" for own in series), "examples"], rows


def _samples_section(samples: Sequence[Sample], folder: Path) -> list[Section]:
    if not samples:
        return []
    starts = range(0, len(samples), SAMPLES_PER_FIGURE)
    text = []
    for number, start in enumerate(starts, 1):
        shown = samples[start : start + SAMPLES_PER_FIGURE]
        samples_figure(shown, folder / f"samples_{number}.png")
        text.append(f"![examples of hits and misses](samples_{number}.png)")
    return [Section(title="Examples", text="\n\n".join(text))]


def _most_shots(scores: Sequence[Score]) -> list[Score]:
    """Of each setting the bars of the largest number of shots, without the blind ones."""
    seeing = [score for score in scores if not score.blind] or list(scores)
    most: dict[str, int] = {}
    for score in seeing:
        most[setting_of(score)] = max(most.get(setting_of(score), 0), score.shots or 0)
    return [score for score in seeing if (score.shots or 0) == most[setting_of(score)]]


def _row_key(score: Score) -> tuple[str, int | None, tuple[str, ...]]:
    words = (word for name, word in score.setting.items() if name != BASELINE)
    return score.metric, score.shots, tuple(words)


def _baseline(score: Score) -> str:
    """What kind of a baseline it is: `blind`, or a name such as `chance`; empty for a model."""
    return "blind" if score.blind else score.setting.get(BASELINE, "")


def _part(score: Score) -> str:
    return ", ".join(score.part.values())


def _value(value: float) -> str:
    return f"{value:.2f}"


def _interval(score: Score) -> str:
    return "" if score.interval is None else " to ".join(_value(end) for end in score.interval)


def _with_interval(score: Score | None) -> str:
    if score is None:
        return ""
    ends = _interval(score)
    return f"{_value(score.value)} ({ends})" if ends else _value(score.value)


def _list(notes: Sequence[str]) -> str:
    return "\n".join(f"- {note}" for note in notes)
