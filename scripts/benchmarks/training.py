"""Updates of a real run on this machine's device, through the training loop and generated data,
beside the memory that a dry run of the same update counts. On a GPU FLARE-13B's widths with as many
decoder layers as one has room for, its encoders frozen, and Flamingo-3B; on a CPU the tiny presets.
A run ends with its checkpoint and its export, 30 GB for the former on a GPU."""

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch

from common.data.feed import Supply
from common.data.packing import PackState
from common.parallel.dry_run import Rehearsal, rehearse
from common.parallel.mesh import ParallelConfig
from common.training.loader import MicroBatch, rows_of
from common.training.metrics import read_lines
from common.training.run import CheckpointConfig, RunConfig
from common.training.task import Task
from common.training.trainer import Trainer
from flamingo.recipes import flamingo_3b, flamingo_tiny
from flamingo.recipes import make_task as flamingo_task
from flare.recipes import flare_13b, flare_tiny
from flare.recipes import make_task as flare_task
from flare.task import FlareTask
from scripts.benchmarks.timing import Row
from scripts.plan import play_of

STEPS, EVERY = 20, 5  # the first updates warm up; the last record counts
DECODER_LAYERS, PROJECTOR_LAYERS = 32, 2
GPU_ROWS = 4


def figures() -> list[Row]:
    """A row for each model."""
    on_gpu = torch.cuda.is_available()
    make: list[Callable[[], tuple[str, RunConfig[Any], Task[Any, Any]]]]
    make = [_flare_slice, _flamingo_3b] if on_gpu else [_flare_tiny, _flamingo_tiny]
    return [_figures(*one()) for one in make]


def _figures(name: str, run: RunConfig[Any], task: Task[Any, Any]) -> Row:
    predicted = _predicted(run, task).peak_bytes / 2**30
    with TemporaryDirectory() as folder:
        Trainer(run, task, Path(folder)).train()
        record = read_lines(Path(folder) / "metrics.jsonl")[-1]
    measured = record.get("memory/peak_gib")
    mfu = record["speed/mfu"]
    return {
        "model": name,
        "tokens/s": round(record["speed/tokens_per_second"]),
        "MFU": "-" if mfu is None else f"{mfu:.1%}",
        "data wait": f"{record['speed/data_wait_fraction']:.1%}",
        "peak GiB, dry run": round(predicted, 2),
        "peak GiB": "-" if measured is None else round(measured, 2),
        "ratio": "-" if measured is None else round(predicted / measured, 3),
    }


def _predicted(run: RunConfig[Any], task: Task[Any, Any]) -> Rehearsal:
    """Of the first micro-batch of the first update."""
    (name, source), *_ = task.sources().items()
    rows, _ = rows_of(source, 0, PackState())
    number = math.ceil(len(rows) / run.num_micro_batches)
    batch = source.collate([source.example(row) for row in rows[:number]])
    part = MicroBatch(source=name, weight=source.weight, batch=batch, supply=Supply())
    return rehearse(
        play_of(
            task, replace(run, compile=False), part, num_ranks=1, several=run.num_micro_batches > 1
        ),
        config=ParallelConfig(),
        num_ranks=1,
        compute_dtype=torch.bfloat16 if run.precision == "bf16" else None,
        accumulates=run.num_micro_batches > 1,
    )


def _short(run: RunConfig[Any], **changes: Any) -> RunConfig[Any]:
    return replace(
        run,
        steps=STEPS,
        schedule=replace(run.schedule, warmup_steps=1),
        checkpoint=CheckpointConfig(every_steps=2 * STEPS),
        parallel=ParallelConfig(),
        log_every=EVERY,
        validate_every=None,
        sample_every=None,
        stop_patience=None,
        **changes,
    )


def _flare_tiny() -> tuple[str, RunConfig[Any], Task[Any, Any]]:
    run = _short(flare_tiny())
    return "flare_tiny", run, flare_task(run)


def _flare_slice() -> tuple[str, RunConfig[Any], Task[Any, Any]]:
    config = replace(
        flare_13b().task,
        sources=flare_tiny().task.sources,
        tokenizer=None,
        vision_encoder=None,
        audio_encoder=None,
        frozen=("vision_encoder", "audio_encoder"),
        max_seconds=1.0,
        batch_size=4 * GPU_ROWS,
    )
    run = _short(flare_13b(), task=config, num_micro_batches=4, recompute="selective")
    task = FlareTask(config, steps=run.steps)
    task.model_config.text_config.num_hidden_layers = DECODER_LAYERS
    task.model_config.vision_projector.num_layers = PROJECTOR_LAYERS
    task.model_config.audio_projector.num_layers = PROJECTOR_LAYERS
    return f"flare_13b, {DECODER_LAYERS} decoder layers", run, task


def _flamingo_tiny() -> tuple[str, RunConfig[Any], Task[Any, Any]]:
    config = replace(flamingo_tiny().task, language_model=None, vision_encoder=None)
    run = _short(flamingo_tiny(), task=config)
    return "flamingo_tiny", run, flamingo_task(run)


def _flamingo_3b() -> tuple[str, RunConfig[Any], Task[Any, Any]]:
    sources = [replace(s, batch_size=GPU_ROWS) for s in flamingo_tiny().task.sources]
    config = replace(flamingo_3b().task, sources=tuple(sources))
    run = _short(flamingo_3b(), task=config, num_micro_batches=1, recompute="selective")
    return "flamingo_3b", run, flamingo_task(run)
