"""R6: where a loss, a gradient, one source or the input is not finite, on whatever rank, the update
is left out on every rank, weights and moments stay as they were, and the samples are on record."""

import dataclasses
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from common.training.metrics import read_lines
from common.training.run import CheckpointConfig, RunConfig
from common.training.task import Computed
from common.training.trainer import Trainer
from tests.common.training.toy import ToyBatch, ToyConfig, ToyModel, ToyTask, toy
from tests.matrix import Counted
from tests.reliability.small_runs import Death, start, wait_for

BAD_UPDATE = 3
PLACES = ("input", "loss", "gradient", "source")


class Factor(torch.autograd.Function):
    """Changes the gradient alone."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, factor: float) -> Tensor:
        ctx.factor = factor
        return x.clone()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return gradient * ctx.factor, None


@dataclass(frozen=True, kw_only=True)
class BadTask(ToyTask):
    """Spoils what it computes of some updates, if need be on one rank only."""

    config: ToyConfig = dataclasses.field(default_factory=ToyConfig)
    place: str = "loss"
    values: dict[int, float]  # by update
    rows: int  # of a rank in an update
    endless_from: int = 99
    rank: str = "0"

    def compute(self, model: ToyModel, source: str, batch: ToyBatch) -> Computed:
        update = int(model.seen) // self.rows + 1
        value = self.values.get(update, torch.nan if update >= self.endless_from else None)
        if value is None or os.environ.get("RANK", "0") != self.rank:
            return super().compute(model, source, batch)
        if self.place == "input":
            batch = dataclasses.replace(batch, inputs=batch.inputs * value)
        loss = super().compute(model, source, batch).losses["squared"]
        if self.place == "gradient":
            loss = Factor.apply(loss, value)
        elif self.place == "loss" or (self.place == "source" and source == "cosine"):
            loss = loss * value
        return Computed(losses={"squared": loss})


def every_step(**changes: Any) -> RunConfig[ToyConfig]:
    checkpoint = CheckpointConfig(every_steps=1, keep=20)
    return dataclasses.replace(
        toy(), checkpoint=checkpoint, validate_every=None, sample_every=None, **changes
    )


def learned(folder: Path, *, step: int) -> dict[str, Tensor]:
    """Weights and moments, without the generators and the toy's own count of rows."""
    tensors = load_file(folder / f"checkpoints/step_{step:08d}/tensors_00000.safetensors")
    return {n: t for n, t in tensors.items() if not n.startswith("random.") and n != "model.seen"}


def noted(folder: Path, *, rank: int = 0) -> dict[int, list[str]]:
    """The updates that a rank's log names, with their samples."""
    log = (folder / "logs" / f"rank_{rank:05d}.log").read_text()
    found = re.findall(r"update (\d+) is not finite and left out; read: \[(.*)\]", log)
    return {int(number): keys.split(", ") for number, keys in found}


@pytest.mark.slow
@pytest.mark.parametrize("place", PLACES)
def test_whatever_is_not_finite_leaves_weights_and_moments_as_they_were(
    place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, counted: Counted
) -> None:
    monkeypatch.setattr("common.training.finish.write_plots", lambda metrics, folder: [])
    for value in (torch.nan, torch.inf):
        folder = tmp_path / str(value)
        task = BadTask(place=place, values={BAD_UPDATE: value}, rows=12)
        Trainer(every_step(steps=5), task, folder).train()
        before, after, later = (learned(folder, step=step) for step in (2, 3, 4))
        assert len(before) > 20
        assert all(torch.equal(before[name], after[name]) for name in before)
        assert not torch.equal(after["model.hidden.weight"], later["model.hidden.weight"])
        assert all(tensor.isfinite().all() for tensor in later.values())
        records = read_lines(folder / "metrics.jsonl")
        assert [record["skipped_updates"] for record in records] == [0, 0, 1, 1, 1]
        (keys,) = noted(folder).values()
        assert list(noted(folder)) == [BAD_UPDATE]
        assert len(keys) == 12
    counted("R6", f"NaN and infinity, {place}", 2)


def two_ranks() -> RunConfig[ToyConfig]:
    optimizer = dataclasses.replace(toy().optimizer, max_skipped_in_row=2)
    return every_step(optimizer=optimizer)


def bad_second_rank(run: RunConfig[ToyConfig]) -> BadTask:
    values = {2: torch.nan, 4: torch.inf}
    return BadTask(config=run.task, values=values, rows=6, endless_from=7, rank="1")


@pytest.mark.slow
def test_what_one_rank_meets_every_rank_leaves_out_and_all_stop_together(
    tmp_path: Path, counted: Counted
) -> None:
    run = tmp_path / "run"
    processes = start((two_ranks, bad_second_rank), run, deaths=[Death()] * 2)
    assert wait_for(processes, grace_s=30) == [2, 2]
    assert [[*noted(run, rank=rank)] for rank in (0, 1)] == [[2, 4, 7, 8]] * 2
    for step in (2, 4, 7):
        before, after = (learned(run, step=number) for number in (step - 1, step))
        assert all(torch.equal(before[name], after[name]) for name in before)
    records = read_lines(run / "metrics.jsonl")
    assert [record["skipped_updates"] for record in records] == [0, 1, 1, 2, 2, 2, 3]
    line = (tmp_path / "run.output_0").read_text().splitlines()[-1]
    assert line.startswith("error: the loss or gradient was not finite in the last 2 updates")
    assert "error" not in (tmp_path / "run.output_1").read_text()
    counted("R6", "one of two ranks: twice for one update, once for ever", 3)
