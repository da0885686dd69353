"""Pictures of a suite's result: scores by number of shots with the blind baseline, bars of its
parts, and examples of hits and misses."""

from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from textwrap import fill, shorten

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from common.evaluation.caption_plots import draw_medium
from common.evaluation.scores import Sample, Score

DOTS_PER_INCH = 120
COLOURS = ("#1f4e9c", "#d1741f", "#5a8f3c", "#8b3fa0", "#7a5230", "#2a9d9d")
HIT, MISS = "#2a7a2a", "#b02020"
PANELS_PER_ROW, SAMPLES_PER_ROW = 3, 4
DODGE = 0.06  # sideways, so that intervals at the same number of shots stay apart
LINE_WIDTH, LINES = 34, 3  # characters of a text below a sample, and lines of one
SHOWN_ANSWERS = 3  # of the expected ones
LABEL_WIDTH = 30  # characters of a part's name


def shots_figure(scores: Sequence[Score], path: Path) -> None:
    """A panel for each metric, a line for each setting, the blind ones dashed in its colour."""
    metrics = distinct(score.metric for score in scores)
    shots = sorted({score.shots for score in scores if score.shots is not None})
    settings = distinct(setting_of(score) for score in scores)
    figure, panels = _panels(len(metrics))
    for axes, metric in zip(panels, metrics, strict=False):
        for place, setting in enumerate(settings):
            for blind in (False, True):
                line = [
                    score
                    for score in scores
                    if (score.metric, setting_of(score), score.blind) == (metric, setting, blind)
                ]
                _draw_line(axes, line, place=place, shots=shots)
        axes.set_title(metric, fontsize=11)
        axes.set_xticks(range(len(shots)), labels=[str(number) for number in shots])
        axes.set(xlabel="shots", xlim=(-0.4, len(shots) - 0.6))
        axes.set_ylim(bottom=min(0.0, axes.get_ylim()[0]))
        axes.grid(axis="y", alpha=0.3)
    handles = {
        label: handle
        for axes in panels
        for handle, label in zip(*axes.get_legend_handles_labels(), strict=True)
    }
    figure.legend(handles.values(), handles, loc="outside right upper", frameon=False)
    _save(figure, path)


def parts_figure(scores: Sequence[Score], kind: str, path: Path) -> None:
    """Bars of one metric for every part of a kind, as for every answer type; of several settings
    or numbers of shots side by side."""
    parts = distinct(score.part[kind] for score in scores)
    series = distinct(series_of(score) for score in scores)
    height = max(1.6, 0.22 * len(parts) * (len(series) + 0.8) + 0.9)
    figure = Figure(figsize=(7.2, height), layout="constrained")
    axes = figure.subplots()
    thickness = 0.8 / len(series)
    for place, own in enumerate(series):
        found = {score.part[kind]: score for score in scores if series_of(score) == own}
        rows = [row for row, part in enumerate(parts) if part in found]
        values = np.array([found[parts[row]].value for row in rows])
        ends = np.array([found[parts[row]].interval or (np.nan, np.nan) for row in rows]).T
        axes.barh(
            np.array(rows) + (place - (len(series) - 1) / 2) * thickness,
            values,
            height=0.9 * thickness,
            xerr=np.abs(ends - values),
            color=COLOURS[place % len(COLOURS)],
            alpha=0.45 if "blind" in own else 1.0,
            label=own,
            capsize=2,
            error_kw={"elinewidth": 1},
        )
    names = [shorten(part, LABEL_WIDTH, placeholder="…") for part in parts]
    axes.set_yticks(range(len(parts)), labels=names, parse_math=False)
    axes.invert_yaxis()
    axes.set(xlabel=scores[0].metric, ylim=(len(parts) - 0.5, -0.5))
    axes.set_xlim(left=min(0.0, axes.get_xlim()[0]))
    axes.grid(axis="x", alpha=0.3)
    if len(series) > 1:
        figure.legend(loc="outside right upper", frameon=False, fontsize=9)
    _save(figure, path)


def samples_figure(samples: Sequence[Sample], path: Path) -> None:
    """Each medium below the question, above what was written: hits in green, misses in red with
    what was expected."""
    rows = -(-len(samples) // SAMPLES_PER_ROW)
    figure = Figure(figsize=(3.2 * SAMPLES_PER_ROW, 3.7 * rows), layout="constrained")
    panels = figure.subplots(rows, SAMPLES_PER_ROW, squeeze=False).flatten()
    for axes in panels[len(samples) :]:
        axes.set_axis_off()
    for axes, sample in zip(panels, samples, strict=False):
        if sample.media:
            draw_medium(axes, sample.media[-1])
        else:
            axes.set(xticks=[], yticks=[])
        axes.set_title(_wrapped(sample.asked), fontsize=9, parse_math=False)  # a "$" is a "$"
        lines = [_wrapped(sample.written.strip() or "(nothing)")]
        if not sample.is_hit:
            lines += [_wrapped(f"expected: {expected_words(sample)}")]
        scale = axes.get_xlabel()  # seconds, below a spectrogram
        axes.set_xlabel(
            "\n".join([scale, *lines] if scale else lines), fontsize=9, parse_math=False
        )
        axes.xaxis.label.set_color(HIT if sample.is_hit else MISS)
    _save(figure, path)


def series_of(score: Score) -> str:
    """`4 shots, rices, blind`"""
    shots = [] if score.shots is None else [f"{score.shots} shots"]
    return ", ".join([*shots, *score.setting.values(), *(["blind"] if score.blind else [])])


def setting_of(score: Score) -> str:
    """The same without the number of shots: `rices`."""
    return ", ".join(score.setting.values())


def expected_words(sample: Sample) -> str:
    """The most frequent ones."""
    words = [word for word, _ in Counter(sample.expected).most_common()]
    return " / ".join(words[:SHOWN_ANSWERS]) + (" / …" if len(words) > SHOWN_ANSWERS else "")


def distinct(words: Iterable[str]) -> list[str]:
    """Each once, where it comes first."""
    return list(dict.fromkeys(words))


def _panels(num: int) -> tuple[Figure, list[Axes]]:
    columns = min(num, PANELS_PER_ROW)
    rows = -(-num // columns)
    legend = 1.8  # inches
    figure = Figure(figsize=(3.9 * columns + legend, 3.3 * rows), layout="constrained")
    panels = list(figure.subplots(rows, columns, squeeze=False).flatten())
    for axes in panels[num:]:
        axes.set_axis_off()
    return figure, panels


def _draw_line(axes: Axes, line: Sequence[Score], *, place: int, shots: Sequence[int]) -> None:
    line = sorted((score for score in line if score.shots is not None), key=lambda s: s.shots or 0)
    if not line:
        return
    values = np.array([score.value for score in line])
    ends = np.array([score.interval or (score.value, score.value) for score in line]).T
    blind = line[0].blind
    name = setting_of(line[0]) or "model"
    axes.errorbar(
        [shots.index(score.shots or 0) + DODGE * place for score in line],
        values,
        yerr=np.abs(ends - values),
        fmt="s--" if blind else "o-",
        color=COLOURS[place % len(COLOURS)],
        alpha=0.6 if blind else 1.0,
        markersize=4 if blind else 6,
        label=f"{name}, blind" if blind else name,
        capsize=3,
    )


def _wrapped(text: str) -> str:
    seen = "".join(letter if letter.isprintable() else " " for letter in text)
    short = shorten(seen, LINE_WIDTH * LINES, placeholder=" …")
    return fill(short, LINE_WIDTH)


def _save(figure: Figure, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=DOTS_PER_INCH)
