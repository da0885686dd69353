"""Reproducible claims: each recipe is a function that returns a complete run of FLARE."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from common.parallel.mesh import ParallelConfig
from common.training.run import CheckpointConfig, OptimizerConfig, RunConfig, ScheduleConfig
from common.training.task import Task
from flare.corpora import SourceConfig
from flare.masking import MaskingConfig
from flare.task import FlareTask
from flare.task_config import FlareTaskConfig, ObjectiveWeights

FlareRun = RunConfig[FlareTaskConfig]


def flare_tiny() -> FlareRun:
    """Everything at once from random weights on a CPU: generated scenes, digits, sounds and text.

    Hardware: 2 CPU cores, about 12 minutes. Expected: docs/numbers.md.
    """
    return RunConfig(
        task=FlareTaskConfig(
            model="flare_tiny",
            batch_size=32,
            max_tokens=96,
            max_seconds=1.0,
            sources=(
                SourceConfig(kind="scenes", weight=3.5),
                SourceConfig(kind="sounds", weight=2.5),
                SourceConfig(kind="digits", weight=0.5),
                SourceConfig(kind="mixed", weight=0.25),
                SourceConfig(kind="prose", weight=0.25),
            ),
            # Captions are short and few: more of them are causal than in a long run.
            masking=MaskingConfig(first_share=0.25),
            objective_weights=ObjectiveWeights(language=2.0),
            weight_decay=0.05,
            position_scale=0.3,
        ),
        optimizer=OptimizerConfig(peak_learning_rate=2e-3),
        schedule=ScheduleConfig(warmup_steps=40, final_fraction=0.1),
        checkpoint=CheckpointConfig(every_steps=100),
        steps=700,
        log_every=10,
        validate_every=100,
        sample_every=100,
    )


def flare_13b() -> FlareRun:
    """FLARE-13B as specified: 2048 rows of 2048 tokens, peak 2e-4, cosine to 10 %, clip 1.0.

    Hardware: 64 A100-80GB: pipelines of 4, each stage sharded over 16; encoders and projectors
    sharded over all 64. 4.2 trillion tokens are a million updates of 4.2 million tokens. Not run;
    `scripts/plan.py flare_13b --dry-run` makes one update in a fake world. Data, by path:
    image-text pairs (WebLI or open ones), audio-text pairs (AudioSet with captions), text (Common
    Crawl), a tokenizer of at most 65,536 tokens.
    """
    return RunConfig(
        task=FlareTaskConfig(
            model="flare_13b",
            batch_size=2048,
            max_tokens=2048,
            max_seconds=30.0,
            sources=(
                SourceConfig(kind="image_pairs", weight=0.4, path=Path("data/image_pairs")),
                SourceConfig(kind="audio_pairs", weight=0.2, path=Path("data/audio_pairs")),
                SourceConfig(kind="text", weight=0.4, path=Path("data/text")),
            ),
            tokenizer=Path("data/tokenizer"),
            vision_encoder=Path("weights/vit_huge_patch14_clip_224.laion2b.safetensors"),
            audio_encoder=Path("weights/wavlm-large"),
            weight_decay=0.1,
            patch_drop=0.5,
        ),
        optimizer=OptimizerConfig(peak_learning_rate=2e-4, clip_norm=1.0),
        schedule=ScheduleConfig(warmup_steps=10_000, kind="cosine", final_fraction=0.1),
        checkpoint=CheckpointConfig(every_steps=500, keep=3),
        steps=1_000_000,
        num_micro_batches=8,  # of 4 rows on each rank, 32 in each pipeline
        precision="bf16",
        recompute="full",
        parallel=ParallelConfig(
            pipeline=4, shard=-1, schedule="Interleaved1F1B", reshard_after_forward=False
        ),
        num_workers=8,
        log_every=10,
        validate_every=1_000,
        sample_every=5_000,
    )


def flare_1b() -> FlareRun:
    """FLARE-1B: the specified schedule for a shape that one node trains.

    Hardware: 8 A100-80GB. Not run.
    """
    run = flare_13b()
    task = replace(
        run.task,
        model="flare_1b",
        batch_size=512,
        vision_encoder=Path("weights/vit_base_patch16_clip_224.laion2b.safetensors"),
    )
    return replace(run, task=task, steps=100_000, parallel=ParallelConfig(shard=-1))


def flare_tiny_instruct() -> FlareRun:
    """Instructions and requests for a trained tiny FLARE: `--task.model runs/flare_tiny/model`.

    A fifth of the requests is refused, whatever they ask for: a model has to be able to refuse
    before preferences (`flare_tiny_safety`) can teach it when. Hardware: 2 CPU cores, minutes.
    Expected: docs/alignment.md.
    """
    run = flare_tiny()
    task = replace(
        run.task,
        batch_size=16,
        max_tokens=128,
        sources=(
            SourceConfig(kind="instructions", weight=2.0),
            SourceConfig(kind="requests", weight=1.0),
        ),
        masking=MaskingConfig(objective="causal"),
        weighting="fixed",
        objective_weights=ObjectiveWeights(),
        z_loss=0.0,
        weight_decay=0.0,
    )
    return replace(
        run,
        task=task,
        optimizer=OptimizerConfig(peak_learning_rate=2e-3),
        schedule=ScheduleConfig(warmup_steps=20, final_fraction=0.0),
        steps=150,
        validate_every=50,
        sample_every=None,
    )


def flare_tiny_safety() -> FlareRun:
    """Preferences for an instructed tiny FLARE: `--task.model runs/flare_tiny_instruct/model`.

    Hardware: 2 CPU cores, minutes. Expected: docs/alignment.md.
    """
    run = flare_tiny_instruct()
    task = replace(
        run.task,
        batch_size=12,
        max_tokens=144,  # of both answers of a pair, with their prompts
        sources=(SourceConfig(kind="preferences", weight=1.0),),
        # A small model's refusals are worth more than its closeness to itself.
        objective_weights=ObjectiveWeights(language=1.0),
        frozen=("vision_encoder", "audio_encoder"),
    )
    return replace(
        run,
        task=task,
        optimizer=OptimizerConfig(peak_learning_rate=1e-3),
        schedule=ScheduleConfig(warmup_steps=15, final_fraction=0.0),
        steps=140,
        validate_every=70,
    )


def instruct_13b() -> FlareRun:
    """Instruction tuning of a FLARE-13B, `--task.model FOLDER`, on conversations by path: LLaVA's,
    M3IT's and OpenAQA's forms; rows are packed, the loss is on the assistant's words.

    Hardware: 64 A100-80GB, divided as in `flare_13b`. 5,000 updates of half a million tokens. Not
    run; `scripts/plan.py instruct_13b --dry-run` makes one update in a fake world.
    """
    run = flare_13b()
    task = replace(
        run.task,
        batch_size=256,
        sources=(
            SourceConfig(kind="llava", weight=0.5, path=Path("data/llava.json")),
            SourceConfig(kind="m3it", weight=0.3, path=Path("data/m3it.jsonl")),
            SourceConfig(kind="openaqa", weight=0.2, path=Path("data/openaqa.json")),
        ),
        tokenizer=None,
        vision_encoder=None,
        audio_encoder=None,
        masking=MaskingConfig(objective="causal"),
        weighting="fixed",
        objective_weights=ObjectiveWeights(),
        z_loss=0.0,
        weight_decay=0.0,
        patch_drop=0.0,
        frozen=("vision_encoder", "audio_encoder"),
    )
    return replace(
        run,
        task=task,
        optimizer=OptimizerConfig(peak_learning_rate=2e-5, clip_norm=1.0),
        schedule=ScheduleConfig(warmup_steps=150, kind="cosine", final_fraction=0.0),
        steps=5_000,
        num_micro_batches=1,
        validate_every=500,
        sample_every=None,
    )


def safety_13b() -> FlareRun:
    """Safety alignment of an instructed FLARE-13B, `--task.model FOLDER`, on pairs by path: direct
    preference optimisation, and a fifth of the loss of the preferred answers.

    Hardware: 64 A100-80GB, divided as in `flare_13b`; before the first update every GPU scores its
    share of the pairs with a whole copy (26 GB). Not run; `scripts/plan.py safety_13b` plans it,
    without the few logits of pairs that are made a second time.
    """
    run = instruct_13b()
    task = replace(
        run.task,
        batch_size=128,
        sources=(SourceConfig(kind="pairs", weight=1.0, path=Path("data/pairs.jsonl")),),
        objective_weights=ObjectiveWeights(language=0.2),
    )
    return replace(
        run,
        task=task,
        optimizer=OptimizerConfig(peak_learning_rate=5e-7, clip_norm=1.0),
        steps=1_000,
    )


RECIPES: dict[str, Callable[[], RunConfig[Any]]] = {
    "flare_tiny": flare_tiny,
    "flare_1b": flare_1b,
    "flare_13b": flare_13b,
    "flare_tiny_instruct": flare_tiny_instruct,
    "flare_tiny_safety": flare_tiny_safety,
    "instruct_13b": instruct_13b,
    "safety_13b": safety_13b,
}


def make_task(run: RunConfig[Any]) -> Task[Any, Any]:
    """The task that a recipe's configuration describes."""
    return FlareTask(run.task, steps=run.steps)
