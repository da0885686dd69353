"""Figures of a run: sums on the device, one JSON object per logging step, speed and MFU.

`metrics.jsonl` holds losses, learning rate, gradient norm, a digest of all sample keys so far,
`speed/...` and whatever the task reports. Only `speed/...` and `memory/...` depend on the clock or
the machine: everything else is bit-equal after a resume.
"""

import json
import math
import resource
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from common.checkpoint.writing import disk_faults_told, flush_to_disk, write_whole

Record = dict[str, float | int | str | None]
# What a window holds of a figure -> its name in a record, and what it is divided by.
RATIOS = {
    "sum": ("loss", "count"),
    "negatives": ("negatives", "count"),
    "weight": ("weight", "present"),
}
DIVISORS = {divisor for _, divisor in RATIOS.values()}

# Dense bf16 peak in FLOP/s, from the makers' data sheets; first match in the device's name counts.
PEAK_FLOPS = {
    "H100 PCIe": 756e12,
    "H100 NVL": 835e12,
    "H100": 989e12,
    "H200": 989e12,
    "A100": 312e12,
}


def peak_flops(device: torch.device, precision: str) -> float | None:
    """FLOP/s the device could do in bf16, None when unknown or in another precision."""
    if device.type != "cuda" or precision != "bf16":
        return None
    name = torch.cuda.get_device_name(device)
    return next((peak for part, peak in PEAK_FLOPS.items() if part in name), None)


class Window:
    """Sums over the updates since the last record, kept on the device until a record asks.

    Updates that are skipped for a loss or gradient that is not finite count as skipped only.
    """

    def __init__(self, device: torch.device) -> None:
        # Apple's devices have no float64; the sums of a window still fit.
        self.dtype = torch.float32 if device.type == "mps" else torch.float64
        self.device = device
        self.totals: dict[str, Tensor] = {}
        self.losses: list[Tensor] = []  # of every update since they were last taken
        self.skips: list[Tensor] = []  # likewise
        self.skipped = torch.zeros(2, dtype=torch.int64, device=device)  # in all, in a row by now

    def add(self, figures: Mapping[str, Tensor], *, skip: Tensor) -> None:
        """Take in one update's figures, unless it is skipped (a bool on the device)."""
        for name, value in {**figures, "updates": torch.ones_like(skip)}.items():
            taken = torch.where(skip, 0.0, value.to(self.dtype))
            self.totals[name] = self.totals[name] + taken if name in self.totals else taken
        self.losses.append(figures["loss"].detach().to(self.dtype))
        self.skips.append(skip)
        in_all = self.skipped[0]
        reset = torch.stack([in_all, torch.zeros_like(in_all)])
        self.skipped = torch.where(skip, self.skipped + 1, reset)

    def take(self) -> Record:
        """Means since the last call, then start anew; the one place that waits for the device.

        `sum/x` and `count/x` become `loss/x`, their ratio, likewise negatives per pair and an
        objective's weight over the updates that have it; other figures are means over updates.
        """
        totals = self._values()
        self.totals = {}
        updates = totals.pop("updates", 0.0)
        record: Record = {}
        for name, value in totals.items():
            kind, _, term = name.partition("/")
            if kind in RATIOS:
                group, divisor = RATIOS[kind]
                record[f"{group}/{term}"] = _ratio(value, totals[f"{divisor}/{term}"])
            elif kind not in DIVISORS:
                record[name] = _ratio(value, updates)
        record["skipped_updates"] = int(self.skipped[0].item())
        return record

    def take_losses(self) -> list[float]:
        """The loss of every update since the last call; waits for the device."""
        losses, self.losses = self._listed(self.losses), []
        return losses

    def take_skips(self) -> list[bool]:
        """Whether each update since the last call was skipped; waits for the device."""
        skips, self.skips = self.skips, []
        return torch.stack(skips).tolist() if skips else []

    @property
    def skipped_in_row(self) -> int:
        """Updates skipped without a good one between; waits for the device."""
        return int(self.skipped[1].item())

    def to_json(self) -> dict[str, Any]:
        """Exact: a float's JSON text reads back as the same float."""
        return {
            "totals": self._values(),
            "losses": self._listed(self.losses),
            "skipped": self.skipped.tolist(),
        }

    def load(self, saved: Mapping[str, Any]) -> None:
        """Go on where `to_json` stopped."""
        self.totals = {name: self._on_device(value) for name, value in saved["totals"].items()}
        self.losses = [self._on_device(value) for value in saved["losses"]]
        self.skipped = torch.tensor(saved["skipped"], device=self.device)

    def _values(self) -> dict[str, float]:
        return dict(zip(self.totals, self._listed([*self.totals.values()]), strict=True))

    def _listed(self, numbers: list[Tensor]) -> list[float]:
        return torch.stack(numbers).tolist() if numbers else []

    def _on_device(self, number: float) -> Tensor:
        return torch.tensor(number, dtype=self.dtype, device=self.device)


