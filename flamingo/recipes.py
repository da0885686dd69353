"""Reproducible claims: each recipe is a function that returns a complete run.

Three stages: the vision encoder by contrast, the language model on text, Flamingo on both, frozen.
"""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from common.parallel.mesh import ParallelConfig
from common.training.run import CheckpointConfig, OptimizerConfig, RunConfig, ScheduleConfig
from common.training.task import Task
from flamingo.language_pretraining import LanguageTask, LanguageTaskConfig
from flamingo.task import FlamingoTask
from flamingo.task_config import FlamingoTaskConfig, SourceConfig
from flamingo.vision_pretraining import ContrastiveConfig, ContrastiveTask, tiny_contrastive

FlamingoRun = RunConfig[FlamingoTaskConfig]


def flamingo_tiny() -> FlamingoRun:
    """The third stage on a CPU: few-shot episodes, documents and pairs of generated scenes.

    Hardware: 2 CPU cores, about 5 minutes. Expected: docs/numbers.md. Needs the folders that
    flamingo_tiny_vision and flamingo_tiny_language write; `make quickstart` runs all three.
    """
    return RunConfig(
        task=FlamingoTaskConfig(
            model="flamingo_tiny",
            language_model=Path("runs/flamingo_tiny_language/model"),
            vision_encoder=Path("runs/flamingo_tiny_vision/model"),
            frozen_precision="fp32",
            max_tokens=128,
            max_images=32,
            augment_steps=100,
            sources=(
                SourceConfig(name="episodes", kind="episodes", batch_size=8, weight=1.0),
                SourceConfig(name="documents", kind="scenes", batch_size=2, weight=0.2),
                SourceConfig(name="pairs", kind="scene_pairs", batch_size=2, weight=0.2),
            ),
        ),
        optimizer=OptimizerConfig(peak_learning_rate=3e-3),
        schedule=ScheduleConfig(warmup_steps=20, final_fraction=0.1),
        checkpoint=CheckpointConfig(every_steps=100),
        steps=450,
        log_every=10,
        validate_every=150,
        sample_every=150,
    )


def flamingo_tiny_vision() -> RunConfig[ContrastiveConfig]:
    """The vision encoder of the tiny preset: generated scenes and real digits with captions.

    Hardware: 2 CPU cores, about 3 minutes. Expected: docs/numbers.md.
    """
    return RunConfig(
        task=tiny_contrastive(),
        optimizer=OptimizerConfig(peak_learning_rate=2e-3),
        schedule=ScheduleConfig(warmup_steps=40),
        checkpoint=CheckpointConfig(every_steps=100),
        steps=500,
        log_every=20,
        validate_every=250,
        sample_every=250,
    )


def flamingo_80b_vision() -> RunConfig[ContrastiveConfig]:
    """The vision encoder of the published system: NFNet-F6 by contrast, batch 16384, 1.2M steps.

    Hardware: 512 TPU v4 in the paper. Not run. Data: a folder of pairs (ALIGN, LTIP), by path.
    """
    return RunConfig(
        task=ContrastiveConfig(
            model="flamingo_80b",
            batch_size=16_384,
            embedding_dim=1376,
            text_dim=768,
            text_layers=12,
            text_heads=12,
            max_tokens=64,
            weight_decay=0.1,
            image_size=288,
            pairs=(Path("data/align"), Path("data/ltip")),
        ),
        optimizer=OptimizerConfig(peak_learning_rate=1e-3),
        schedule=ScheduleConfig(warmup_steps=5_000),
        steps=1_200_000,
        precision="bf16",
        num_workers=8,
        log_every=10,
        validate_every=5_000,
    )


def flamingo_tiny_language() -> RunConfig[LanguageTaskConfig]:
    """The language model of the tiny preset: English and the words of generated documents.

    Hardware: 2 CPU cores, about a minute. Expected: docs/numbers.md.
    """
    return RunConfig(
        task=LanguageTaskConfig(
            model="flamingo_tiny", batch_size=32, max_tokens=96, prose_share=0.25
        ),
        optimizer=OptimizerConfig(peak_learning_rate=2e-3),
        schedule=ScheduleConfig(warmup_steps=20, final_fraction=0.1),
        checkpoint=CheckpointConfig(every_steps=100),
        steps=250,
        log_every=10,
        validate_every=100,
        sample_every=100,
    )


def flamingo_80b() -> FlamingoRun:
    """Flamingo-80B as specified: 1024 sequences of 2048 tokens, peak 1.2e-4, cosine, 224 px.

    Hardware: 1024 A100-80GB, 16 copies of 64 shards, 3 to 4 months at half the peak. Not run. Data:
    interleaved pages (M3W: 43M documents, or OBELICS) and two pair sets (ALIGN, LTIP, or open
    ones), by path. Stops when the validation perplexity has not improved for 10 validations.
    """
    return RunConfig(
        task=FlamingoTaskConfig(
            model="flamingo_80b",
            image_size=224,
            max_images=32,
            augment_steps=50_000,
            sources=_web_sources(documents=1024, pairs=1024),
        ),
        optimizer=OptimizerConfig(peak_learning_rate=1.2e-4, clip_norm=1.0),
        schedule=ScheduleConfig(warmup_steps=5_000, kind="cosine", final_fraction=0.1),
        checkpoint=CheckpointConfig(every_steps=500, keep=3),
        steps=500_000,
        num_micro_batches=1,
        precision="bf16",
        recompute="full",
        parallel=ParallelConfig(shard=64),
        num_workers=8,
        log_every=10,
        validate_every=1_000,
        sample_every=5_000,
        stop_patience=10,
    )


