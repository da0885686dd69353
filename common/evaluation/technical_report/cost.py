"""Chapter: time, device-hours and energy, from the wall time and the devices that each start of a
run has recorded."""

from dataclasses import dataclass

from common.evaluation.technical_report.document import (
    NOT_RECORDED,
    Chapter,
    Inline,
    Origin,
    Shown,
    Table,
    paragraph,
)
from common.evaluation.technical_report.inputs import Inputs, Run
from common.evaluation.technical_report.sources import fixed, shown

HOUR_S = 3600
JOULES_PER_KWH = 3.6e6


@dataclass(frozen=True, kw_only=True)
class Power:
    """What a device draws at most, by its maker."""

    device: str  # in its name
    watts: float
    source: str


# The first whose name is part of a device's counts.
POWERS = (
    Power(
        device="A100-PCIE-40GB",
        watts=250.0,
        source="https://www.thundercompute.com/blog/nvidia-a100-specs-full-guide",
    ),
    Power(
        device="A100 80GB PCIe",
        watts=300.0,
        source="https://www.thundercompute.com/blog/nvidia-a100-specs-full-guide",
    ),
    Power(
        device="A100",
        watts=400.0,
        source="NVIDIA's A100 data sheet, by https://glennklockwood.com/garden/processors/A100",
    ),
    Power(
        device="H100 PCIe",
        watts=350.0,
        source="NVIDIA's product brief PB-11133-001_v02 of the H100 PCIe",
    ),
)


def power_of(device: str, inputs: Inputs) -> Power | None:
    """What its data sheet tells, or else what the reader of the meter says (`--power-w`)."""
    known = next((power for power in POWERS if power.device.lower() in device.lower()), None)
    if known is None and inputs.power_w is not None:
        return Power(device=device, watts=inputs.power_w, source="--power-w")
    return known


def cost(inputs: Inputs) -> Chapter | None:
    """A row for each run; None without runs."""
    if not inputs.runs:
        return None
    rows = tuple(_row(run, inputs) for run in inputs.runs)
    table = Table(
        headings=("run", "starts", "hours", "device", "device-hours", "W each", "kWh"),
        rows=rows,
        caption="Time, devices and energy of the runs.",
        words=(0, 3),
        notes=tuple(_notes(inputs)),
    )
    evaluations = paragraph(
        "Time and energy of evaluations and of tuning rounds: ", NOT_RECORDED, "."
    )
    return Chapter(title="Cost", blocks=(table, evaluations))


def finished_starts(run: Run) -> list[Origin]:
    """The starts whose end is recorded."""
    if run.starts is None:
        return []
    ended = [place for place, start in enumerate(run.starts.data) if "ended" in start]
    return [Origin(file=run.starts.file, key=(place,)) for place in ended]


def _row(run: Run, inputs: Inputs) -> tuple[Inline, ...]:
    if run.starts is None:
        whole = [Origin(file=run.metrics.file, key=())]
        hours = shown(whole, rule="update seconds", factor=1 / HOUR_S, form=fixed(2))
        unknown = (NOT_RECORDED,) * 4
        return run.name, NOT_RECORDED, hours, *unknown
    starts = shown([Origin(file=run.starts.file, key=())], rule="number", form=str)
    ended = finished_starts(run)
    devices = _devices(run)
    device = None if devices is None else str(devices.value)
    if not ended:
        return run.name, starts, NOT_RECORDED, devices or NOT_RECORDED, *(NOT_RECORDED,) * 3
    power = None if device is None else power_of(device, inputs)
    watts, energy = None, None
    if power is not None:
        watts = Shown(text=f"{power.watts:g}", value=power.watts, citation=power.source)
        energy = shown(
            ended, rule="device seconds", factor=power.watts / JOULES_PER_KWH, form=fixed(4)
        )
    return (
        run.name,
        starts,
        shown(ended, rule="seconds", factor=1 / HOUR_S, form=fixed(2)),
        devices or NOT_RECORDED,
        shown(ended, rule="device seconds", factor=1 / HOUR_S, form=fixed(2)),
        watts,
        energy,
    )


def _devices(run: Run) -> Shown | None:
    """The kind of device of the last start; a rank has one."""
    if run.starts is None:
        return None
    last = len(run.starts.data) - 1
    devices = run.starts.at(last, "devices")
    if not devices:
        return None
    return shown([Origin(file=run.starts.file, key=(last, "devices"))], rule="first name")


def _notes(inputs: Inputs) -> list[str]:
    notes = []
    if any(run.starts is None for run in inputs.runs):
        notes.append(
            "A run older than run.json: hours are those of its updates alone, summed from its "
            "metrics, without validations and checkpoints; its device is not recorded."
        )
    if any(len(finished_starts(run)) < len(run.starts.data) for run in inputs.runs if run.starts):
        notes.append("A start whose end is not recorded (killed, or running still) counts nothing.")
    notes.append(
        "W is the most that the maker states, so kWh are at most those of the devices, without "
        "hosts, network and cooling. A CPU has no such figure here: give `--power-w`."
    )
    return notes
