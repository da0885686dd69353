"""A plan as tables for people, as JSON for machines, and as a picture of its memory."""

from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from rich.table import Table

from common.parallel.dry_run import BACKWARD, FORWARD, GRADIENTS, OPTIMIZER, WEIGHTS, Rehearsal
from common.parallel.plan.cluster import GIB, Layout
from common.parallel.plan.footprint import Footprint
from common.parallel.plan.memory import LAYER_ACTIVATIONS, LOSS, TOWER_ACTIVATIONS, WORKSPACE
from common.parallel.plan.plan import Plan
from common.parallel.plan.storages import GATHERED, REDUCED
from common.parallel.plan.throughput import work_per_row


def tables(footprint: Footprint, plan: Plan, *, tokens: float) -> Iterator[Table]:
    """Components, memory, traffic, and time."""
    yield _components(footprint, plan)
    yield _memory(plan)
    yield _traffic(plan)
    yield _time(footprint, plan, tokens)


def settings(layout: Layout) -> str:
    """A layout as options of the script."""
    return (
        f"--pipeline {layout.pipeline} --replicate {layout.replicate} --shard {layout.shard} "
        f"--micro-batch {layout.micro_batch} --recompute {layout.recompute} "
        f"--reshard-after-forward {layout.reshard_after_forward}"
    )


def as_json(
    footprint: Footprint,
    plan: Plan,
    *,
    tokens: float,
    alternatives: list[Plan],
    contradictions: list[str],
) -> dict[str, object]:
    """All figures, in bytes, seconds and operations."""
    work = work_per_row(footprint, plan.layout)
    return {
        "model": footprint.name,
        "rows": footprint.rows,
        "tokens_per_row": footprint.tokens_per_row,
        "parameters": footprint.parameters,
        "trained": footprint.trained,
        "components": parameters_of_components(footprint),
        "flops_per_item": work_per_item(footprint, plan),
        "flops_per_row": {name: asdict(part) for name, part in work.items()},
        "layout": asdict(plan.layout),
        "micro_batches": plan.micro_batches,
        "stages": [[layers.start, layers.stop] for layers in plan.stages],
        "memory": [
            {"stage": m.stage, "total": m.total, "capacity": m.capacity, "kinds": m.kinds}
            for m in plan.memory
        ],
        "fits": plan.fits,
        "complaints": plan.complaints,
        "alternatives": [settings(other.layout) for other in alternatives],
        "traffic": [entry._asdict() for entry in plan.traffic],
        "pace": asdict(plan.pace),
        "tokens": tokens,
        "days": plan.pace.days(tokens, plan.layout),
        "gpu_hours": plan.pace.gpu_hours(tokens, plan.layout),
        "contradictions": contradictions,
    }


def parameters_of_components(footprint: Footprint) -> dict[str, dict[str, int]]:
    """Held and trained, by name of the component."""
    ends = [unit for unit in (footprint.embedding, footprint.head) if unit is not None]
    units = [tower.whole for tower in footprint.towers] + ends
    units += [unit for layer in footprint.layers for unit in layer]
    counts: dict[str, dict[str, int]] = {}
    for unit in units:
        entry = counts.setdefault(unit.name, {"parameters": 0, "trained": 0})
        entry["parameters"] += unit.parameters
        entry["trained"] += unit.trained
    return counts


def work_per_item(footprint: Footprint, plan: Plan) -> dict[str, float]:
    """Useful operations per image or clip of a tower, per token of all else."""
    table = work_per_row(footprint, plan.layout)
    items = {tower.name: tower.items_per_row for tower in footprint.towers}
    tokens = footprint.tokens_per_row
    return {name: work.useful / (items.get(name, tokens) or 1) for name, work in table.items()}


MIB = 2**20
# Kinds of a dry run, and what is planned for them. How much the forward pass still keeps, and how
# much the backward pass has made, depends on the moment of the peak.
_PLANNED = {
    (WEIGHTS,): ("weights, shards", "frozen weights, shards"),
    (OPTIMIZER,): ("Adam moments",),
    (GRADIENTS,): ("gradients, shards",),
    (GATHERED,): ("weights gathered",),
    (REDUCED,): ("gradients, unreduced fp32", REDUCED),
    (FORWARD, BACKWARD): (
        LAYER_ACTIVATIONS,
        TOWER_ACTIVATIONS,
        WORKSPACE,
        LOSS,
        "contrastive vectors",
    ),
}