def flamingo_80b_paper() -> FlamingoRun:
    """Flamingo-80B as published where the specified run differs: 320 px, constant 1e-4.

    Hardware: 1536 TPU v4 for 15 days in the paper. Not run. Crops of 256 tokens with at most 5
    images, text bound to the next image half of the time, no augmentation, weights 1.0, 0.2, 0.2
    (appendices A.3 and B.1).
    """
    run = flamingo_80b()
    task = replace(run.task, image_size=320, max_tokens=256, max_images=5, augment_steps=0)
    return replace(
        run,
        task=task,
        optimizer=OptimizerConfig(peak_learning_rate=1e-4, clip_norm=1.0),
        schedule=ScheduleConfig(warmup_steps=5_000, kind="constant"),
    )


def flamingo_tiny_instruct() -> FlamingoRun:
    """Instructions about scenes and words, and requests, for a trained tiny Flamingo.

    A fifth of the requests is refused, whatever they ask for, as a preparation for preferences.
    Hardware: 2 CPU cores, minutes. Expected: docs/alignment.md. Needs the folder that flamingo_tiny
    writes.
    """
    return replace(
        flamingo_tiny(),
        task=FlamingoTaskConfig(
            model="flamingo_tiny",
            start=Path("runs/flamingo_tiny/model"),
            frozen_precision="fp32",
            max_tokens=128,
            max_images=8,
            sources=(
                SourceConfig(name="instructions", kind="instructions", batch_size=8, weight=1.0),
                SourceConfig(name="requests", kind="requests", batch_size=4, weight=0.5),
            ),
        ),
        optimizer=OptimizerConfig(peak_learning_rate=2e-3),
        schedule=ScheduleConfig(warmup_steps=20, final_fraction=0.0),
        steps=150,
        validate_every=50,
        sample_every=50,
    )


def instruct_80b() -> FlamingoRun:
    """Instruction tuning of a Flamingo-80B, `--task.start FOLDER`, on conversations by path in
    LLaVA's and M3IT's forms; rows are packed, the loss is on the assistant's words.

    Hardware: as `flamingo_80b`, for 5,000 updates. Not run.
    """
    run = flamingo_80b()
    sources = (
        SourceConfig(
            name="llava", kind="llava", path=Path("data/llava.json"), batch_size=128, weight=1.0
        ),
        SourceConfig(
            name="m3it", kind="m3it", path=Path("data/m3it.jsonl"), batch_size=128, weight=1.0
        ),
    )
    return replace(
        run,
        task=replace(run.task, sources=sources, augment_steps=0),
        optimizer=OptimizerConfig(peak_learning_rate=2e-5, clip_norm=1.0),
        schedule=ScheduleConfig(warmup_steps=150, kind="cosine", final_fraction=0.0),
        steps=5_000,
        validate_every=500,
        sample_every=500,
    )


def flamingo_9b() -> FlamingoRun:
    """Flamingo-9B: the specified schedule over the shape of Mistral-7B.

    Hardware: 64 A100-80GB. Not run.
    """
    run = flamingo_80b()
    task = replace(run.task, model="flamingo_9b")
    return replace(run, task=task, parallel=ParallelConfig(shard=8), num_micro_batches=4)


def flamingo_3b() -> FlamingoRun:
    """Flamingo-3B: the specified schedule over a 1.4B language model.

    Hardware: 8 A100-80GB and up. Not run.
    """
    run = flamingo_80b()
    task = replace(run.task, model="flamingo_3b")
    return replace(run, task=task, parallel=ParallelConfig(shard=8), num_micro_batches=32)


def _web_sources(*, documents: int, pairs: int) -> tuple[SourceConfig, ...]:
    """Interleaved pages and two pair sets with the paper's weights; short pairs are packed."""
    return (
        SourceConfig(
            name="interleaved",
            kind="interleaved",
            path=Path("data/m3w"),
            batch_size=documents,
            weight=1.0,
            next_image_probability=0.5,
        ),
        SourceConfig(
            name="align", kind="image_pairs", path=Path("data/align"), batch_size=pairs, weight=0.2
        ),
        SourceConfig(
            name="ltip", kind="image_pairs", path=Path("data/ltip"), batch_size=pairs, weight=0.2
        ),
    )


RECIPES: dict[str, Callable[[], RunConfig[Any]]] = {
    "flamingo_tiny_vision": flamingo_tiny_vision,
    "flamingo_tiny_language": flamingo_tiny_language,
    "flamingo_tiny": flamingo_tiny,
    "flamingo_3b": flamingo_3b,
    "flamingo_9b": flamingo_9b,
    "flamingo_80b_vision": flamingo_80b_vision,
    "flamingo_80b": flamingo_80b,
    "flamingo_80b_paper": flamingo_80b_paper,
    "flamingo_tiny_instruct": flamingo_tiny_instruct,
    "instruct_80b": instruct_80b,
}


def make_task(run: RunConfig[Any]) -> Task[Any, Any]:
    """The task that a recipe's configuration describes."""
    if isinstance(run.task, ContrastiveConfig):
        return ContrastiveTask(run.task)
    if isinstance(run.task, LanguageTaskConfig):
        return LanguageTask(run.task)
    return FlamingoTask(run.task)
