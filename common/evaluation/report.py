"""The report of a run: `report.md` with tables, pictures, generations and the settings that made
them, and `results.json` with the same figures for machines. Everything lies in one folder and is
linked relatively, so the folder can be moved or sent."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

from common.evaluation.few_shot import (
    Answer,
    FewShotEvaluation,
    FewShotResult,
    FewShotSplit,
    Tally,
)
from common.evaluation.plots import LINES, answer_picture, shots_picture

Json: TypeAlias = bool | int | float | str | Sequence["Json"] | Mapping[str, "Json"] | None


@dataclass(frozen=True, kw_only=True)
class Section:
    """A heading and the Markdown below it."""

    title: str
    text: str


def write_report(
    folder: Path, *, title: str, sections: Sequence[Section], results: Mapping[str, Json]
) -> Path:
    """Write `report.md` and `results.json`; returns the path of the report."""
    folder.mkdir(parents=True, exist_ok=True)
    parts = [f"# {title}", *(f"## {part.title}\n\n{part.text.strip()}" for part in sections)]
    report = folder / "report.md"
    report.write_text("\n\n".join(parts) + "\n", encoding="utf-8")
    text = json.dumps(results, indent=2, allow_nan=False)
    (folder / "results.json").write_text(text + "\n", encoding="utf-8")
    return report


def few_shot_section(evaluation: FewShotEvaluation, folder: Path) -> Section:
    """The table of all settings, accuracy per attribute, and the plot."""
    shots_picture(evaluation, folder / "shots.png")
    config = evaluation.config
    text = [
        f"Open-ended answers, right when equal to the expected word but for case, punctuation and "
        f"spacing; {config.num_episodes} episodes in each row; 95 % Wilson intervals. "
        f"At most {config.max_new_tokens} new tokens, seed {config.seed}.",
        "![accuracy by number of shots](shots.png)",
        table(FEW_SHOT_HEADINGS, few_shot_rows(evaluation)),
        "Accuracy per attribute, nothing changed:",
        table(*_attribute_table(evaluation)),
    ]
    return Section(title="Few-shot accuracy", text="\n\n".join(text))


FEW_SHOT_HEADINGS = ("split", "shots", "control", "accuracy", "95 %", "frequent answer", "chance")


def few_shot_rows(evaluation: FewShotEvaluation) -> list[tuple[str, ...]]:
    """One row of text for each setting, under `FEW_SHOT_HEADINGS`."""
    return [
        (
            row.split.replace("_", " "),
            str(row.shots),
            LINES[row.control][2],
            _percent(row.total.accuracy),
            " to ".join(_percent(end) for end in row.total.interval),
            _percent(row.prior),
            _percent(row.chance),
        )
        for row in evaluation.results
    ]


def few_shot_json(evaluation: FewShotEvaluation) -> list[Json]:
    """The rows as plain numbers, shares between 0 and 1."""
    return [_row_json(row) for row in evaluation.results]


def generations_section(answers: Sequence[Answer], folder: Path) -> Section:
    """Answers with the pictures that they were given."""
    shown = []
    for number, answer in enumerate(answers, 1):
        name = f"generation_{number}.png"
        answer_picture(answer, folder / name)
        shown.append(f"![{_alternative_text(answer)}]({name})")
    return Section(title="Generations", text="\n\n".join(shown))


def some_answers(
    evaluation: FewShotEvaluation, *, split: FewShotSplit, shots: int, num: int
) -> list[Answer]:
    """The first right and the first wrong answers in turn: a sample that hides no failure."""
    answers = evaluation.answers[split, shots]
    right = [answer for answer in answers if answer.is_correct]
    wrong = [answer for answer in answers if not answer.is_correct]
    num_wrong = min(len(wrong), max(num // 3, num - len(right)))
    return [*right[: num - num_wrong], *wrong[:num_wrong]]


def pictures_section(title: str, pictures: Mapping[str, Path], folder: Path) -> Section:
    """Pictures that lie in the folder, each under what it shows: `{"losses": folder / "a.png"}`."""
    lines = [
        f"{caption}\n\n![{caption}]({path.relative_to(folder).as_posix()})"
        for caption, path in pictures.items()
    ]
    return Section(title=title, text="\n\n".join(lines))


def figures_section(last: Mapping[str, Mapping[str, float]]) -> Section:
    """The last figures of every stage."""
    lines = [
        f"- {stage}: {name} = {value:.4g}"
        for stage, figures in last.items()
        for name, value in figures.items()
    ]
    return Section(title="Last figures of the stages", text="\n".join(lines))


def settings_section(*, commands: Sequence[str], settings: Mapping[str, Json]) -> Section:
    """How to repeat the run: the commands as typed, and every resolved setting."""
    typed = "\n".join(commands)
    resolved = json.dumps(settings, indent=2)
    text = f"```sh\n{typed}\n```\n\n```json\n{resolved}\n```"
    return Section(title="Commands and settings", text=text)


def table(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table."""
    lines = [headings, ["---"] * len(headings), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _attribute_table(evaluation: FewShotEvaluation) -> tuple[list[str], list[list[str]]]:
    plain = [row for row in evaluation.results if row.control == "none"]
    names = list(dict.fromkeys(name for row in plain for name in row.per_attribute))
    rows = [
        [
            row.split.replace("_", " "),
            str(row.shots),
            *(_share_of(row.per_attribute.get(name)) for name in names),
        ]
        for row in plain
    ]
    return ["split", "shots", *names], rows


def _share_of(tally: Tally | None) -> str:
    return "" if tally is None else f"{_percent(tally.accuracy)} ({tally.correct}/{tally.num})"


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"


def _row_json(row: FewShotResult) -> Json:
    low, high = row.total.interval
    return {
        "split": row.split,
        "shots": row.shots,
        "control": row.control,
        "accuracy": row.total.accuracy,
        "correct": row.total.correct,
        "num": row.total.num,
        "interval_95": [low, high],
        "chance": row.chance,
        "prior": row.prior,
        "per_attribute": {
            name: {"accuracy": tally.accuracy, "correct": tally.correct, "num": tally.num}
            for name, tally in row.per_attribute.items()
        },
    }


def _alternative_text(answer: Answer) -> str:
    episode = answer.episode
    shots = ", ".join(shot.answer for shot in episode.shots) or "none"
    return f"shots: {shots}; model: {answer.text.strip()}; expected: {episode.query.answer}"
