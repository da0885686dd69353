"""Says what a recipe needs on given GPUs before any is rented: memory, traffic, time, cost.

    python scripts/plan.py flare_13b
    python scripts/plan.py flamingo_80b --gpus 512 --recompute full --reshard-after-forward
    python scripts/plan.py flare_13b --micro-batch 4 --json plan.json --plot plan.png

Everything is counted on the real model, on the meta device; nothing is downloaded, no GPU is used.
Exit status 0 if the run fits, 1 if not, 2 for a mistake.
"""

import json
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
import tyro
from rich.console import Console
from torch import Tensor, nn
from torch.nn.utils import get_total_norm
from torch.optim import AdamW
from tyro.conf import FlagCreatePairsOff, Positional

import flamingo.footprint
import flare.footprint
from common.errors import UserError
from common.parallel.dry_run import Play, Rehearsal, Run, rehearse
from common.parallel.dry_run_pipeline import FakeEngine, StagedPlay, rehearse_pipeline
from common.parallel.mesh import ParallelConfig
from common.parallel.plan.claims import contradictions
from common.parallel.plan.cluster import Layout
from common.parallel.plan.footprint import Footprint
from common.parallel.plan.plan import Plan, make_plan, nearest_fits
from common.parallel.plan.report import as_json, beside_dry_run, draw_memory, settings, tables
from common.parallel.plan.throughput import useful_flops_per_token
from common.parallel.recompute import Recompute
from common.parallel.sharding import whole
from common.training.balance import Balance
from common.training.build import build_model
from common.training.contrast import OnePass, TwoPasses
from common.training.loader import MicroBatch
from common.training.optimizer import build_optimizer, clip_gradients, step_unless
from common.training.options import parse_options
from common.training.run import RunConfig
from common.training.staged import StagedUpdate
from common.training.task import Contrastive, Divisible, Staged, Task
from flamingo.recipes import RECIPES as FLAMINGO
from flare.recipes import RECIPES as FLARE

# Of each rank in the dry run of a pipeline: with those of its group they fill all stages.
DRY_RUN_MICRO_BATCHES = 2


@dataclass(frozen=True, kw_only=True)
class Options:
    """Memory, traffic, time and cost of a recipe."""

    # Recipe of either model.
    recipe: Positional[str]
    # GPUs in all.
    gpus: int = 64
    gpu: Literal["a100-80gb", "h100-80gb", "h200"] = "a100-80gb"
    # Ranks of a pipeline; the recipe's if not given.
    pipeline: int | None = None
    # Whole copies of the model (hybrid sharding).
    replicate: int = 1
    # Ranks over which a parameter is sharded; what is left of the GPUs if not given.
    shard: int | None = None
    # Rows that a rank works on at once; the recipe's share if not given.
    micro_batch: int | None = None
    # What is made again in the backward pass; the recipe's if not given.
    recompute: Recompute | None = None
    # Free weights between forward and backward pass; as the recipe does if not given.
    reshard_after_forward: bool | None = None
    # Share of the peak that a GPU reaches while it has work.
    efficiency: float = 0.5
    # Tokens of the run; the recipe's updates if not given.
    tokens: float | None = None
    # Images of a row; FLARE: 1, Flamingo: the most that the recipe allows.
    images: int | None = None
    # FLARE: clips of a row, and their seconds (the recipe's longest if not given).
    clips: int = 1
    seconds: float | None = None
    # Run an update in a world of fake ranks, without memory and arithmetic, beside the plan. Takes
    # minutes at full size.
    dry_run: FlagCreatePairsOff[bool] = False
    # The rank that is run dry where there is a pipeline, whose stages differ.
    dry_run_rank: int = 0
    # Write all figures as JSON, and the memory as a picture.
    json: Annotated[Path | None, tyro.conf.arg(metavar="FILE")] = None
    plot: Annotated[Path | None, tyro.conf.arg(metavar="FILE")] = None


def main(arguments: Sequence[str] | None = None) -> int:
    """Prints tables; see the module for the exit status."""
    try:
        options = parse_options(Options, arguments, description=__doc__)
        if options is None:  # Only help was asked for.
            return 0
        return _report(options)
    except UserError as error:
        sys.stderr.write(f"error: {' '.join(str(error).split())}\n")
        return 2


