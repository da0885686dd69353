"""TRL prefers answers on pictures and sounds, by batches that are those of a naive reading."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from common.data.conversations.encoded import encode_answer, encode_prompt
from common.data.conversations.messages import question
from common.data.conversations.pairs import Pair
from common.errors import UserError
from common.training.alignment.bridge import RoundConfig
from common.training.alignment.collators import PreferenceCollator
from common.training.alignment.prefer import PreferenceConfig, align
from flare.instruct.encoding import FlareFormat
from flare.model import FlareForConditionalGeneration
from flare.processing import FlareProcessor
from tests.flare import tiny
from tests.flare.instruct import chats
from tests.flare.instruct.chats import BLUE, HISS, HUM, RED

pytest.importorskip("trl")
PAIRS = [
    Pair(prompt=question("make ", RED, HUM), chosen="no", rejected="a red ring"),
    Pair(prompt=question(HISS, "and ", BLUE, RED), chosen="a ring", rejected="is"),
    Pair(prompt=question("hi"), chosen="a ring", rejected="no"),
]
ROWS: list[Any] = [{"number": number} for number in range(3)]


@pytest.fixture(scope="module")
def processor() -> FlareProcessor:
    return chats.processor()


def collated(processor: FlareProcessor) -> dict[str, torch.Tensor]:
    return PreferenceCollator(form=FlareFormat(processor), pairs=PAIRS, max_tokens=90)(ROWS)


def test_preferred_rows_come_first_and_only_answers_are_compared(
    processor: FlareProcessor,
) -> None:
    batch = collated(processor)
    told = [pair["chosen"] for pair in PAIRS] + [pair["rejected"] for pair in PAIRS]
    for row, (pair, answer) in enumerate(zip(2 * PAIRS, told, strict=True)):
        prompt = encode_prompt(FlareFormat(processor), pair["prompt"]).ids
        said = encode_answer(FlareFormat(processor), answer).ids
        num = len(prompt) + len(said)
        assert batch["input_ids"][row, :num].tolist() == [*prompt, *said]
        assert batch["completion_mask"][row].nonzero()[:, 0].tolist() == [*range(len(prompt), num)]
        assert batch["attention_mask"][row].sum() == num
    assert batch["num_images"].tolist() == 2 * [1, 2, 0]
    assert batch["num_audios"].tolist() == 2 * [1, 1, 0]
    pixels = batch["pixel_values"]
    assert torch.equal(pixels[:3], pixels[3:])
    assert pixels.shape == (6, 3, tiny.IMAGE_SIZE, tiny.IMAGE_SIZE)


def test_a_pair_that_does_not_fit_is_refused_in_one_line(processor: FlareProcessor) -> None:
    collator = PreferenceCollator(form=FlareFormat(processor), pairs=PAIRS, max_tokens=20)
    with pytest.raises(UserError, match="but max_tokens=20; raise it"):
        collator(ROWS)
    with pytest.raises(UserError, match=r"beta=0\.0"):
        PreferenceConfig(round=RoundConfig(steps=1, learning_rate=0.1), beta=0.0)


@pytest.mark.slow
@pytest.mark.parametrize("lora_rank", [None, 4])
def test_steps_through_trl_start_at_the_formula_and_widen_the_margin(
    processor: FlareProcessor, tmp_path: Path, lora_rank: int | None
) -> None:
    model = chats.model(processor)
    batch = collated(processor)
    before = log_probabilities(model, batch)
    num_chosen = batch["completion_mask"][:3].sum()
    config = PreferenceConfig(
        round=RoundConfig(
            steps=3, learning_rate=0.003 if lora_rank is None else 0.03, batch_size=3,
            warmup_fraction=0.0, lora_rank=lora_rank,
        ),
        sft_weight=0.3,
    )  # fmt: skip
    aligned, log = align(model, FlareFormat(processor), PAIRS, config, folder=tmp_path)
    # At the start the model is its own reference.
    expected = math.log(2) - 0.3 * float(before[:3].sum() / num_chosen)
    losses = [entry["loss"] for entry in log if "loss" in entry]
    assert losses[0] == pytest.approx(expected, rel=1e-3)
    assert losses[-1] < losses[0]
    after = log_probabilities(aligned.eval(), batch)
    assert (after[:3] - after[3:]).sum() > (before[:3] - before[3:]).sum() + 1
    assert not {"forward", "model"} & {*vars(aligned)}


def log_probabilities(
    model: FlareForConditionalGeneration, batch: dict[str, torch.Tensor]
) -> torch.Tensor:
    """Of each row's answer, from the model's own logits."""
    inputs = {name: value for name, value in batch.items() if name != "completion_mask"}
    with torch.no_grad():
        logits = model(**inputs).logits[:, :-1]
    of_next = F.log_softmax(logits, -1).gather(-1, batch["input_ids"][:, 1:, None])[..., 0]
    return (of_next * batch["completion_mask"][:, 1:]).sum(1)
