"""Flamingo from nothing, in minutes, on a CPU: three stages, an evaluation and a report.

    python scripts/quickstart.py [--folder runs/quickstart] [--seed 0]

Writes its data as shards, pre-trains the vision encoder by contrast and the language model on text,
freezes both, trains Flamingo, asks it few-shot questions about scenes it has never seen, and writes
everything into one folder. The same command again continues where it stopped.
"""

import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table
from transformers import AutoModelForImageTextToText, AutoProcessor
from transformers.utils import logging

import flamingo  # noqa: F401 - makes Flamingo known to the Auto classes
from common.data.document import text_and_images
from common.data.embedded.episodes import draw_episode
from common.errors import UserError
from common.evaluation.few_shot import FewShotConfig, FewShotEvaluation, evaluate_few_shot
from common.evaluation.plots import attention_picture
from common.evaluation.report import (
    Json,
    few_shot_json,
    few_shot_section,
    figures_section,
    generations_section,
    pictures_section,
    settings_section,
    some_answers,
    write_report,
)
from common.training.config_json import to_json
from common.training.display import configure_logging
from common.training.metrics import last_figures
from common.training.options import parse_options
from common.training.run import RunConfig
from common.training.trainer import Trainer
from flamingo.attention_map import attention_map
from flamingo.corpora import embedded_tokenizer
from flamingo.embedded_shards import Stored, write_generated
from flamingo.generation import complete
from flamingo.presets import PRESETS
from flamingo.recipes import (
    flamingo_tiny,
    flamingo_tiny_language,
    flamingo_tiny_vision,
    make_task,
)

# Documents on disk by kind; a run reads them several times.
NUM_STORED: Mapping[Stored, int] = {
    "pairs": 20_000,
    "texts": 8_000,
    "episodes": 6_000,
    "scenes": 2_000,
    "scene_pairs": 4_000,
}


@dataclass(frozen=True, kw_only=True)
class Options:
    """Three stages, an evaluation and a report, in one folder."""

    # Where everything is written.
    folder: Path = Path("runs/quickstart")
    # Seed of initialisation, data and evaluation.
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
    write_data(options)
    runs = stages(options)
    for name, run in runs.items():
        print(f"\n== {name}: {run.steps} updates ==", flush=True)
        outcome = Trainer(run, make_task(run), options.folder / name).train()
        if outcome.exit_status:
            return outcome.exit_status
    print("\n== evaluation ==", flush=True)
    report(options, runs, started=started)
    return 0


def stages(options: Options) -> dict[str, RunConfig[Any]]:
    """The three runs, on shards; the last one reads the models of the first two."""
    folder, seed = options.folder, options.seed
    vision, language, bridge = flamingo_tiny_vision(), flamingo_tiny_language(), flamingo_tiny()
    shards: dict[str, Path] = {kind: folder / "data" / kind for kind in NUM_STORED}
    sources = tuple(replace(source, path=shards[source.kind]) for source in bridge.task.sources)
    tasks = {
        "vision": replace(vision.task, data_seed=seed, generated=shards["pairs"]),
        "language": replace(language.task, data_seed=seed, generated=shards["texts"]),
        "flamingo": replace(
            bridge.task,
            data_seed=seed,
            sources=sources,
            vision_encoder=folder / "vision" / "model",
            language_model=folder / "language" / "model",
        ),
    }
    runs: dict[str, RunConfig[Any]] = {
        "vision": vision,
        "language": language,
        "flamingo": bridge,
    }
    return {name: replace(run, seed=seed, task=tasks[name]) for name, run in runs.items()}


def write_data(options: Options) -> None:
    """The generated documents of all stages as shards, unless they are there."""
    print(f"== data: shards in {options.folder / 'data'} ==", flush=True)
    vision, language = flamingo_tiny_vision().task, flamingo_tiny_language().task
    tokenizer = embedded_tokenizer(PRESETS[language.model]().text_config.vocab_size)
    for kind, num in NUM_STORED.items():
        write_generated(
            options.folder / "data" / kind,
            kind,
            num=num,
            seed=options.seed,
            family_size=vision.family_size,
            digit_share=vision.digit_share,
            prose_share=language.prose_share,
            tokenizer=tokenizer,
        )