def _report(options: Options) -> int:
    run = _run(options.recipe)
    footprint = _footprint(options, run)
    layout = _layout(options, run, footprint)
    plan = make_plan(footprint, layout, efficiency=options.efficiency)
    others = []
    if not plan.fits:
        others = nearest_fits(footprint, layout, efficiency=options.efficiency)
    rehearsal = _rehearse(options, run, footprint, layout) if options.dry_run else None
    claims = _contradictions(footprint, options)
    update = footprint.rows * footprint.tokens_per_row
    tokens = options.tokens or float(run.steps * update)
    console = Console(width=120)
    for table in tables(footprint, plan, tokens=tokens):
        console.print(table)
    if rehearsal is not None:
        rank = options.dry_run_rank if layout.pipeline > 1 else 0
        console.print(beside_dry_run(footprint, plan, rehearsal, rank=rank))
    for line in _verdict(plan, others):
        console.print(line, highlight=False, soft_wrap=True)
    for line in claims:
        console.print(f"published, but not possible: {line}", highlight=False, soft_wrap=True)
    if options.json is not None:
        figures = as_json(
            footprint, plan, tokens=tokens, alternatives=others, contradictions=claims
        )
        if rehearsal is not None:
            figures["dry_run"] = asdict(rehearsal)
        options.json.write_text(json.dumps(figures, indent=2) + "\n")
    if options.plot is not None:
        title = f"{options.recipe} on {layout.gpus} {layout.gpu}, {layout.recompute} recomputation"
        draw_memory(plan, options.plot, title=title)
    return 0 if plan.fits else 1


def _run(recipe: str) -> RunConfig[Any]:
    recipes = FLARE | FLAMINGO
    if recipe not in recipes:
        raise UserError(f"no recipe {recipe!r}; recipes are {', '.join(recipes)}")
    return recipes[recipe]()


