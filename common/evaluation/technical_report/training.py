"""Chapter: the runs, their curves, and their last figures."""

from collections.abc import Iterator
from pathlib import Path

from common.evaluation.technical_report.curves import label, training_figure
from common.evaluation.technical_report.document import (
    Block,
    Chapter,
    Heading,
    Inline,
    Origin,
    Picture,
    Table,
)
from common.evaluation.technical_report.inputs import Inputs, Run
from common.evaluation.technical_report.sources import fixed, number, shown

SETTINGS = {
    "updates": ("steps",),
    "peak learning rate": ("optimizer", "peak_learning_rate"),
    "warm-up": ("schedule", "warmup_steps"),
    "schedule": ("schedule", "kind"),
    "clip": ("optimizer", "clip_norm"),
    "precision": ("precision",),
    "seed": ("seed",),
}
# Groups of figures whose last values are shown, and what they are called.
LAST = {"loss": "loss", "weight": "weight", "validation": "held out"}


def training(inputs: Inputs, pictures: Path) -> Chapter | None:
    """Settings, curves and last figures of every run; None without runs."""
    if not inputs.runs:
        return None
    blocks: list[Block] = [_settings(inputs), _progress(inputs)]
    for place, run in enumerate(inputs.runs):
        file = pictures / f"training_{place}.svg"
        blocks += [Heading(run.name), *_curves(run, file), _last(run)]
    return Chapter(title="Training", blocks=tuple(blocks))


def _settings(inputs: Inputs) -> Table:
    return Table(
        headings=("run", "model", *SETTINGS),
        rows=tuple(
            (
                run.name,
                run.recipe,
                *(run.config.shown(*key, form=number) or "" for key in SETTINGS.values()),
            )
            for run in inputs.runs
        ),
        caption="The runs of this report and how they were trained.",
        words=(0, 1),
    )


def _progress(inputs: Inputs) -> Table:
    rows = []
    for run in inputs.runs:
        last = len(run.records) - 1
        whole = [Origin(file=run.metrics.file, key=())]
        has_pace = any("speed/tokens_per_second" in record for record in run.records)
        rows.append(
            (
                run.name,
                run.metrics.shown(last, "step", form=number),
                run.metrics.shown(last, "tokens", form=number),
                shown(whole, rule="median tokens per second", form=number) if has_pace else None,
                run.metrics.shown(last, "skipped_updates", form=number),
                run.metrics.shown(last, "roll_backs", form=number),
                _mfu(run),
            )
        )
    return Table(
        headings=(
            "run",
            "last update",
            "tokens",
            "tokens/s, median",
            "skipped updates",
            "roll-backs",
            "MFU",
        ),
        rows=tuple(rows),
        caption="How far the runs came, and how fast.",
    )


def _mfu(run: Run) -> Inline:
    """Known only where the maker tells the peak of the device."""
    place = run.last_with("speed/mfu")
    form = fixed(1, " %")
    return None if place is None else run.metrics.shown(place, "speed/mfu", form=form, factor=100)


def _curves(run: Run, file: Path) -> Iterator[Picture]:
    if training_figure(run.records, file):
        yield Picture(
            file=file,
            caption=(
                f"{run.name} over its optimizer updates; losses and speeds are means since the "
                "record before."
            ),
            origins=(Origin(file=run.metrics.file, key=()),),
        )


def _last(run: Run) -> Table:
    """Two figures in a row."""
    keys = dict.fromkeys(key for record in run.records for key in record)
    cells: list[tuple[Inline, ...]] = []
    for group, name in LAST.items():
        for key in keys:
            place = run.last_with(key)
            if key.split("/")[0] == group and place is not None:
                value = run.metrics.shown(place, key, form=number)
                step = run.metrics.shown(place, "step", form=number)
                cells.append((f"{name}: {label(key)}", value, step))
    middle = -(-len(cells) // 2)
    left, right = cells[:middle], [*cells[middle:], ("", "", "")]
    return Table(
        headings=("figure", "last value", "at update") * 2,
        rows=tuple((*first, *second) for first, second in zip(left, right, strict=False)),
        caption=f"Last figures of {run.name}; losses in nats per target.",
        words=(0, 3),
    )
