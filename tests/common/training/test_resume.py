"""The same command again: bit for bit what an unbroken run gives, or a clear refusal."""

import dataclasses
import json
import logging
import os
import platform
import re
import signal
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import torch

from common.checkpoint import storage
from common.checkpoint.folder import WrittenFile
from common.errors import UserError
from common.training.metrics import read_lines
from common.training.outcome import Outcome
from common.training.plots import write_plots
from common.training.run import RunConfig
from common.training.task import Computed
from common.training.trainer import Trainer
from tests.common.training.toy import (
    ToyBatch,
    ToyConfig,
    ToyExample,
    ToyModel,
    ToySource,
    ToyTask,
    toy,
)
from tests.distributed.launch import preloaded


@dataclass(frozen=True)
class InterruptedTask(ToyTask):
    """Sends the run a signal in the middle of one of its updates, twice, as launchers do."""

    after: int = 0  # updates of this process
    number: signal.Signals = signal.SIGTERM
    num_micro_batches: int = 1
    calls: list[int] = field(default_factory=list)

    def flops(self, model: ToyModel, source: str, batch: ToyBatch) -> float:
        self.calls.append(1)
        if len(self.calls) == self.after * self.num_micro_batches * len(self.sources()):
            os.kill(os.getpid(), self.number)
            os.kill(os.getpid(), self.number)
        return super().flops(model, source, batch)


def train(run: RunConfig[ToyConfig], folder: Path) -> Outcome:
    return Trainer(run, ToyTask(run.task), folder).train()


def results(folder: Path) -> tuple[list[dict[str, object]], bytes, bytes]:
    """Everything a run leaves that does not depend on the clock."""
    records = [
        {name: value for name, value in record.items() if not name.startswith("speed/")}
        for record in read_lines(folder / "metrics.jsonl")
    ]
    model = (folder / "model" / "model.safetensors").read_bytes()
    return records, model, (folder / "samples.jsonl").read_bytes()


@pytest.mark.proves("R5", "several times in one epoch, two micro-batches", 3)
def test_two_interruptions_in_one_epoch_leave_no_trace(tmp_path: Path) -> None:
    run = dataclasses.replace(toy(), num_micro_batches=2)
    train(run, tmp_path / "straight")
    # An epoch of 30 examples is 3.75 updates: steps 1 and 3 lie in the first, 8 in the third.
    for step, pause in ((1, 1), (3, 2), (8, 5)):
        task = InterruptedTask(run.task, pause, num_micro_batches=2)
        outcome = Trainer(run, task, tmp_path / "broken").train()
        assert (outcome.status, outcome.step, outcome.exit_status) == ("interrupted", step, 143)
    assert train(run, tmp_path / "broken").status == "completed"
    assert results(tmp_path / "broken") == results(tmp_path / "straight")


@pytest.mark.proves("R5", "between two records", 1)
def test_an_interruption_between_records_loses_no_figure(tmp_path: Path) -> None:
    run = dataclasses.replace(toy(), log_every=3)
    train(run, tmp_path / "straight")
    task = InterruptedTask(run.task, 4, signal.SIGINT)
    outcome = Trainer(run, task, tmp_path / "broken").train()
    assert (outcome.step, outcome.exit_status) == (4, 130)
    train(run, tmp_path / "broken")
    assert results(tmp_path / "broken") == results(tmp_path / "straight")


@dataclass(frozen=True)
class SignalledTask(ToyTask):
    """Sends the run a signal when something is done for the n-th time."""

    point: str = ""
    after: int = 0
    number: signal.Signals = signal.SIGUSR1
    done: list[str] = field(default_factory=list)

    def do(self, point: str) -> None:
        self.done.append(point)
        if point == self.point and self.done.count(point) == self.after:
            self.done.append("signal")
            os.kill(os.getpid(), self.number)

    def sources(self) -> Mapping[str, ToySource]:
        return {
            name: SignalledSource(**vars(source), do=self.do)
            for name, source in super().sources().items()
        }

    def compute(self, model: ToyModel, source: str, batch: ToyBatch) -> Computed:
        self.do("forward")
        return super().compute(model, source, batch)


@dataclass(frozen=True, kw_only=True)
class SignalledSource(ToySource):
    do: Callable[[str], None]

    def example(self, position: int) -> ToyExample:
        self.do("data")
        return super().example(position)


@pytest.mark.proves("R2", "three signals, in data, forward pass or save", 3)
@pytest.mark.parametrize(
    # An update reads 12 examples in 2 batches; a checkpoint, first after 4 updates, seals 3 files.
    ("point", "after"),
    [("data", 5 * 12 + 7), ("forward", 5 * 2 + 1), ("saving", 2)],
)
def test_a_signal_at_any_point_is_heeded_behind_the_step_that_it_falls_into(
    point: str, after: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train(toy(), tmp_path / "straight")
    seal_file = storage.seal_file
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1):
        task, broken = SignalledTask(ToyConfig(), point, after, number), tmp_path / number.name

        def seal_and_tell(path: Path, task: SignalledTask = task) -> WrittenFile:
            task.do("saving")
            return seal_file(path)

        with monkeypatch.context() as saving:
            saving.setattr(storage, "seal_file", seal_and_tell)
            outcome = Trainer(toy(), task, broken).train()
        assert (outcome.status, outcome.exit_status) == ("interrupted", 128 + number)
        updates_done = task.done[: task.done.index("signal")].count("forward") // 2
        assert outcome.step - updates_done in (0, 1)
        train(toy(), broken)
        assert results(broken) == results(tmp_path / "straight")


