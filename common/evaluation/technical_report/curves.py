"""Small multiples of a run's figures over its updates, and curves over the number of shots, drawn
as SVG so that they print well."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from common.training.plots import KNOWN, NOT_DRAWN

COLUMNS = 3
WIDTH, HEIGHT = 9.6, 2.5  # inches, of all panels of a row
# Okabe and Ito's, which all eyes tell apart.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#555555", "#8C6D31")
MOST_NAMED = 10  # lines of a panel; more are shaded from first to last
MOST_INSIDE = 4  # names that a legend within the panel has room for
LABEL_GAP = 0.055  # of a panel's height, between names of published models
STYLE: Mapping[str, Any] = {
    "font.size": 8,
    "axes.titlesize": 9,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.labelsize": 7.5,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.6,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "legend.frameon": False,
    "legend.fontsize": 7,
    "legend.handlelength": 1.4,
    "legend.labelspacing": 0.25,
    "figure.constrained_layout.w_pad": 0.08,
    "figure.constrained_layout.h_pad": 0.08,
    "svg.hashsalt": "report",
}


@dataclass(frozen=True, kw_only=True)
class Curve:
    """Values over numbers of shots; `ends` are those of intervals."""

    label: str
    shots: Sequence[int]
    values: Sequence[float]
    ends: Sequence[tuple[float, float]] | None = None
    is_published: bool = False
    is_baseline: bool = False


@dataclass(frozen=True, kw_only=True)
class Panel:
    """Curves of one benchmark; `levels` are lines without shots, as chance."""

    title: str
    unit: str
    curves: Sequence[Curve]
    levels: Mapping[str, float] = field(default_factory=dict)


def training_figure(records: Sequence[Mapping[str, Any]], path: Path) -> list[str]:
    """A panel for each group of figures; returns the keys that are drawn."""
    panels = _groups(records)
    if panels:
        with matplotlib.rc_context(dict(STYLE)):
            figure, axes = _grid(len(panels))
            for axis, ((title, unit), keys) in zip(axes, panels.items(), strict=False):
                axis.set_title(title)
                axis.set_ylabel(unit)
                _draw_lines(axis, records, keys)
            _save(figure, path)
    return [key for keys in panels.values() for key in keys]


def shots_figure(panels: Sequence[Panel], path: Path) -> None:
    """Ours in colour with intervals, baselines dashed, published ones grey."""
    with matplotlib.rc_context(dict(STYLE)):
        figure, axes = _grid(len(panels), height=2.8)
        for axis, panel in zip(axes, panels, strict=False):
            _draw_panel(axis, panel)
        handles = {
            label: handle
            for axis in axes
            for handle, label in zip(*axis.get_legend_handles_labels(), strict=True)
        }
        columns = min(len(handles), 6)
        figure.legend(handles.values(), handles, loc="outside lower center", ncols=columns)
        _save(figure, path)


def label(key: str) -> str:
    """`loss/pairs/pairs` -> `pairs`, `validation/digits_image_to_text_r1` -> `digits image to text
    R@1`"""
    names = key.split("/")[1:] or ["all terms, weighted"]
    words = " ".join(name for name in dict.fromkeys(names) if name != "mixture").replace("_", " ")
    return words.replace(" r1", " R@1").replace(" r5", " R@5")


def _groups(records: Sequence[Mapping[str, Any]]) -> dict[tuple[str, str], list[str]]:
    """Title and unit -> keys, grouped as `common.training.plots` does; recalls and perplexities of
    validations have panels of their own."""
    groups: dict[tuple[str, str], list[str]] = {}
    for key in dict.fromkeys(key for record in records for key in record):
        is_drawn = any(isinstance(record.get(key), float | int) for record in records)
        group = key if key in KNOWN else key.split("/")[0]
        if group in NOT_DRAWN or group == "data" or not is_drawn:
            continue
        name, _, unit = KNOWN.get(group, (group, "", group))
        title = name.replace("_", " ").capitalize()
        if group == "validation":
            title, unit = _validation(key)
        groups.setdefault((title, unit), []).append(key)
    return groups


def _validation(key: str) -> tuple[str, str]:
    for ending, title in (("_r1", "Held out, R@1"), ("_r5", "Held out, R@5")):
        if key.endswith(ending):
            return title, "share of queries"
    if key.endswith("perplexity"):
        return "Held out, perplexity", "perplexity"
    return "Held out", "nats per target"


def _draw_lines(axis: Axes, records: Sequence[Mapping[str, Any]], keys: Sequence[str]) -> None:
    for place, key in enumerate(keys):
        points = [(r["step"], r[key]) for r in records if r.get(key) is not None]
        name = label(key).removesuffix(" R@1").removesuffix(" R@5")
        axis.plot(*zip(*points, strict=True), **_line(place, len(keys)), label=name)
    axis.xaxis.set_major_locator(MaxNLocator(5, integer=True))
    axis.yaxis.set_major_locator(MaxNLocator(5))
    axis.grid(axis="y", alpha=0.25, linewidth=0.5)
    if 1 < len(keys) <= MOST_INSIDE:
        axis.legend(loc="best")
    elif MOST_INSIDE < len(keys) <= MOST_NAMED:
        axis.legend(loc="upper center", bbox_to_anchor=(0.5, -0.12), ncols=2, fontsize=5.5)
    elif len(keys) > MOST_NAMED:
        axis.set_xlabel(f"{label(keys[0])} (dark) to {label(keys[-1])} (light)")


def _line(place: int, num: int) -> dict[str, Any]:
    if num <= MOST_NAMED:
        dashes = "-" if place < len(COLOURS) else "--"
        return {"color": COLOURS[place % len(COLOURS)], "linewidth": 1.2, "linestyle": dashes}
    shade = place / num
    return {"color": (0.1 + 0.8 * shade, 0.2 + 0.35 * shade, 0.6 - 0.5 * shade), "linewidth": 0.8}


def _draw_panel(axis: Axes, panel: Panel) -> None:
    shots = sorted({number for curve in panel.curves for number in curve.shots})
    published = [curve for curve in panel.curves if curve.is_published]
    for curve in published:
        at = [shots.index(number) for number in curve.shots]
        axis.plot(at, curve.values, "o-", color="0.74", linewidth=0.9, markersize=2.5)
    for place, curve in enumerate(curve for curve in panel.curves if not curve.is_published):
        _draw_own(axis, curve, at=[shots.index(n) for n in curve.shots], place=place)
    for (name, level), style in zip(panel.levels.items(), (":", (0, (4, 2))), strict=False):
        axis.axhline(level, color="0.45", linewidth=0.9, linestyle=style, label=name)
    axis.set_title(panel.title)
    axis.set_xticks(range(len(shots)), labels=[str(number) for number in shots])
    axis.set(xlabel="shots", ylabel=panel.unit)
    axis.set_xlim(-0.3, (len(shots) - 0.7) * (1.45 if published else 1.0))
    axis.set_ylim(bottom=min(0.0, axis.get_ylim()[0]))
    axis.grid(axis="y", alpha=0.25, linewidth=0.5)
    _name(axis, published, shots=shots)


def _draw_own(axis: Axes, curve: Curve, *, at: Sequence[int], place: int) -> None:
    colour = COLOURS[place % len(COLOURS)]
    if curve.ends is not None:
        low, high = zip(*curve.ends, strict=True)
        axis.vlines(at, low, high, color=colour, linewidth=0.9, alpha=0.6)
    style = "s--" if curve.is_baseline else "o-"
    axis.plot(at, curve.values, style, color=colour, label=curve.label, linewidth=1.3, markersize=3)


def _name(axis: Axes, published: Sequence[Curve], *, shots: Sequence[int]) -> None:
    """Names right of the last points, moved apart where they would lie on one another."""
    bottom, top = axis.get_ylim()
    gap = LABEL_GAP * (top - bottom)
    heights = np.array([curve.values[-1] for curve in published])
    places = np.array(heights)
    for before, this in zip(order := np.argsort(heights), order[1:], strict=False):
        places[this] = max(places[this], places[before] + gap)
    # What was pushed up is brought back half of the way, so that names lie about their points.
    places -= max(0.0, float((places - heights).max(initial=0.0))) / 2
    for curve, place in zip(published, places, strict=True):
        point = (shots.index(curve.shots[-1]), curve.values[-1])
        text = (len(shots) - 0.85, float(place))
        line = {"arrowstyle": "-", "color": "0.8", "linewidth": 0.4, "shrinkA": 0, "shrinkB": 1}
        axis.annotate(curve.label, point, text, size=6, color="0.4", va="center", arrowprops=line)


def _grid(num: int, *, height: float = HEIGHT) -> tuple[Figure, list[Axes]]:
    columns = min(num, COLUMNS)
    rows = -(-num // columns)
    figure = Figure(figsize=(WIDTH * columns / COLUMNS, height * rows), layout="constrained")
    FigureCanvasSVG(figure)
    axes = list(figure.subplots(rows, columns, squeeze=False).flatten())
    for axis in axes[num:]:
        axis.set_axis_off()
    return figure, axes[:num]


def _save(figure: Figure, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, metadata={"Date": None})