def beside_dry_run(
    footprint: Footprint, plan: Plan, rehearsal: Rehearsal, *, rank: int = 0
) -> Table:
    """A plan, and what a dry run found on a rank."""
    weights, layout = rehearsal.weights, plan.layout
    memory = plan.memory[rank * layout.pipeline // layout.gpus]
    caption = (
        f"{weights.tensors:,} parameters, {weights.sharded:,} of them shards: "
        f"{weights.numbers_here:,} of {weights.numbers:,} numbers on rank {rank}; "
        f"{rehearsal.seconds:.0f} s"
    )
    table = Table(
        f"MiB on rank {rank}",
        "plan",
        "dry run",
        title=f"Dry run, {layout.gpus} ranks, {settings(layout)}",
        caption=caption,
    )
    for kinds, planned in _PLANNED.items():
        expected = sum(memory.at_the_peak[kind] for kind in planned)
        found = sum(rehearsal.peak.get(kind, 0) for kind in kinds)
        table.add_row(" and ".join(kinds), f"{expected / MIB:,.2f}", f"{found / MIB:,.2f}")
    expected = memory.total - memory.kinds["reserved"]
    table.add_section()
    table.add_row("at the peak", f"{expected / MIB:,.2f}", f"{rehearsal.peak_bytes / MIB:,.2f}")
    if layout.pipeline > 1:  # a rank's part of several micro-batches
        table.add_row("TFLOP of the rank", "", f"{rehearsal.flops / 1e12:,.4f}")
        return table
    work = sum(part.hardware for part in work_per_row(footprint, layout).values())
    table.add_row(
        "TFLOP of a micro-batch",
        f"{work * layout.micro_batch / 1e12:,.4f}",
        f"{rehearsal.flops / 1e12:,.4f}",
    )
    return table


def draw_memory(plan: Plan, file: Path, *, title: str) -> None:
    """A bar for every stage, divided by kind, under the line of what there is."""
    bars = [stage.at_the_peak for stage in plan.memory]
    kinds = [kind for kind in bars[0] if any(bar[kind] > GIB / 20 for bar in bars)]
    figure = Figure(figsize=(10, 1.6 + 0.5 * len(plan.memory)), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    names = [f"stage {m.stage}\n{len(m.layers)} layers" for m in plan.memory]
    left = [0.0] * len(names)
    for number, kind in enumerate(kinds):
        sizes = [bar[kind] / GIB for bar in bars]
        hatch = "//" if number >= len(_COLOURS) else None
        colour = _COLOURS[number % len(_COLOURS)]
        axes.barh(names, sizes, left=left, label=kind, color=colour, hatch=hatch)
        left = [a + b for a, b in zip(left, sizes, strict=True)]
    axes.axvline(plan.memory[0].capacity / GIB, color="black", linestyle="--")
    axes.invert_yaxis()
    axes.set_xlabel("GiB per GPU; dashed: what there is")
    axes.set_title(title)
    figure.legend(loc="outside right upper", fontsize=8)
    figure.savefig(file, dpi=120)


# Okabe and Ito's, which all eyes tell apart.
_COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#F0E442", "#999999")


def _components(footprint: Footprint, plan: Plan) -> Table:
    table = Table(
        "component",
        "parameters",
        "trained",
        "useful GFLOP per item",
        "TFLOP per row",
        "with all",
        title=f"{footprint.name}: {footprint.rows:,} rows of {footprint.tokens_per_row:,} tokens",
        caption="an item is an image, a clip, or else a token; 'with all' adds what is repeated",
    )
    work = work_per_row(footprint, plan.layout)
    per_item = work_per_item(footprint, plan)
    for name, counts in parameters_of_components(footprint).items():
        figures = ["", "", ""]
        if name in work:
            one = work[name]
            figures = [
                f"{per_item[name] / 1e9:,.2f}",
                f"{one.useful / 1e12:,.2f}",
                f"{one.hardware / 1e12:,.2f}",
            ]
        table.add_row(name, f"{counts['parameters']:,}", f"{counts['trained']:,}", *figures)
    useful = sum(part.useful for part in work.values()) / 1e12
    hardware = sum(part.hardware for part in work.values()) / 1e12
    table.add_section()
    totals = f"{footprint.parameters:,}", f"{footprint.trained:,}"
    table.add_row("all", *totals, "", f"{useful:,.2f}", f"{hardware:,.2f}")
    return table


def _memory(plan: Plan) -> Table:
    heads = [f"stage {m.stage}: {len(m.layers)}" for m in plan.memory]
    table = Table("GiB per GPU", *heads, title=f"Memory, {settings(plan.layout)}")
    for kind in plan.memory[0].kinds:
        table.add_row(kind, *(f"{m.kinds[kind] / GIB:.2f}" for m in plan.memory))
    table.add_section()
    table.add_row("most at once", *(f"{m.total / GIB:.2f}" for m in plan.memory))
    table.add_row("free", *(f"{-m.excess / GIB:.2f}" for m in plan.memory))
    return table


def _traffic(plan: Plan) -> Table:
    table = Table("sent by a GPU in an update", "GiB", "seconds alone", title="Communication")
    for entry in plan.traffic:
        table.add_row(entry.kind, f"{entry.bytes / GIB:,.2f}", f"{entry.seconds:.2f}")
    return table


def _time(footprint: Footprint, plan: Plan, tokens: float) -> Table:
    pace, layout = plan.pace, plan.layout
    table = Table("time", "", title=f"{layout.gpus} {layout.gpu}")
    update = footprint.rows * footprint.tokens_per_row
    rows = {
        "micro-batches per update and rank": f"{plan.micro_batches}",
        "seconds per update": f"{pace.step_seconds:.2f}",
        "tokens per update": f"{update:,}",
        "tokens per second and GPU": f"{pace.tokens_per_second_per_gpu:,.0f}",
        "MFU, HFU": f"{pace.mfu:.1%}, {pace.hfu:.1%}",
        "slowest stage beside the average": f"{pace.imbalance:.3f}",
        **{f"idle share, {name}": f"{share:.1%}" for name, share in pace.bubbles.items()},
        f"days for {tokens:.3g} tokens": f"{pace.days(tokens, layout):,.1f}",
        "GPU-hours": f"{pace.gpu_hours(tokens, layout):,.0f}",
    }
    for name, value in rows.items():
        table.add_row(name, value)
    return table