def _layout(options: Options, run: RunConfig[Any], footprint: Footprint) -> Layout:
    pipeline = options.pipeline or run.parallel.pipeline
    shard = options.shard or max(1, options.gpus // max(1, pipeline * options.replicate))
    micro_batch, reshard = options.micro_batch, options.reshard_after_forward
    if micro_batch is None:
        rows = footprint.rows / footprint.num_sources
        micro_batch = max(1, round(rows / options.gpus / run.num_micro_batches))
    if reshard is None:
        reshard = run.parallel.reshard_after_forward
    return Layout(
        gpus=options.gpus,
        gpu=options.gpu,
        shard=shard,
        pipeline=pipeline,
        replicate=options.replicate,
        micro_batch=micro_batch,
        recompute=options.recompute or run.recompute,
        reshard_after_forward=reshard,
    )


def _footprint(options: Options, run: RunConfig[Any]) -> Footprint:
    if options.recipe in FLAMINGO:
        return flamingo.footprint.footprint(run, images_per_row=options.images)
    return flare.footprint.footprint(
        run,
        images_per_row=1.0 if options.images is None else float(options.images),
        clips_per_row=float(options.clips),
        seconds=options.seconds,
    )


def _rehearse(
    options: Options, run: RunConfig[Any], footprint: Footprint, layout: Layout
) -> Rehearsal:
    """One micro-batch of the real task, and the step behind it."""
    run = replace(run, recompute=layout.recompute, compile=False)
    task, part = _micro_batch(options, run, layout)
    several = layout.micro_batches(footprint.rows) > 1
    if layout.pipeline > 1:
        return _rehearse_pipeline(options, run, layout, task, part)
    return rehearse(
        play_of(task, run, part, num_ranks=layout.gpus, several=several),
        config=ParallelConfig(
            shard=layout.shard,
            replicate=layout.replicate,
            reshard_after_forward=layout.reshard_after_forward,
        ),
        num_ranks=layout.gpus,
        compute_dtype=torch.bfloat16 if run.precision == "bf16" else None,
        accumulates=several,
    )


def play_of(
    task: Task[Any, Any],
    run: RunConfig[Any],
    part: MicroBatch[Any],
    *,
    num_ranks: int,
    several: bool,
) -> Play:
    """A micro-batch, one of several or the only one, and the step behind it."""
    return Play(
        build=partial(build_model, task, run),
        units=task.parallelize if isinstance(task, Divisible) else None,
        optimizer=lambda model: build_optimizer(model, task.parameter_groups(model), run.optimizer),
        loss=partial(_loss, task, part, num_ranks=num_ranks, several=several),
        step=partial(_step, max_norm=run.optimizer.clip_norm),
    )


def _micro_batch(
    options: Options, run: RunConfig[Any], layout: Layout
) -> tuple[Task[Any, Any], MicroBatch[Any]]:
    rows = layout.micro_batch
    if options.recipe in FLAMINGO:
        return flamingo.footprint.rehearsed(run, rows=rows, images_per_row=options.images)
    return flare.footprint.rehearsed(
        run,
        rows=rows,
        images_per_row=1 if options.images is None else options.images,
        clips_per_row=options.clips,
        seconds=options.seconds,
    )


def _rehearse_pipeline(
    options: Options,
    run: RunConfig[Any],
    layout: Layout,
    task: Task[Any, Any],
    part: MicroBatch[Any],
) -> Rehearsal:
    """An update of a few micro-batches, on one rank of the pipeline."""
    if not isinstance(task, Staged):
        raise UserError(f"{options.recipe} has no chain of blocks to be cut; give --pipeline 1")
    config = ParallelConfig(
        pipeline=layout.pipeline,
        shard=layout.shard,
        replicate=layout.replicate,
        schedule=run.parallel.schedule,
        reshard_after_forward=layout.reshard_after_forward,
    )
    play = StagedPlay(
        build=partial(build_model, task, run),
        units=task.parallelize,
        chain=task.chain,
        optimizer=lambda model: build_optimizer(model, task.parameter_groups(model), run.optimizer),
        differentiate=partial(_differentiate, task, part, num_ranks=layout.gpus),
    )
    return rehearse_pipeline(
        play,
        config=config,
        num_ranks=layout.gpus,
        rank=options.dry_run_rank,
        compute_dtype=torch.bfloat16 if run.precision == "bf16" else None,
    )


def _differentiate(
    task: Staged[Any, Any], part: MicroBatch[Any], engine: FakeEngine, *, num_ranks: int
) -> None:
    own = task.counts(part.source, part.batch)
    sizes = {
        f"{part.source}/{term}": [number * DRY_RUN_MICRO_BATCHES] * num_ranks
        for term, number in own.items()
    }
    counts = {term: sum(numbers) for term, numbers in sizes.items()}
    device = torch.device("cpu")
    StagedUpdate(
        task,
        engine,
        [part] * DRY_RUN_MICRO_BATCHES,
        counts=counts,
        sizes=sizes,
        scales=Balance(task, device=device).scales(counts, update=1),
        device=device,
    ).differentiate()


def _loss(
    task: Task[Any, Any], part: MicroBatch[Any], run: Run, *, num_ranks: int, several: bool
) -> Tensor:
    """As in training: of several micro-batches the contrast takes two passes."""
    counts = task.counts(part.source, part.batch)
    sizes = {f"{part.source}/{term}": [count] * num_ranks for term, count in counts.items()}
    passes: OnePass[Any, Any] | TwoPasses[Any, Any] = OnePass(task, [part], sizes=sizes)
    if several and isinstance(task, Contrastive):
        passes = TwoPasses(task, [part], sizes=sizes, run=run, device=torch.device("cpu"))
    terms = run(partial(passes.terms, 0, part.batch))
    return torch.stack([*terms.losses.values()]).sum()


def _step(parameters: Sequence[nn.Parameter], optimizer: AdamW, *, max_norm: float) -> None:
    norm = clip_gradients(parameters, norm_of=_norm, max_norm=max_norm)
    step_unless(~torch.isfinite(norm), optimizer)


def _norm(gradients: Sequence[Tensor]) -> Tensor:
    return whole(get_total_norm(gradients))


def _contradictions(footprint: Footprint, options: Options) -> list[str]:
    claim = flare.footprint.CLAIMS.get(options.recipe)
    if claim is None:
        return []
    return contradictions(
        claim,
        flops_per_token=useful_flops_per_token(footprint),
        efficiency=options.efficiency,
    )


def _verdict(plan: Plan, others: Sequence[Plan]) -> list[str]:
    if plan.fits:
        free = min(-stage.excess for stage in plan.memory) / 2**30
        return [f"It fits, with {free:.1f} GiB left on the fullest GPU."]
    lines = [f"It does not fit: {complaint}." for complaint in plan.complaints]
    for other in others:
        pace = other.pace
        lines.append(
            f"This fits: {settings(other.layout)} ({pace.step_seconds:.1f} s per update, "
            f"MFU {pace.mfu:.1%})"
        )
    return lines or ["It does not fit, nor does anything near; use more GPUs."]


if __name__ == "__main__":
    sys.exit(main())
