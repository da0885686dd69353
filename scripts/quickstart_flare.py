"""FLARE from nothing, in minutes, on a CPU: one run on images, sounds and text, and a report.

    python scripts/quickstart_flare.py [--folder runs/quickstart-flare] [--seed 0]

Writes its data as shards, trains every part from random weights with all objectives at once, finds
the captions of scenes and sounds it has never met, writes captions of its own, and puts everything
into one folder. The same command again continues where it stopped.
"""

import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from rich.console import Console
from rich.table import Table
from transformers import AutoModelForMultimodalLM
from transformers.utils import logging

import flare  # noqa: F401 - makes FLARE known to the Auto classes
from common.errors import UserError
from common.evaluation.caption_plots import CaptionedMedium, captions_picture
from common.evaluation.report import (
    Json,
    Section,
    figures_section,
    pictures_section,
    settings_section,
    table,
    write_report,
)
from common.training.config_json import to_json
from common.training.display import configure_logging
from common.training.metrics import last_figures
from common.training.options import parse_options
from common.training.trainer import Trainer
from flare.corpora import Generated
from flare.embedded_shards import write_generated
from flare.evaluation import CaptionScore, media_of
from flare.held_out import WrittenCaption
from flare.recipes import FlareRun, flare_tiny
from flare.task import FlareTask

RETRIEVAL_GROUPS = 4  # of 64 captions each
NUM_CAPTIONS = 64  # written per kind of held-out media
SHOWN = 8
# Documents on disk by kind, of prose always all; a run reads them several times.
NUM_STORED: Mapping[Generated, int] = {
    "scenes": 12_000,
    "sounds": 8_000,
    "digits": 2_000,
    "mixed": 2_000,
    "prose": 0,
}

Retrieval = Mapping[str, Mapping[str, float]]
Captions = Mapping[str, tuple[CaptionScore, list[WrittenCaption]]]


@dataclass(frozen=True, kw_only=True)
class Options:
    """One run, an evaluation and a report, in one folder."""

    # Where everything is written.
    folder: Path = Path("runs/quickstart-flare")
    # Seed of initialisation and data.
    seed: int = 0


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs what is not done yet; exit status 2 for a user's mistake."""
    try:
        options = parse_options(Options, arguments, description=__doc__)
        return 0 if options is None else _run(options)
    except UserError as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        return 2


def _run(options: Options) -> int:
    configure_logging(is_main=True)
    logging.disable_progress_bar()
    started = time.monotonic()
    run = stored(seeded(flare_tiny(), options.seed), options.folder / "data")
    task = FlareTask(run.task, steps=run.steps)
    print(f"\n== FLARE: {run.steps} updates ==", flush=True)
    outcome = Trainer(run, task, options.folder / "flare").train()
    if outcome.exit_status:
        return outcome.exit_status
    print("\n== evaluation ==", flush=True)
    report(options, run, task, started=started)
    return 0


def seeded(run: FlareRun, seed: int) -> FlareRun:
    """The recipe under another seed of initialisation and data."""
    return replace(run, seed=seed, task=replace(run.task, data_seed=seed))


def stored(run: FlareRun, folder: Path) -> FlareRun:
    """The run on shards of its generated documents, which are written unless they are there."""
    print(f"== data: shards in {folder} ==", flush=True)
    tokenizer = FlareTask(run.task, steps=run.steps).processor.tokenizer
    for kind, num in NUM_STORED.items():
        write_generated(
            folder / kind,
            kind,
            num=num,
            seed=run.task.data_seed,
            family_size=run.task.family_size,
            tokenizer=tokenizer,
        )
    sources = tuple(replace(source, path=folder / source.kind) for source in run.task.sources)
    return replace(run, task=replace(run.task, sources=sources))