def report(options: Options, runs: dict[str, RunConfig[Any]], *, started: float) -> None:
    """Evaluates the finished model, writes the report and prints the table."""
    folder = options.folder
    model_folder = folder / "flamingo" / "model"
    model = AutoModelForImageTextToText.from_pretrained(model_folder).eval()
    processor = AutoProcessor.from_pretrained(model_folder)
    generate = partial(complete, model, processor)
    # Evaluation episodes come from splits of their own; the seed only draws among them.
    evaluation = evaluate_few_shot(generate, config=FewShotConfig(seed=1000 + options.seed))
    answers = some_answers(evaluation, split="unseen_scenes", shots=4, num=3)
    draw_attention(model, processor, folder / "attention.png")
    last = {name: last_figures(folder / name / "metrics.jsonl") for name in runs}
    sections = [
        few_shot_section(evaluation, folder),
        generations_section(answers, folder),
        pictures_section("Attention", {"Where each word looks": folder / "attention.png"}, folder),
        *(
            pictures_section(
                f"Training: {name}",
                {p.stem.replace("_", " "): p for p in sorted((folder / name / "plots").glob("*"))},
                folder,
            )
            for name in runs
        ),
        figures_section(last),
        settings_section(
            commands=[f"python scripts/quickstart.py --folder {folder} --seed {options.seed}"],
            settings={name: to_json(run) for name, run in runs.items()},
        ),
    ]
    results: dict[str, Json] = {
        "few_shot": few_shot_json(evaluation),
        "stages": last,
        "seed": options.seed,
    }
    path = write_report(folder, title="Flamingo quickstart", sections=sections, results=results)
    print_summary(evaluation, last)
    for answer in answers:
        shots = ", ".join(shot.answer for shot in answer.episode.shots)
        expected = answer.episode.query.answer
        print(f"shots: {shots} | model: {answer.text} | expected: {expected}")
    print(f"\nreport: {path}   ({time.monotonic() - started:.0f} s)")


def draw_attention(model: Any, processor: Any, path: Path) -> None:
    """The attention picture of one held-out episode."""
    episode = draw_episode(7, 3, "unseen_scenes", num_shots=3)
    parts = text_and_images(episode.document())
    seen = attention_map(model, processor, list(parts))
    side = round(seen.patches.shape[1] ** 0.5)
    words = [token.replace("Ġ", " ").strip() for token in seen.tokens]
    attention_picture(
        [part for part in parts if isinstance(part, np.ndarray)],
        words,
        seen.images.numpy(),
        path=path,
        heat_maps=seen.patches.reshape(-1, side, side).numpy(),
    )


def print_summary(evaluation: FewShotEvaluation, last: dict[str, dict[str, float]]) -> None:
    """Accuracy by number of shots, and the retrieval of the vision stage."""
    numbers = evaluation.config.shots
    table = Table("answers right", *(f"{shots} shots" for shots in numbers), "frequent answer")
    controls = dict.fromkeys((row.split, row.control) for row in evaluation.results)
    for split, control in controls:
        rows = {r.shots: r for r in evaluation.results if (r.split, r.control) == (split, control)}
        shares = [f"{100 * rows[n].total.accuracy:.1f} %" if n in rows else "" for n in numbers]
        name = split if control == "none" else f"  {control}"
        prior = f"{100 * next(iter(rows.values())).prior:.1f} %"
        table.add_row(name.replace("_", " "), *shares, prior)
    Console(width=100).print(table)
    for name, value in last["vision"].items():
        if name.endswith("_r1"):
            print(f"{name.removeprefix('validation/')}: {100 * value:.1f} %")


if __name__ == "__main__":
    sys.exit(main())
