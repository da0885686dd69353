"""Chapter: what a full size would need, by `scripts/plan.py`. Nothing in it was run."""

from common.evaluation.technical_report.cost import power_of
from common.evaluation.technical_report.document import (
    Block,
    Bullets,
    Chapter,
    Heading,
    Inline,
    Table,
    paragraph,
)
from common.evaluation.technical_report.inputs import Inputs
from common.evaluation.technical_report.sources import Source, fixed, number

GIB, GIGA, TERA = 2**30, 1e9, 1e12


def planned(inputs: Inputs) -> Chapter | None:
    """Parameters, memory, work and time of every plan; None without plans."""
    if not inputs.plans:
        return None
    blocks: list[Block] = [
        paragraph(
            "Everything in this chapter is planned, not run: counted on the real model without "
            "memory, and timed with an assumed share of the device's peak."
        )
    ]
    for plan in inputs.plans:
        blocks += [Heading(f"{plan.data['model']} — planned, not run"), _components(plan)]
        blocks += [_needs(plan, inputs), _memory(plan)]
        if plan.data["contradictions"]:
            said = tuple((line,) for line in plan.data["contradictions"])
            blocks += [paragraph("Of what was published of this run, this is not possible:")]
            blocks += [Bullets(said)]
    return Chapter(title="Planned sizes", blocks=tuple(blocks))


def _components(plan: Source) -> Table:
    rows = [
        (
            name,
            plan.shown("components", name, "parameters", form=number),
            plan.shown("components", name, "trained", form=number),
            plan.shown("flops_per_item", name, factor=1 / GIGA, form=fixed(2)) or "",
            plan.shown("flops_per_row", name, "useful", factor=1 / TERA, form=fixed(2)) or "",
        )
        for name in plan.data["components"]
    ]
    whole = (
        "all",
        plan.shown("parameters", form=number),
        plan.shown("trained", form=number),
        "",
        "",
    )
    return Table(
        headings=("component", "parameters", "trained", "GFLOP per item", "TFLOP per row"),
        rows=(*rows, whole),
        caption=f"Parameters and useful work of {plan.data['model']} — planned, not run.",
        notes=("An item is an image, a clip, or else a token.",),
        emphasised=(len(rows),),
    )


def _needs(plan: Source, inputs: Inputs) -> Table:
    gpu = str(plan.data["layout"]["gpu"])
    power = power_of(gpu, inputs)
    layout = ("pipeline", "replicate", "shard", "micro_batch", "recompute")
    rows: list[tuple[Inline, ...]] = [
        ("devices", plan.shown("layout", "gpus", form=number)),
        ("kind of device", plan.shown("layout", "gpu")),
        *((name.replace("_", " "), plan.shown("layout", name)) for name in layout),
        ("seconds per update", plan.shown("pace", "step_seconds", form=fixed(2))),
        ("MFU", plan.shown("pace", "mfu", factor=100, form=fixed(1, " %"))),
        ("tokens", plan.shown("tokens", form=number)),
        ("days", plan.shown("days", form=fixed(1))),
        ("GPU-hours", plan.shown("gpu_hours", form=fixed(0))),
    ]
    notes: tuple[str, ...] = ()
    if power is not None:
        energy = plan.shown("gpu_hours", factor=power.watts / 1e6, form=fixed(1, " MWh"))
        rows.append(("energy of the devices, at most", energy))
        notes = (f"{power.watts:g} W each: {power.source}.",)
    return Table(
        headings=("what it needs", "planned"),
        rows=tuple(rows),
        caption=f"Layout, pace and cost of {plan.data['model']} — planned, not run.",
        notes=notes,
    )


def _memory(plan: Source) -> Table:
    stages = plan.data["memory"]
    kinds = [kind for kind in stages[0]["kinds"] if any(s["kinds"][kind] for s in stages)]

    def gib(*key: str | int) -> Inline:
        return plan.shown("memory", *key, factor=1 / GIB, form=fixed(2))

    places = range(len(stages))
    rows = [(kind, *(gib(place, "kinds", kind) for place in places)) for kind in kinds]
    rows.append(("most at once", *(gib(place, "total") for place in places)))
    rows.append(("there is", *(gib(place, "capacity") for place in places)))
    return Table(
        headings=("GiB per device", *(f"stage {stage['stage']}" for stage in stages)),
        rows=tuple(rows),
        caption=f"Memory of {plan.data['model']} — planned, not run.",
        emphasised=(len(rows) - 2,),
    )
