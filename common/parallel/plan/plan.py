"""A complete plan: memory, traffic and pace of one layout, and the nearest layouts that fit."""

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import groupby, product

from common.errors import UserError
from common.parallel.plan.cluster import GIB, Layout
from common.parallel.plan.footprint import Footprint
from common.parallel.plan.memory import StageMemory, memory_of_stages
from common.parallel.plan.stages import balanced_stages
from common.parallel.plan.throughput import Pace, pace, stage_costs
from common.parallel.plan.traffic import Traffic, traffic
from common.parallel.recompute import RECOMPUTE

PIPELINES = (1, 2, 4, 8, 16)


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What a layout needs and gives."""

    layout: Layout
    stages: list[range]
    micro_batches: int
    memory: list[StageMemory]
    traffic: list[Traffic]
    pace: Pace

    @property
    def fits(self) -> bool:
        """Whether every stage does."""
        return all(stage.excess <= 0 for stage in self.memory)

    @property
    def complaints(self) -> list[str]:
        """One line for each stage that does not fit: its largest kind, and GiB too many."""
        return [
            f"stage {stage.stage} needs {stage.excess / GIB:.1f} GiB more than there are: "
            f"{stage.total / GIB:.1f} of {stage.capacity / GIB:.1f}, most of it {kind} "
            f"({stage.kinds[kind] / GIB:.1f})"
            for stage in self.memory
            if stage.excess > 0
            for kind in [stage.largest_kind]
        ]


def make_plan(footprint: Footprint, layout: Layout, *, efficiency: float) -> Plan:
    """Count everything.

    Raises:
        UserError: the layout does not suit the model or its batch.
    """
    if not 0 < efficiency <= 1:
        raise UserError(f"efficiency is a share of the peak in 0..1, not {efficiency}")
    if layout.pipeline > 1 and not footprint.layers:
        raise UserError(f"{footprint.name} has no layers that a pipeline could cut; use pipeline 1")
    costs = stage_costs(footprint, layout)
    stages = balanced_stages(costs, layout.pipeline) if costs else [range(0)]
    return Plan(
        layout=layout,
        stages=stages,
        micro_batches=layout.micro_batches(footprint.rows),
        memory=memory_of_stages(footprint, layout, stages),
        traffic=traffic(footprint, layout, stages),
        pace=pace(footprint, layout, stages, efficiency=efficiency),
    )


def nearest_fits(
    footprint: Footprint, layout: Layout, *, efficiency: float, limit: int = 3
) -> list[Plan]:
    """Layouts of the same GPUs that fit, fewest changes first, then the fastest.

    Searched are micro-batch, recomputation, pipeline and shard; copies of the model stay.
    """
    found: list[Plan] = []
    by_distance = sorted(_neighbours(layout), key=lambda other: _distance(layout, other))
    for _, equally_near in groupby(by_distance, key=lambda other: _distance(layout, other)):
        plans = [_plan_that_fits(footprint, other, efficiency) for other in equally_near]
        fitting = [plan for plan in plans if plan is not None]
        found += sorted(fitting, key=lambda plan: plan.pace.step_seconds)
        if len(found) >= limit:
            break
    return found[:limit]


def _plan_that_fits(footprint: Footprint, layout: Layout, efficiency: float) -> Plan | None:
    try:
        plan = make_plan(footprint, layout, efficiency=efficiency)
    except UserError:  # impossible for this batch or depth
        return None
    return plan if plan.fits else None


def _neighbours(layout: Layout) -> Iterator[Layout]:
    rows = sorted({1, 2, max(1, layout.micro_batch // 2), layout.micro_batch})
    pipelines = sorted({*PIPELINES, layout.pipeline})
    for recompute, pipeline, micro_batch in product(RECOMPUTE, pipelines, rows):
        ranks = pipeline * layout.replicate
        if micro_batch > layout.micro_batch or layout.gpus % ranks:
            continue
        other = replace(
            layout,
            pipeline=pipeline,
            shard=layout.gpus // ranks,
            micro_batch=micro_batch,
            recompute=recompute,
            # Keeping all weights gathered is never the way to save memory.
            reshard_after_forward=True,
        )
        if other != layout:
            yield other


def _distance(layout: Layout, other: Layout) -> float:
    steps = abs(RECOMPUTE.index(layout.recompute) - RECOMPUTE.index(other.recompute))
    doublings = (
        math.log2(layout.pipeline / other.pipeline),
        math.log2(layout.micro_batch / other.micro_batch),
    )
    return steps + sum(map(abs, doublings))