class Pace:
    """Wall-clock figures since the last record; validation and checkpoints are not counted."""

    def __init__(self, *, peak: float | None, num_ranks: int) -> None:
        self.peak, self.num_ranks = peak, num_ranks
        self._restart()

    def _restart(self) -> None:
        self.start = time.perf_counter()
        self.tokens = 0
        self.flops = self.waited_s = 0.0
        self.updates = 0

    def add(self, *, tokens: int, flops: float) -> None:
        """One update's work, summed over ranks."""
        self.tokens += tokens
        self.flops += flops
        self.updates += 1

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """Time inside is spent waiting for data."""
        before = time.perf_counter()
        yield
        self.waited_s += time.perf_counter() - before

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Time inside does not count."""
        before = time.perf_counter()
        yield
        self.start += time.perf_counter() - before

    def take(self) -> Record:
        """Speed since the last call: per second over all ranks, MFU per device."""
        seconds = max(time.perf_counter() - self.start, 1e-9)
        flops = self.flops / seconds
        record: Record = {
            "speed/tokens_per_second": self.tokens / seconds,
            "speed/flops_per_second": flops,
            "speed/mfu": flops / self.num_ranks / self.peak if self.peak else None,
            "speed/data_wait_fraction": self.waited_s / seconds,
            "speed/seconds_per_update": seconds / max(self.updates, 1),
        }
        self._restart()
        return record


def host_memory() -> Record:
    """Largest memory of this process on the host so far."""
    return {"memory/host_gib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20}


def peak_memory(device: torch.device) -> Record:
    """Largest memory in use on a GPU so far."""
    if device.type != "cuda":
        return {}
    return {"memory/peak_gib": torch.cuda.max_memory_allocated(device) / 2**30}


class JsonLines:
    """A file of one JSON object per line, each with its `step`, at most one per step."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def append(self, record: Mapping[str, Any]) -> None:
        """Write one line; figures that are not finite become null, as JSON has no word for them."""
        clean = {key: _finite(value) for key, value in record.items()}
        line = json.dumps(clean, ensure_ascii=False, allow_nan=False) + "\n"
        with disk_faults_told(self.path), self.path.open("a", encoding="utf-8") as stream:
            stream.write(line)

    def forget_after(self, step: int) -> None:
        """Drop lines beyond a step, and a last line cut by a crash: they will be written again."""
        kept = [record for record in read_lines(self.path) if record["step"] <= step]
        text = "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in kept)
        write_whole(self.path, text)

    def flush_to_disk(self) -> None:
        """Make all lines survive a power failure."""
        with disk_faults_told(self.path):
            self.path.touch()
            flush_to_disk(self.path)


def read_lines(path: Path) -> list[dict[str, Any]]:
    """The records of a JSON-lines file; a last line without its end is left out."""
    if not path.exists():
        return []
    lines = path.read_text(encoding="utf-8").split("\n")
    return [json.loads(line) for line in lines[:-1]]


def last_figures(path: Path) -> dict[str, float]:
    """Every figure of a JSON-lines file as it was written last."""
    figures: dict[str, float] = {}
    for record in read_lines(path):
        figures |= {key: value for key, value in record.items() if isinstance(value, int | float)}
    return figures


def _ratio(total: float, count: float) -> float | None:
    return total / count if count else None


def _finite(value: object) -> object:
    return None if isinstance(value, float) and not math.isfinite(value) else value
