"""Contrastive terms over a whole update, whatever it is cut into; weighted objectives."""

import json
from collections.abc import Mapping
from pathlib import Path

import pytest
import torch
from accelerate.utils import set_seed
from safetensors.torch import load_file
from torch import Tensor

from common.training.balance import Balance
from common.training.gather import gather_rows
from common.training.metrics import read_lines
from common.training.task import Pairs, Task
from common.training.trainer import Trainer
from tests.common.training.contrast_toy import (
    APART,
    IMAGES,
    MIXED,
    ContrastBatch,
    ContrastConfig,
    ContrastModel,
    ContrastTask,
    contrast_run,
    first_update,
    named_gradients,
)


def reference(config: ContrastConfig) -> tuple[float, dict[str, Tensor]]:
    """Loss and gradients of the first update in one batch, with nothing but formulas."""
    set_seed(0)
    task = ContrastTask(config)
    model = task.build_model()
    source = task.sources()["all"]
    batch = source.collate([source.example(position) for position in range(16)])
    error = model.head(model.text(batch.captions).tanh()).squeeze(-1).square()
    loss = 0.3 * error[batch.masked].mean() + 0.7 * error[~batch.masked].mean()
    for kind in ("image", "audio"):
        if len(batch.media[kind]) == 0:
            continue
        media = torch.nn.functional.normalize(model.towers[kind](batch.media[kind]).tanh(), dim=-1)
        captions = model.text(batch.captions[batch.rows[kind]]).sin()
        text = torch.nn.functional.normalize(captions, dim=-1)
        ids = batch.caption_ids[batch.rows[kind]]
        alike = (ids[:, None] == ids[None, :]) & ~torch.eye(len(ids), dtype=torch.bool)
        logits = model.log_scales[kind].exp() * media @ text.T
        logits = logits.masked_fill(alike, -torch.inf)
        targets = torch.arange(len(ids))
        both = [torch.nn.functional.cross_entropy(table, targets) for table in (logits, logits.T)]
        loss = loss + torch.stack(both).mean()
    loss = 0.8 * loss
    loss.backward()
    return loss.item(), named_gradients(model)


