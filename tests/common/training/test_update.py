"""One update against the formula written out by hand, and what must not change its result."""

import dataclasses
import json
from pathlib import Path

import pytest
import torch
from accelerate.utils import set_seed
from safetensors.torch import load_file
from torch import Tensor

from common.errors import UserError
from common.training.metrics import read_lines
from common.training.optimizer import build_optimizer
from common.training.run import CheckpointConfig, OptimizerConfig, RunConfig
from common.training.task import ParameterGroup
from common.training.trainer import Trainer
from tests.common.training.toy import ToyConfig, ToyModel, ToyTask, toy

CALM = ToyConfig(dropout=0.0)


def weights_after(run: RunConfig[ToyConfig], folder: Path) -> dict[str, Tensor]:
    Trainer(run, ToyTask(run.task), folder).train()
    return load_file(folder / "model" / "model.safetensors")


def saved_weights(folder: Path, *, step: int) -> dict[str, Tensor]:
    tensors = load_file(folder / f"checkpoints/step_{step:08d}/tensors_00000.safetensors")
    names = [name for name in tensors if name.startswith("model.")]
    return {name.removeprefix("model."): tensors[name] for name in names}


def losses(folder: Path) -> list[float]:
    return [record["loss"] for record in read_lines(folder / "metrics.jsonl")]


def reference_update(run: RunConfig[ToyConfig]) -> tuple[float, float, dict[str, Tensor]]:
    """Loss, gradient norm and weights after one update, with nothing but formulas."""
    set_seed(run.seed)
    task = ToyTask(run.task)
    model = task.build_model()
    total = torch.zeros(())
    for name, source in task.sources().items():
        batch = source.collate([source.example(p) for p in range(source.batch_size)])
        error = model.predict(batch.inputs, head=name) - batch.targets
        total = total + source.weight * (error.square() * batch.valid).sum() / batch.valid.sum()
    total.backward()
    norm = sum(p.grad.square().sum().item() for p in model.parameters() if p.grad is not None)
    norm = norm**0.5
    scale = min(1.0, run.optimizer.clip_norm / norm)
    with torch.no_grad():
        for group in task.parameter_groups(model):
            for parameter in group.parameters:
                assert parameter.grad is not None
                gradient = parameter.grad * scale
                # Adam's first update: both moments, corrected for bias, are g and g squared.
                step = gradient / (gradient.abs() + run.optimizer.eps)
                rate = run.optimizer.peak_learning_rate / run.schedule.warmup_steps
                parameter.sub_(rate * (step + group.weight_decay * parameter))
    return total.item(), norm, model.state_dict()


def test_an_update_weighs_both_sources_clips_one_norm_and_decays_by_group(tmp_path: Path) -> None:
    # A large eps makes Adam's step depend on the gradient's size, hence on the clipping.
    optimizer = OptimizerConfig(peak_learning_rate=0.3, clip_norm=0.5, eps=0.1)
    run = dataclasses.replace(
        toy(), task=CALM, optimizer=optimizer, steps=4, validate_every=None,
        checkpoint=CheckpointConfig(every_steps=1, keep=4),
    )  # fmt: skip
    Trainer(run, ToyTask(CALM), tmp_path).train()
    first = saved_weights(tmp_path, step=1)
    loss, norm, expected = reference_update(run)
    record = read_lines(tmp_path / "metrics.jsonl")[0]
    assert norm > 2 * optimizer.clip_norm
    assert record["loss"] == pytest.approx(loss, rel=1e-5)
    assert record["gradient_norm"] == pytest.approx(norm, rel=1e-5)
    trained = [name for name in first if name != "seen"]
    assert len(trained) == 6
    for name in trained:
        torch.testing.assert_close(first[name], expected[name], rtol=1e-5, atol=1e-6)


def test_micro_batches_give_the_result_of_one_batch(tmp_path: Path) -> None:
    run = dataclasses.replace(toy(), task=CALM)
    whole = weights_after(run, tmp_path / "whole")
    parts = weights_after(dataclasses.replace(run, num_micro_batches=4), tmp_path / "parts")
    assert losses(tmp_path / "whole") == pytest.approx(losses(tmp_path / "parts"), rel=1e-5)
    torch.testing.assert_close(whole, parts, rtol=1e-4, atol=1e-5)


