"""What a soak has shown: limits, a table in Markdown and two pictures for each model."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, median
from typing import Any

from matplotlib.figure import Figure

from common.training.metrics import read_lines

LAST = 0.25  # of a run, over which its final loss is the mean
FIRST = 0.2  # of the time of the process, over which it warms up
MOST_GROWTH_MIB = 64.0
MOST_LOG_BYTES_PER_STEP = 20_000.0


@dataclass(frozen=True, kw_only=True)
class Judged:
    """One model's runs."""

    name: str
    folder: Path
    steps: int
    clean: list[float]  # final losses
    faulty: list[float]
    band: tuple[float, float]
    events: dict[str, int]
    endings: dict[str, int]
    skipped: int
    replaced: int
    growth_mib: float  # median of the later half less that of the earlier, warm
    growth_files: float
    log_bytes_per_step: float
    leftovers: list[str]

    @property
    def holds(self) -> bool:
        low, high = self.band
        return (
            all(low <= loss <= high for loss in self.faulty)
            and self.growth_mib <= MOST_GROWTH_MIB
            and self.growth_files <= 2
            and self.log_bytes_per_step <= MOST_LOG_BYTES_PER_STEP
            and not self.leftovers
        )


def judge(name: str, folder: Path) -> Judged:
    """From the folders of the runs."""
    clean = [final_loss(run) for run in sorted(folder.glob("clean_?"))]
    disturbed = sorted(folder.glob("faulty_?"))
    faulty = [final_loss(run) for run in disturbed]
    # As far beyond the undisturbed runs as these lie apart.
    spread = max(clean) - min(clean)
    met = [json.loads(Path(f"{run}.met.json").read_text()) for run in disturbed]
    last = [read_lines(run / "metrics.jsonl")[-1] for run in disturbed]
    steps = int(last[0]["step"])
    return Judged(
        name=name,
        folder=folder,
        steps=steps,
        clean=clean,
        faulty=faulty,
        band=(min(clean) - spread, max(clean) + spread),
        events=_sum([one["events"] for one in met]),
        endings=_sum([one["endings"] for one in met]),
        skipped=sum(int(record["skipped_updates"]) for record in last),
        replaced=sum(int(v) for r in last for k, v in r.items() if "/faults/" in k),
        growth_mib=_growth(met, "memory_mib"),
        growth_files=_growth(met, "files"),
        log_bytes_per_step=max(one["samples"][-1]["log_bytes"] for one in met) / steps,
        leftovers=[name for one in met for name in one["leftovers"]],
    )


def final_loss(run: Path) -> float:
    """Mean over the last records."""
    losses = [r["loss"] for r in read_lines(run / "metrics.jsonl") if r["loss"] is not None]
    return mean(losses[-max(int(len(losses) * LAST), 1) :])


def write_report(judged: Sequence[Judged], out: Path, *, minutes: float) -> Path:
    """`soak.md` and the pictures beside it."""
    columns = [["", "---", *LABELS], *([item.name, "---", *_column(item)] for item in judged)]
    lines = [f"| {' | '.join(row)} |" for row in zip(*columns, strict=True)]
    report = out / "soak.md"
    report.write_text("\n".join([f"{minutes:.1f} minutes", "", *lines]) + "\n")
    for item in judged:
        _draw_losses(item, out / f"{item.name}_losses.png")
        _draw_resources(item, out / f"{item.name}_resources.png")
    return report


LABELS = [
    "updates of a run",
    "final losses, undisturbed",
    "final losses, disturbed",
    "band",
    "what was done to them",
    "how starts ended",
    "updates left out",
    "samples replaced",
    "growth of memory (MiB)",
    "growth of open files",
    "logs per update (bytes)",
    "left half-written",
    "all limits hold",
]


def _column(item: Judged) -> list[str]:
    return [
        f"{item.steps}",
        _numbers(item.clean),
        _numbers(item.faulty),
        f"{item.band[0]:.3f} to {item.band[1]:.3f}",
        _counts(item.events),
        _counts(item.endings),
        f"{item.skipped}",
        f"{item.replaced}",
        f"{item.growth_mib:.1f}",
        f"{item.growth_files:g}",
        f"{item.log_bytes_per_step:,.0f}",
        ", ".join(item.leftovers) or "nothing",
        "yes" if item.holds else "NO",
    ]


def _growth(met: Sequence[dict[str, Any]], what: str) -> float:
    values = [sample[what] for one in met for sample in one["samples"]]
    values = values[int(len(values) * FIRST) :]
    half = len(values) // 2
    return median(values[half:]) - median(values[:half])


def _draw_losses(item: Judged, path: Path) -> None:
    figure = Figure(figsize=(8, 4), layout="constrained")
    axes = figure.subplots()
    for kind, colour in (("clean", "#1f4e9c"), ("faulty", "#d1741f")):
        for number, run in enumerate(sorted(item.folder.glob(f"{kind}_?"))):
            records = [r for r in read_lines(run / "metrics.jsonl") if r["loss"] is not None]
            label = {"clean": "undisturbed", "faulty": "disturbed"}[kind] if not number else None
            steps, losses = zip(*((r["step"], r["loss"]) for r in records), strict=True)
            axes.plot(steps, losses, color=colour, alpha=0.7, linewidth=1.1, label=label)
    axes.axhspan(*item.band, color="#1f4e9c", alpha=0.12, label="band of final losses")
    axes.set(xlabel="optimizer updates", ylabel="loss (nats per target)")
    axes.set_title(f"{item.name}: losses with and without faults")
    axes.grid(alpha=0.3)
    axes.legend()
    figure.savefig(path, dpi=120)


def _draw_resources(item: Judged, path: Path) -> None:
    figure = Figure(figsize=(8, 6.5), layout="constrained")
    panels = figure.subplots(3, 1, sharex=True)
    kinds = (
        ("memory_mib", "memory (MiB)", 1.0),
        ("files", "open files", 1.0),
        ("log_bytes", "logs (KiB)", 1 / 1024),
    )
    begin = None
    for met in sorted(item.folder.glob("faulty_?.met.json")):
        samples = json.loads(met.read_text())["samples"]
        begin = begin or samples[0]["seconds"]
        for axes, (what, label, scale) in zip(panels, kinds, strict=True):
            seconds = [sample["seconds"] - begin for sample in samples]
            values = [sample[what] * scale for sample in samples]
            axes.plot(seconds, values, label=f"seed {met.name.split('_')[1].split('.')[0]}")
            axes.set_ylabel(label)
            axes.grid(alpha=0.3)
    panels[0].legend()
    panels[-1].set_xlabel("seconds")
    figure.suptitle(f"{item.name}: what a disturbed process takes, over all its starts")
    figure.savefig(path, dpi=120)


def _sum(counts: Sequence[dict[str, int]]) -> dict[str, int]:
    names = sorted({name for one in counts for name in one})
    return {name: sum(one.get(name, 0) for one in counts) for name in names}


def _numbers(losses: Sequence[float]) -> str:
    return ", ".join(f"{loss:.3f}" for loss in losses)


def _counts(counts: dict[str, int]) -> str:
    return ", ".join(f"{name} {number}" for name, number in counts.items())
