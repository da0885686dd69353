"""Time of an update from counted work.

    MFU = useful work / (peak * time),  useful = forward + backward
    HFU = all work / (peak * time),     all = useful + recomputed + the first pass of the contrast

Useful work is 6 N per token through N trained parameters, 4 N through frozen ones that gradients
cross and 2 N where none cross, attention on top: as counted, not as a formula. `efficiency` is the
share of its peak that a GPU reaches while it has work; waiting for the pipeline comes on top. With
several micro-batches rows of captions are read twice, once to make the vectors that are contrasted,
and so are all media; the captions of a micro-batch fill whole rows.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from common.parallel.plan.cluster import Layout
from common.parallel.plan.footprint import Footprint, Unit, cost_of, cost_of_tower


@dataclass(frozen=True, kw_only=True)
class Work:
    """Floating-point operations of one row, all ranks together."""

    useful: float
    hardware: float


@dataclass(frozen=True, kw_only=True)
class Pace:
    """How fast a layout trains."""

    step_seconds: float
    tokens_per_second_per_gpu: float
    mfu: float
    hfu: float
    bubbles: dict[str, float]  # idle share by schedule
    imbalance: float  # the slowest stage beside the average one

    def days(self, tokens: float, layout: Layout) -> float:
        """For a budget of tokens."""
        return tokens / (self.tokens_per_second_per_gpu * layout.gpus) / 86_400

    def gpu_hours(self, tokens: float, layout: Layout) -> float:
        """For a budget of tokens."""
        return self.days(tokens, layout) * 24 * layout.gpus


def work_per_row(footprint: Footprint, layout: Layout) -> dict[str, Work]:
    """By component: towers, layers, head."""
    table: dict[str, Work] = {}
    for tower in footprint.towers:
        cost = cost_of_tower(tower, 1, layout.recompute)
        first_pass = cost.forward_flops * _extra_passes(footprint, layout)
        table[tower.name] = Work(
            useful=cost.useful_flops * tower.items_per_row,
            hardware=(cost.hardware_flops + first_pass) * tower.items_per_row,
        )
    for layer in footprint.layers:
        for unit in layer:
            before = table.get(unit.name, Work(useful=0.0, hardware=0.0))
            one = _layer_work(footprint, unit, layout)
            table[unit.name] = Work(
                useful=before.useful + one.useful, hardware=before.hardware + one.hardware
            )
    if footprint.head is not None:
        cost = cost_of(footprint.head, 1, "none")
        table[footprint.head.name] = Work(
            useful=float(cost.useful_flops), hardware=float(cost.hardware_flops)
        )
    return table


def useful_flops_per_token(footprint: Footprint) -> float:
    """However it is laid out."""
    layout = Layout(gpus=1, gpu="a100-80gb", shard=1)
    useful = sum(part.useful for part in work_per_row(footprint, layout).values())
    return useful / footprint.tokens_per_row


def stage_costs(footprint: Footprint, layout: Layout) -> list[float]:
    """Work of every layer on a row, the head's added to the last: what a balance is made of."""
    costs = [
        sum(_layer_work(footprint, unit, layout).hardware for unit in layer)
        for layer in footprint.layers
    ]
    if costs and footprint.head is not None:
        costs[-1] += cost_of(footprint.head, 1, "none").hardware_flops
    return costs


def pace(
    footprint: Footprint, layout: Layout, stages: Sequence[range], *, efficiency: float
) -> Pace:
    """Of a 1F1B pipeline, or of plain sharding with one stage."""
    work = work_per_row(footprint, layout)
    useful = sum(part.useful for part in work.values()) * footprint.rows
    hardware = sum(part.hardware for part in work.values()) * footprint.rows
    costs = stage_costs(footprint, layout)
    loads = [sum(costs[layer] for layer in layers) for layers in stages]
    number, num_stages = layout.micro_batches(footprint.rows), len(stages)
    slots = number + num_stages - 1
    towers = sum(work[tower.name].hardware for tower in footprint.towers)
    rank_work = max(loads, default=0) * layout.micro_batch * slots
    rank_work += towers * footprint.rows / layout.gpus
    seconds = rank_work / (layout.device.peak_flops * efficiency)
    peak = layout.device.peak_flops * layout.gpus * seconds
    tokens = footprint.rows * footprint.tokens_per_row
    return Pace(
        step_seconds=seconds,
        tokens_per_second_per_gpu=tokens / seconds / layout.gpus,
        mfu=useful / peak,
        hfu=hardware / peak,
        bubbles=bubbles(num_stages, number),
        imbalance=max(loads) / (sum(loads) / num_stages) if costs else 1.0,
    )


def bubbles(stages: int, micro_batches: int) -> dict[str, float]:
    """Idle share of a pipeline; the last two where forward and both gradients take equal time."""
    idle = stages - 1
    return {
        "1F1B": idle / (micro_batches + idle),
        "interleaved, 2 chunks": idle / (2 * micro_batches + idle),
        "zero-bubble H1": idle / (3 * micro_batches + idle),
        "ZBV": 0.0,
    }


def _layer_work(footprint: Footprint, unit: Unit, layout: Layout) -> Work:
    cost = cost_of(unit, 1, layout.recompute)
    captions = footprint.caption_rows(layout.micro_batch) / layout.micro_batch
    first_pass = cost.forward_flops * captions * _extra_passes(footprint, layout)
    return Work(
        useful=cost.useful_flops * (1 + footprint.caption_share),
        hardware=cost.hardware_flops * (1 + captions) + first_pass,
    )


def _extra_passes(footprint: Footprint, layout: Layout) -> int:
    """Forward passes beside that of training."""
    return int(bool(footprint.pairs_per_row) and layout.micro_batches(footprint.rows) > 1)