def test_every_start_is_on_record_with_its_end(tmp_path: Path) -> None:
    run = toy()
    Trainer(run, InterruptedTask(run.task, 5), tmp_path).train()

    class Failing(ToyTask):
        def monitor(self, model: ToyModel) -> dict[str, float]:
            raise ZeroDivisionError("of the test")

    with pytest.raises(ZeroDivisionError):
        Trainer(run, Failing(run.task), tmp_path).train()
    train(run, tmp_path)
    train(run, tmp_path)  # has nothing to do
    entries = json.loads((tmp_path / "run.json").read_text())
    assert [(e["from_step"], e["to_step"]) for e in entries] == [(0, 5), (5, 6), (5, 12)]
    assert [entry["exit_status"] for entry in entries] == [143, 1, 0]
    stopped, failed, finished = (entry["how"] for entry in entries)
    assert stopped.startswith("stopped by SIGTERM after step 5")
    assert failed == "ZeroDivisionError: of the test"
    assert finished.startswith("finished at step 12")
    for entry in entries:
        assert entry["devices"] == {f"cpu {platform.machine()}": 1}
        assert entry["mesh"]["shard"] == 1
        assert entry["versions"]["torch"] == torch.__version__
    log = (tmp_path / "logs" / "rank_00000.log").read_text()
    assert log.count("rank 0 of 1: process") == 3
    assert log.count("ZeroDivisionError: of the test") == log.count("Traceback") == 1
    # Two of the checkpoints are after whole fours of steps, the others at the interruption and end.
    assert [int(step) for step in re.findall(r"step_(\d+) written in", log)] == [4, 5, 8, 12]


SLOW = dataclasses.replace(toy(), task=ToyConfig(delay_s=0.015), num_workers=1)


def train_slowly(folder: Path) -> None:
    os.setsid()  # to be killed together with its worker
    train(SLOW, folder)


@pytest.mark.proves("R1", "with a worker for the data", 1)
@pytest.mark.slow
def test_a_killed_run_started_again_equals_the_unbroken_one(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    train(toy(), tmp_path / "straight")
    killed = tmp_path / "killed"
    process = preloaded().Process(target=train_slowly, args=(killed,))
    process.start()
    deadline = time.monotonic() + 300
    # The checkpoint of step 4 is there and step 6 is not: records beyond it must be undone.
    while len(read_lines(killed / "metrics.jsonl")) < 6 and time.monotonic() < deadline:
        time.sleep(0.005)
    os.killpg(process.pid, signal.SIGKILL)
    process.join()
    assert process.exitcode == -signal.SIGKILL
    assert not (killed / "model").exists()
    with caplog.at_level(logging.INFO, logger="common"):
        train(SLOW, killed)
    assert "continuing after step" in caplog.text
    assert results(killed) == results(tmp_path / "straight")


@pytest.mark.proves("R4", "a whole run behind a flipped bit", 1)
def test_a_damaged_checkpoint_is_named_and_the_one_before_it_used(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    run = toy()
    train(run, tmp_path / "straight")
    Trainer(run, InterruptedTask(run.task, 9), tmp_path / "broken").train()
    damaged = tmp_path / "broken" / "checkpoints" / "step_00000009" / "tensors_00000.safetensors"
    content = bytearray(damaged.read_bytes())
    content[-3] ^= 4
    damaged.write_bytes(content)
    with caplog.at_level(logging.WARNING, logger="common"):
        train(run, tmp_path / "broken")
    assert "step_00000009/tensors_00000.safetensors was changed" in caplog.text
    assert results(tmp_path / "broken") == results(tmp_path / "straight")


def test_another_configuration_is_refused_with_the_differences(tmp_path: Path) -> None:
    run = toy()
    train(run, tmp_path)
    optimizer = dataclasses.replace(run.optimizer, peak_learning_rate=0.04)
    other = dataclasses.replace(run, optimizer=optimizer, task=ToyConfig(hidden_dim=9))
    expected = r"hidden_dim 7 -> 9, optimizer.peak_learning_rate 0.02 -> 0.04; go back"
    with pytest.raises(UserError, match=expected):
        train(other, tmp_path)
    free = dataclasses.replace(run, num_workers=1, log_every=5)
    assert train(free, tmp_path).status == "already completed"


def test_another_frozen_model_is_refused(tmp_path: Path) -> None:
    class OtherFrozen(ToyTask):
        def build_model(self) -> ToyModel:
            model = super().build_model()
            model.frozen.weight.data[2, 3] += 1e-3
            return model

    run = toy()
    Trainer(run, InterruptedTask(run.task, 2), tmp_path).train()
    with pytest.raises(UserError, match=r"frozen part .* \(SHA-256 differs\)"):
        Trainer(run, OtherFrozen(run.task), tmp_path).train()


def test_a_complete_run_says_so_and_changes_nothing(tmp_path: Path) -> None:
    train(toy(), tmp_path)
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    outcome = train(toy(), tmp_path)
    assert (outcome.status, outcome.exit_status) == ("already completed", 0)
    assert before == {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}


def test_the_run_folder_holds_config_pictures_and_two_checkpoints(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("common.training.finish.write_plots", write_plots)
    train(toy(), tmp_path)
    assert json.loads((tmp_path / "config.json").read_text())["steps"] == 12
    saved = sorted(path.name for path in (tmp_path / "checkpoints").iterdir())
    assert saved == ["step_00000008", "step_00000012"]
    pictures = {path.stem for path in (tmp_path / "plots").glob("*.png")}
    expected = {"losses", "learning_rate", "gradient_norm", "throughput", "validation", "norm"}
    assert pictures == expected
