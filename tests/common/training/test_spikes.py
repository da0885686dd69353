"""A loss spike is undone: weights of before it, data of after it, as if bad data had not been."""

import dataclasses
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest

from common.errors import UserError
from common.training.metrics import read_lines
from common.training.outcome import Outcome
from common.training.run import HealthConfig, RunConfig
from common.training.trainer import Trainer
from tests.common.training.test_resume import InterruptedTask, results
from tests.common.training.toy import ToyConfig, ToyExample, ToySource, ToyTask, toy

STEPS, FIRST_BAD, RESTORED, JUDGED = 20, 11, 8, 12


def run_of(**health: float | None) -> RunConfig[ToyConfig]:
    """A checkpoint after every fourth step, a judgement after every second."""
    settings = {"spike_factor": 4.0, "spike_updates": 2, "spike_window": 5, **health}
    return dataclasses.replace(
        toy(), steps=STEPS, validate_every=None, sample_every=None,
        health=HealthConfig(**settings),
    )  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class WildSource(ToySource):
    bad: range  # updates

    def example(self, position: int) -> ToyExample:
        example = super().example(position)
        is_bad = position // self.batch_size + 1 in self.bad
        return dataclasses.replace(example, target=example.target + 50.0 * is_bad)


@dataclass(frozen=True, kw_only=True)
class LeapingSource(ToySource):
    """Without the updates from RESTORED to JUDGED."""

    def example(self, position: int) -> ToyExample:
        leap = (JUDGED - RESTORED) * self.batch_size
        return super().example(position + leap * (position >= RESTORED * self.batch_size))


@dataclass(frozen=True)
class WildTask(InterruptedTask):
    bad: range = range(FIRST_BAD, JUDGED + 1)

    def sources(self) -> Mapping[str, ToySource]:
        sources = super().sources()
        return {n: WildSource(**vars(source), bad=self.bad) for n, source in sources.items()}


class LeapingTask(ToyTask):
    def sources(self) -> Mapping[str, ToySource]:
        return {name: LeapingSource(**vars(s)) for name, s in super().sources().items()}


def train(task: ToyTask, folder: Path, **health: float | None) -> Outcome:
    return Trainer(run_of(**health), task, folder).train()


def test_a_spike_leaves_no_trace_but_the_data_that_were_passed_over(tmp_path: Path) -> None:
    train(WildTask(ToyConfig()), tmp_path / "wild")
    train(LeapingTask(ToyConfig()), tmp_path / "leaping")
    (records, model, _), (expected, expected_model, _) = (
        results(tmp_path / name) for name in ("wild", "leaping")
    )
    assert model == expected_model
    assert [record["roll_backs"] for record in records] == [0] * RESTORED + [1] * 12
    for record, other in zip(records, expected, strict=True):
        for key in ("keys", "roll_backs"):
            del record[key], other[key]
    assert records == expected


@pytest.mark.proves("R5", "in a loss spike and behind it", 2)
@pytest.mark.parametrize("pauses", [(11, 3), (12, 1, 4)])
def test_a_run_stopped_in_a_spike_and_behind_it_resumes_exactly(
    pauses: tuple[int, ...], tmp_path: Path
) -> None:
    train(WildTask(ToyConfig()), tmp_path / "straight")
    for after in pauses:
        outcome = train(WildTask(ToyConfig(), after), tmp_path / "broken")
        assert outcome.status == "interrupted"
    train(WildTask(ToyConfig()), tmp_path / "broken")
    assert results(tmp_path / "broken") == results(tmp_path / "straight")


def test_spikes_without_end_end_the_run_with_one_line(tmp_path: Path) -> None:
    endless = WildTask(ToyConfig(), bad=range(FIRST_BAD, 99))
    with pytest.raises(UserError, match=r"from step 9 to step 10, after 1 roll-backs; look at"):
        train(endless, tmp_path, max_roll_backs=1)
    # Data that were mended behind the place of the roll-back let the same run go on.
    assert train(ToyTask(ToyConfig()), tmp_path, max_roll_backs=1).status == "completed"
    assert read_lines(tmp_path / "metrics.jsonl")[-1]["roll_backs"] == 1


def test_without_a_checkpoint_before_the_spike_training_goes_on_and_says_so(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    run = run_of()
    run = dataclasses.replace(run, checkpoint=dataclasses.replace(run.checkpoint, every_steps=99))
    with caplog.at_level(logging.INFO, logger="common"):
        assert Trainer(run, WildTask(ToyConfig()), tmp_path).train().status == "completed"
    assert "spiked from step 11 to step 12, and no checkpoint lies before it" in caplog.text


def test_no_factor_means_no_roll_back(tmp_path: Path) -> None:
    train(WildTask(ToyConfig()), tmp_path, spike_factor=None)
    losses = [record["loss"] for record in read_lines(tmp_path / "metrics.jsonl")]
    assert min(losses[FIRST_BAD - 1 : JUDGED]) > 4 * max(losses[5 : FIRST_BAD - 1])