def assert_equals_reference(result: Mapping[str, Tensor], pattern: str) -> None:
    loss, gradients = reference(ContrastConfig(pattern=pattern))
    assert abs(result["loss"].item() - loss) < 1e-10
    for name, gradient in gradients.items():
        torch.testing.assert_close(result[name], gradient, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("num_micro_batches", [1, 2, 8])
def test_micro_batches_contrast_the_whole_update(num_micro_batches: int, tmp_path: Path) -> None:
    run = contrast_run(ContrastConfig(), num_micro_batches=num_micro_batches)
    result = first_update(run, tmp_path)
    assert_equals_reference(result, MIXED)
    assert len(reference(run.task)[1]) == 10


def test_negatives_are_counted_without_equal_captions(tmp_path: Path) -> None:
    result = first_update(contrast_run(ContrastConfig(), num_micro_batches=4), tmp_path)
    ids = [position % 7 for position in range(16) if MIXED[position] == "i"]
    negatives = sum(a != b for a in ids for b in ids)
    assert result["negatives/all/image_text"].item() == pytest.approx(negatives / len(ids))


def test_an_objective_without_pairs_dilutes_no_other(tmp_path: Path) -> None:
    result = first_update(
        contrast_run(ContrastConfig(pattern=IMAGES), num_micro_batches=2), tmp_path
    )
    assert_equals_reference(result, IMAGES)
    assert not result["towers.audio.weight"].any()


class Watched(ContrastTask):
    """Keeps the vectors of both passes."""

    def __init__(self, config: ContrastConfig) -> None:
        super().__init__(config)
        self.seen: list[Tensor] = []

    def pairs(self, model: ContrastModel, source: str, batch: ContrastBatch) -> Mapping[str, Pairs]:
        pairs = super().pairs(model, source, batch)
        self.seen.append(pairs["image_text"].text.detach())
        return pairs


def test_both_passes_over_a_micro_batch_meet_the_same_dropout(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    task = Watched(ContrastConfig(pattern="i" * 16, dropout=0.5))
    run = contrast_run(task.config, num_micro_batches=2)
    monkeypatch.setattr("tests.common.training.contrast_toy.ContrastTask", lambda config: task)
    first_update(run, tmp_path)
    once, twice, once_again, twice_again = task.seen
    assert torch.equal(once, once_again)
    assert torch.equal(twice, twice_again)
    assert not torch.equal(once == 0, twice == 0)  # sin(0): where dropout fell


def results(folder: Path) -> tuple[list[dict[str, object]], bytes]:
    records = [
        {name: value for name, value in record.items() if not name.startswith("speed/")}
        for record in read_lines(folder / "metrics.jsonl")
    ]
    return records, (folder / "model" / "model.safetensors").read_bytes()


def train(config: ContrastConfig, folder: Path, *, num_micro_batches: int = 2) -> None:
    run = contrast_run(config, num_micro_batches=num_micro_batches)
    Trainer(run, ContrastTask(config), folder).train()


def test_fixed_weights_of_one_change_no_bit(tmp_path: Path) -> None:
    ones = dict.fromkeys(ContrastConfig().base, 1.0)
    train(ContrastConfig(), tmp_path / "none")
    train(ContrastConfig(weighting="fixed", base=ones), tmp_path / "fixed")
    plain, weights = results(tmp_path / "none")
    weighted, same_weights = results(tmp_path / "fixed")
    assert same_weights == weights
    for record, other in zip(plain, weighted, strict=True):
        assert record.items() <= other.items()
        assert other["weight/image_text"] == 1.0


def test_weights_multiply_the_gradient_of_their_objective(tmp_path: Path) -> None:
    only = {"language": 0.0, "image_text": 1.0, "audio_text": 0.0}
    config = ContrastConfig(weighting="fixed", base=only)
    once = first_update(contrast_run(config, num_micro_batches=4), tmp_path)
    config = ContrastConfig(weighting="fixed", base={**only, "image_text": 0.25})
    quarter = first_update(contrast_run(config, num_micro_batches=4), tmp_path)
    assert once["towers.image.weight"].abs().max() > 1e-3
    for name in ("towers.image.weight", "text.weight", "log_scales.image"):
        torch.testing.assert_close(quarter[name], once[name] / 4)
    assert not once["head.weight"].any()


@pytest.mark.parametrize("kind", ["uncertainty", "dwa", "rlw", "famo"])
def test_a_resumed_run_goes_on_with_the_same_weights(kind: str, tmp_path: Path) -> None:
    config = ContrastConfig(weighting=kind, dropout=0.2)
    train(config, tmp_path / "straight")

    class Stops(ContrastTask):
        def monitor(self, model: ContrastModel) -> dict[str, float]:
            if (tmp_path / "broken" / "checkpoints" / "step_00000002").exists():
                raise KeyboardInterrupt
            return super().monitor(model)

    run = contrast_run(config, num_micro_batches=2)
    with pytest.raises(KeyboardInterrupt):
        Trainer(run, Stops(config), tmp_path / "broken").train()
    train(config, tmp_path / "broken")
    assert results(tmp_path / "broken") == results(tmp_path / "straight")
    state = json.loads((tmp_path / "broken/checkpoints/step_00000006/state.json").read_text())
    assert state["parts"]["weighting"]["kind"] == kind


def test_parameters_are_brought_back_into_bounds_after_every_update(tmp_path: Path) -> None:
    train(ContrastConfig(initial_log_scale=7.0), tmp_path)
    model = load_file(tmp_path / "model" / "model.safetensors")
    assert 1 <= model["log_scales.image"].exp().item() <= 100 * (1 + 1e-9)


def test_shares_of_terms_are_divided_among_those_with_targets() -> None:
    balance = Balance(ContrastTask(ContrastConfig()), device=torch.device("cpu"))
    counts = {"all/language/masked": 3, "all/language/causal": 2, "all/image_text": 5}
    shares = balance.scales(counts, update=1).shares
    assert shares == {
        "all/language/masked": 0.3, "all/language/causal": 0.7, "all/image_text": 1.0,
    }  # fmt: skip
    alone = balance.scales({**counts, "all/language/masked": 0}, update=1).shares
    assert alone == {**shares, "all/language/masked": 0.0, "all/language/causal": 1.0}


def test_an_objective_that_the_task_does_not_weigh_is_named() -> None:
    config = ContrastConfig(weighting="fixed", base={"language": 1.0, "audio_text": 1.0})
    balance = Balance(ContrastTask(config), device=torch.device("cpu"))
    with pytest.raises(ValueError, match="no weight for image_text; the task weighs language"):
        balance.scales({"all/image_text": 5}, update=1)


def test_a_task_must_count_the_pairs_that_it_computes() -> None:
    with pytest.raises(ValueError, match=r"3 rows .* announced 2 pairs"):
        gather_rows(torch.zeros(3, 4), sizes=[2])


def test_the_toy_fulfils_the_protocol_of_the_training_loop() -> None:
    assert isinstance(ContrastTask(ContrastConfig(pattern=APART)), Task)
