"""Says what a recipe needs on given GPUs before any is rented: memory, traffic, time, cost.

    python scripts/plan.py flare_13b
    python scripts/plan.py flamingo_80b --gpus 512 --recompute full --reshard-after-forward
    python scripts/plan.py flare_13b --micro-batch 4 --json plan.json --plot plan.png

Everything is counted on the real model, on the meta device; nothing is downloaded, no GPU is used.
It plans more than training offers: pipelines and selective recomputation are arithmetic only.
Exit status 0 if the run fits, 1 if not, 2 for a mistake.
"""

import contextlib
import io
import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro
from rich.console import Console
from tyro.conf import FlagCreatePairsOff, Positional

import flamingo.footprint
import flare.footprint
from common.errors import UserError
from common.parallel.plan.claims import contradictions
from common.parallel.plan.cluster import Layout
from common.parallel.plan.counting import Recompute
from common.parallel.plan.footprint import Footprint
from common.parallel.plan.plan import Plan, make_plan, nearest_fits
from common.parallel.plan.report import as_json, draw_memory, settings, tables
from common.parallel.plan.throughput import work_per_row
from common.training.command_line import condense
from common.training.run import RunConfig
from flamingo.recipes import RECIPES as FLAMINGO
from flare.recipes import RECIPES as FLARE


@dataclass(frozen=True, kw_only=True)
class Options:
    """Memory, traffic, time and cost of a recipe."""

    # Recipe of either model.
    recipe: Positional[str]
    # GPUs in all.
    gpus: int = 64
    gpu: Literal["a100-80gb", "h100-80gb", "h200"] = "a100-80gb"
    # Stages of the pipeline; FLARE-13B: 4, all else: 1.
    pipeline: int | None = None
    # Whole copies of the model (hybrid sharding).
    replicate: int = 1
    # Ranks over which a parameter is sharded; what is left of the GPUs if not given.
    shard: int | None = None
    # Rows that a rank works on at once.
    micro_batch: int = 1
    # Under a pipeline: rows whose media a rank encodes at once. Towers are gathered for each such
    # part, three times, from all ranks: few parts are much less traffic.
    tower_rows: int = 8
    # What is made again in the backward pass; the recipe's if not given.
    recompute: Recompute | None = None
    # Free weights between forward and backward pass.
    reshard_after_forward: FlagCreatePairsOff[bool] = False
    # Sum gradients over ranks once per update, not after every micro-batch.
    reduce_once: FlagCreatePairsOff[bool] = False
    # Share of the peak that a GPU reaches while it has work.
    efficiency: float = 0.5
    # Tokens of the run; the recipe's updates if not given.
    tokens: float | None = None
    # Images of a row; FLARE: 1, Flamingo: the most that the recipe allows.
    images: int | None = None
    # FLARE: clips of a row, and their seconds (the recipe's longest if not given).
    clips: int = 1
    seconds: float | None = None
    # Write all figures as JSON, and the memory as a picture.
    json: Annotated[Path | None, tyro.conf.arg(metavar="FILE")] = None
    plot: Annotated[Path | None, tyro.conf.arg(metavar="FILE")] = None


def main(arguments: Sequence[str] | None = None) -> int:
    """Prints tables; see the module for the exit status."""
    try:
        options = _parse(arguments)
        if options is None:  # Only help was asked for.
            return 0
        return _report(options)
    except UserError as error:
        sys.stderr.write(f"error: {' '.join(str(error).split())}\n")
        return 2


def _parse(arguments: Sequence[str] | None) -> Options | None:
    complaint = io.StringIO()
    try:
        with contextlib.redirect_stderr(complaint):
            return tyro.cli(Options, args=arguments, description=__doc__)
    except SystemExit as ended:
        if ended.code in (0, None):
            return None
        raise UserError(condense(complaint.getvalue())) from None


def _report(options: Options) -> int:
    run = _run(options.recipe)
    layout = _layout(options, run)
    footprint = _footprint(options, run)
    plan = make_plan(footprint, layout, efficiency=options.efficiency)
    others = []
    if not plan.fits:
        others = nearest_fits(footprint, layout, efficiency=options.efficiency)
    claims = _contradictions(footprint, options)
    update = footprint.rows * footprint.tokens_per_row
    tokens = options.tokens or float(run.steps * update)
    console = Console(width=120)
    for table in tables(footprint, plan, tokens=tokens):
        console.print(table)
    for line in _verdict(plan, others):
        console.print(line, highlight=False, soft_wrap=True)
    for line in claims:
        console.print(f"published, but not possible: {line}", highlight=False, soft_wrap=True)
    if options.json is not None:
        figures = as_json(
            footprint, plan, tokens=tokens, alternatives=others, contradictions=claims
        )
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


def _layout(options: Options, run: RunConfig[Any]) -> Layout:
    pipeline = options.pipeline or (4 if options.recipe == "flare_13b" else 1)
    shard = options.shard or max(1, options.gpus // max(1, pipeline * options.replicate))
    recompute = options.recompute
    if recompute is None:
        asked = getattr(run.task, "recompute", None)
        recompute = "full" if asked else "none"
    return Layout(
        gpus=options.gpus,
        gpu=options.gpu,
        shard=shard,
        pipeline=pipeline,
        replicate=options.replicate,
        micro_batch=options.micro_batch,
        tower_rows=options.tower_rows,
        recompute=recompute,
        reshard_after_forward=options.reshard_after_forward,
        reduce_once=options.reduce_once,
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


def _contradictions(footprint: Footprint, options: Options) -> list[str]:
    claim = flare.footprint.CLAIMS.get(options.recipe)
    if claim is None:
        return []
    useful = sum(part.useful for part in work_per_row(footprint, "none").values())
    return contradictions(
        claim,
        flops_per_token=useful / footprint.tokens_per_row,
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
