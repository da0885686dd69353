"""Pictures of a run, drawn from its `metrics.jsonl`: one PNG per group of figures."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from common.training.metrics import read_lines

# Key or group of keys -> file name, title, unit of the vertical axis.
KNOWN = {
    "loss": ("losses", "Training losses, mean since the last record", "loss (nats per target)"),
    "learning_rate": ("learning_rate", "Learning rate", "learning rate"),
    "gradient_norm": ("gradient_norm", "Norm of the gradient before clipping", "gradient norm"),
    "weight": ("weight", "Weights of the objectives in the loss", "weight"),
    "negatives": ("negatives", "Negatives that a pair is contrasted with", "negatives per pair"),
    "speed/tokens_per_second": ("throughput", "Throughput, all ranks", "tokens per second"),
}
NAMES = {"loss": "loss, all terms weighted"}
NOT_DRAWN = {"step", "keys", "tokens", "skipped_updates", "roll_backs", "speed", "memory"}


def write_plots(metrics: Path, folder: Path) -> list[Path]:
    """Draw losses, learning rate, gradient norm, throughput, validation and the task's figures.

    Figures `gate/0`, `gate/1` ... share one picture, `gate.png`; validations have an axis each.
    """
    records = read_lines(metrics)
    keys = list(dict.fromkeys(key for record in records for key in record))
    pictures: dict[str, tuple[str, str, list[str]]] = {}
    for key in keys:
        group = key if key in KNOWN else key.split("/")[0]
        if group in NOT_DRAWN:
            continue
        name, title, unit = KNOWN.get(group, (group, group.capitalize(), group))
        pictures.setdefault(name, (title, unit, []))[2].append(key)
    folder.mkdir(parents=True, exist_ok=True)
    return [
        _draw(records, folder / f"{name}.png", title=title, unit=unit, keys=group)
        for name, (title, unit, group) in pictures.items()
    ]


def _draw(
    records: Sequence[dict[str, Any]], path: Path, *, title: str, unit: str, keys: list[str]
) -> Path:
    panels = [[key] for key in keys] if path.stem == "validation" else [keys]
    figure = Figure(figsize=(8, 1.4 + 3.1 * len(panels)), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(len(panels), 1, squeeze=False, sharex=True)[:, 0]
    for axis, panel in zip(axes, panels, strict=True):
        _draw_lines(axis, records, panel)
        axis.set_ylabel(panel[0].split("/", 1)[1] if path.stem == "validation" else unit)
    axes[-1].set_xlabel("optimizer updates")
    figure.suptitle(title)
    figure.savefig(path, dpi=120)
    return path


def _draw_lines(axis: Axes, records: Sequence[dict[str, Any]], keys: Sequence[str]) -> None:
    for number, key in enumerate(keys):
        points = [(r["step"], r[key]) for r in records if r.get(key) is not None]
        steps, values = zip(*points, strict=True) if points else ((), ())
        # Layers of a model follow an order, so do their colours; a few lines get distinct ones.
        color = f"C{number}" if len(keys) <= 10 else _shade(number / len(keys))
        marker = "o" if len(points) <= 25 else None
        axis.plot(
            steps,
            values,
            label=NAMES.get(key, key),
            color=color,
            marker=marker,
            markersize=3,
            linewidth=1.4,
        )
    axis.grid(alpha=0.3)
    axis.xaxis.set_major_locator(MaxNLocator(integer=True))
    if len(keys) > 1:
        axis.legend(fontsize=8, ncols=1 + len(keys) // 12)


def _shade(share: float) -> tuple[float, float, float]:
    """From dark blue to orange."""
    return (0.1 + 0.85 * share, 0.2 + 0.35 * share, 0.6 - 0.5 * share)