def report(options: Options, run: FlareRun, task: FlareTask, *, started: float) -> None:
    """Evaluates the finished model, writes the report and prints the tables."""
    folder = options.folder
    model = AutoModelForMultimodalLM.from_pretrained(folder / "flare" / "model").eval()
    language = task.held_out.language(model)
    retrieval = task.held_out.retrieval(model, groups=RETRIEVAL_GROUPS)
    captions = task.held_out.captions(model, task.processor, num=NUM_CAPTIONS)
    last = last_figures(folder / "flare" / "metrics.jsonl")
    plots = sorted((folder / "flare" / "plots").glob("*.png"))
    sections = [
        Section(title="Retrieval", text=retrieval_text(retrieval)),
        Section(title="Language", text=table(*language_rows(language))),
        captions_section(captions, folder),
        pictures_section("Training", {p.stem.replace("_", " "): p for p in plots}, folder),
        figures_section({"flare": last}),
        settings_section(
            commands=[
                f"python scripts/quickstart_flare.py --folder {folder} --seed {options.seed}"
            ],
            settings={"flare": to_json(run)},
        ),
    ]
    results: dict[str, Json] = {
        "retrieval": retrieval,
        "language": language,
        "captions": {name: score_json(score) for name, (score, _) in captions.items()},
        "last": last,
        "seed": options.seed,
    }
    path = write_report(folder, title="FLARE quickstart", sections=sections, results=results)
    for headings, rows in (
        retrieval_rows(retrieval),
        language_rows(language),
        caption_rows(captions),
    ):
        shown = Table(*headings)
        for row in rows:
            shown.add_row(*row)
        Console(width=100).print(shown)
    print(f"\nreport: {path}   ({time.monotonic() - started:.0f} s)")


def retrieval_text(retrieval: Retrieval) -> str:
    """What the figures mean, and the table."""
    rows = table(*retrieval_rows(retrieval))
    return (
        f"Media look for their captions among the distinct ones of a group, and captions for their "
        f"media: 64 in a group, ten for digits. {RETRIEVAL_GROUPS} groups each; chance at 1 is "
        f"1.6 %, or 10 % for digits.\n\n{rows}"
    )


def retrieval_rows(retrieval: Retrieval) -> tuple[list[str], list[list[str]]]:
    """Recall at 1 and 5 both ways, per kind of held-out media."""
    kinds = [(name, key) for name, figures in retrieval.items() for key in figures]
    rows = [
        [name.replace("_", " "), readable(key), percent(retrieval[name][key])]
        for name, key in kinds
    ]
    return ["held out", "direction", "recall"], rows


def language_rows(language: Mapping[str, float]) -> tuple[list[str], list[list[str]]]:
    """Losses beside what the tokens' frequencies alone would give."""
    rows = []
    for name in ("masked", "causal"):
        loss, entropy = language[f"{name}_loss"], language[f"{name}_unigram_entropy"]
        rows.append([name, f"{loss:.3f}", f"{entropy:.3f}", percent(1 - loss / entropy)])
    return ["prediction", "loss (nats per token)", "unigram entropy", "below it"], rows


def caption_rows(captions: Captions) -> tuple[list[str], list[list[str]]]:
    """Attributes named rightly from a medium alone, and what chance would give."""
    rows = []
    for name, (score, _) in captions.items():
        each = ", ".join(
            f"{attribute} {100 * score.correct[attribute] / max(num, 1):.0f}"
            for attribute, num in score.named.items()
        )
        low, high = score.interval
        rows.append(
            [
                name.replace("_", " "),
                f"{percent(score.accuracy)} ({percent(low)} to {percent(high)})",
                percent(score.shuffled_accuracy),
                percent(score.mean_prior),
                each,
            ]
        )
    return [
        "captions of",
        "attributes right",
        "media exchanged",
        "frequent value",
        "each (%)",
    ], rows


def captions_section(captions: Captions, folder: Path) -> Section:
    """The table of attributes, and pictures of the first captions of every kind."""
    text = [table(*caption_rows(captions))]
    for name, (_, written) in captions.items():
        picture = folder / f"captions_{name}.png"
        items = [
            CaptionedMedium(medium=media_of(c.document), written=c.text, true=c.truth)
            for c in written[:SHOWN]
        ]
        captions_picture(items, picture)
        text.append(f"{name.replace('_', ' ')}\n\n![captions of {name}]({picture.name})")
    return Section(title="Captions from a medium alone", text="\n\n".join(text))


def score_json(score: CaptionScore) -> dict[str, Json]:
    """The score as plain numbers."""
    return {
        "accuracy": score.accuracy,
        "interval_95": list(score.interval),
        "media_exchanged": score.shuffled_accuracy,
        "prior": score.mean_prior,
        "correct": dict(score.correct),
        "named": dict(score.named),
    }


def readable(key: str) -> str:
    """`image_to_text_r1` -> `image to text R@1`"""
    direction, at = key.rsplit("_r", 1)
    return f"{direction.replace('_', ' ')} R@{at}"


def percent(share: float) -> str:
    """0.5 -> `50.0 %`"""
    return f"{100 * share:.1f} %"


if __name__ == "__main__":
    sys.exit(main())
