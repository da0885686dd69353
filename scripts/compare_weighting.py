"""Trains the tiny FLARE once with every weighting of its objectives and draws them in one picture.

    python scripts/compare_weighting.py [--steps 120] [--folder runs/weighting]

Above, the weight of each objective over time; below, its loss. Runs that are done are not repeated.
"""

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import get_args

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from common.errors import UserError
from common.objectives.weighting import Kind
from common.training.display import configure_logging
from common.training.metrics import read_lines
from common.training.options import parse_options
from common.training.trainer import Trainer
from flare.recipes import flare_tiny, make_task

OBJECTIVES = {"language": "#1f4e9c", "image_text": "#d1741f", "audio_text": "#5a8f3c"}
LOSSES = {
    "language/causal": ("#1f4e9c", "-"),
    "language/masked": ("#1f4e9c", ":"),
    "image_text": ("#d1741f", "-"),
    "audio_text": ("#5a8f3c", "-"),
}


@dataclass(frozen=True, kw_only=True)
class Options:
    """One short run for each weighting."""

    # Where the runs and the picture are written.
    folder: Path = Path("runs/weighting")
    # Updates of each run.
    steps: int = 120


def main(arguments: Sequence[str] | None = None) -> int:
    """Trains what is missing and draws; exit status 2 for a user's mistake."""
    try:
        options = parse_options(Options, arguments, description=__doc__)
        return 0 if options is None else _run(options)
    except UserError as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        return 2


def _run(options: Options) -> int:
    configure_logging(is_main=True)
    kinds: tuple[Kind, ...] = get_args(Kind)
    for kind in kinds:
        print(f"\n== {kind}: {options.steps} updates ==", flush=True)
        recipe = flare_tiny()
        run = replace(
            recipe,
            steps=options.steps,
            log_every=5,
            validate_every=None,
            sample_every=None,
            task=replace(recipe.task, weighting=kind),
        )
        outcome = Trainer(run, make_task(run), options.folder / kind).train()
        if outcome.exit_status:
            return outcome.exit_status
    picture = options.folder / "weighting.png"
    draw({kind: options.folder / kind / "metrics.jsonl" for kind in kinds}, picture)
    print(f"\npicture: {picture}")
    return 0


def draw(metrics: Mapping[str, Path], path: Path) -> None:
    """One column for each weighting, weights above losses."""
    figure = Figure(figsize=(3.1 * len(metrics), 5.6), layout="constrained")
    panels = figure.subplots(2, len(metrics), sharex=True, sharey="row", squeeze=False)
    for column, (kind, file) in enumerate(metrics.items()):
        records = [record for record in read_lines(file) if "loss" in record]
        above, below = panels[0, column], panels[1, column]
        above.set_title(kind)
        for name, colour in OBJECTIVES.items():
            draw_line(above, records, f"weight/{name}", name.replace("_", "-"), (colour, "-"))
        for name, look in LOSSES.items():
            label = name.replace("language/", "").replace("_", "-")
            draw_line(below, records, f"loss/mixture/{name}", label, look)
        below.set_xlabel("optimizer updates")
    panels[0, 0].set_ylabel("weight")
    panels[1, 0].set_ylabel("loss (nats per target)")
    panels[1, 0].set_yscale("log")
    for row in panels:
        row[-1].legend(fontsize=8)
    figure.savefig(path, dpi=120)


def draw_line(
    axes: Axes, records: list[dict[str, float]], key: str, label: str, look: tuple[str, str]
) -> None:
    """One figure over the updates."""
    points = [(record["step"], record[key]) for record in records if record.get(key) is not None]
    steps, values = zip(*points, strict=True) if points else ((), ())
    axes.plot(steps, values, color=look[0], linestyle=look[1], label=label, linewidth=1.5)
    axes.grid(alpha=0.3)


if __name__ == "__main__":
    sys.exit(main())