def test_records_cover_all_updates_since_the_last_one(tmp_path: Path) -> None:
    run = dataclasses.replace(toy(), validate_every=None)
    weights_after(run, tmp_path / "each")
    weights_after(dataclasses.replace(run, log_every=4), tmp_path / "fourth")
    each = losses(tmp_path / "each")
    means = [sum(each[i : i + 4]) / 4 for i in (0, 4, 8)]
    assert losses(tmp_path / "fourth") == pytest.approx(means, rel=1e-6)


def test_looking_at_the_model_changes_no_weight(tmp_path: Path) -> None:
    watched = weights_after(toy(), tmp_path / "watched")
    run = dataclasses.replace(toy(), validate_every=None, sample_every=None)
    alone = weights_after(run, tmp_path / "alone")
    assert all(torch.equal(watched[name], alone[name]) for name in watched)


@pytest.mark.proves("R6", "NaN in an input", 1)
def test_an_update_that_is_not_finite_is_skipped_and_counted(tmp_path: Path) -> None:
    # Position 17 is read by the third update of 8 examples.
    run = dataclasses.replace(
        toy(), task=ToyConfig(broken_position=17),
        checkpoint=CheckpointConfig(every_steps=1, keep=12),
    )  # fmt: skip
    final = weights_after(run, tmp_path)
    saved = [saved_weights(tmp_path, step=step) for step in (1, 2, 3, 4)]
    name = "hidden.weight"
    assert torch.equal(saved[1][name], saved[2][name])
    assert not torch.equal(saved[0][name], saved[1][name])
    assert not torch.equal(saved[2][name], saved[3][name])
    assert all(tensor.isfinite().all() for tensor in final.values())
    records = read_lines(tmp_path / "metrics.jsonl")
    assert [record["skipped_updates"] for record in records] == [0, 0] + [1] * 10
    assert [record["step"] for record in records if record["loss"] is None] == [3]
    state = json.loads((tmp_path / "checkpoints/step_00000012/state.json").read_text())
    assert state["parts"]["window"]["skipped"] == [1, 0]


@pytest.mark.proves("R6", "gradients that overflow without end", 1)
def test_endless_skipping_ends_the_run_with_advice(tmp_path: Path) -> None:
    optimizer = dataclasses.replace(toy().optimizer, peak_learning_rate=1e38, clip_norm=1e30)
    run = dataclasses.replace(
        toy(), optimizer=dataclasses.replace(optimizer, max_skipped_in_row=3), steps=12
    )
    with pytest.raises(UserError, match=r"last 3 updates, to step \d+; lower optimizer.peak"):
        Trainer(run, ToyTask(run.task), tmp_path).train()


def test_bf16_keeps_weights_and_losses_in_single_precision(tmp_path: Path) -> None:
    run = dataclasses.replace(toy(), task=CALM, steps=6)
    exact = weights_after(run, tmp_path / "fp32")
    rounded = weights_after(dataclasses.replace(run, precision="bf16"), tmp_path / "bf16")
    assert all(tensor.dtype == torch.float32 for tensor in rounded.values())
    assert losses(tmp_path / "bf16") != losses(tmp_path / "fp32")
    assert losses(tmp_path / "bf16") == pytest.approx(losses(tmp_path / "fp32"), rel=0.05)
    assert not torch.equal(exact["hidden.weight"], rounded["hidden.weight"])


def test_a_run_stops_when_validation_no_longer_improves(tmp_path: Path) -> None:
    run = dataclasses.replace(
        toy(), validate_every=2, stop_patience=2, stop_min_delta=100.0, sample_every=None
    )
    outcome = Trainer(run, ToyTask(run.task), tmp_path).train()
    # The first validation is the best by definition; the next two are no better.
    assert (outcome.status, outcome.step) == ("completed", 6)
    again = Trainer(run, ToyTask(run.task), tmp_path).train()
    assert again.status == "already completed"


def test_a_trainable_parameter_without_a_group_is_refused() -> None:
    model = ToyModel(ToyConfig())
    group = ParameterGroup(
        name="hidden", parameters=[*model.hidden.parameters()][:1], weight_decay=0.1
    )
    with pytest.raises(ValueError, match=r"in no parameter group: .*hidden.bias"):
        build_optimizer(model, [group], toy().optimizer)
    frozen = ParameterGroup(name="all", parameters=[*model.parameters()], weight_decay=0.1)
    with pytest.raises(ValueError, match=r"not trainable: frozen"):
        build_optimizer(model, [frozen], toy().optimizer)
