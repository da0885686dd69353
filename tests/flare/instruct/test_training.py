"""TRL tunes the model on pictures, sounds and words together, in full and through adapters."""

from pathlib import Path
from typing import Any

import pytest
import torch

from common.data.conversations.messages import answered, question
from common.errors import UserError
from common.generation.answers import answers
from common.training.alignment.bridge import RoundConfig, numbers
from common.training.alignment.collators import InstructionCollator
from common.training.alignment.instruct import instruct
from flare.instruct.encoding import FlareFormat
from tests.flare.instruct import chats
from tests.flare.instruct.chats import BLUE, HISS, HUM, RED

pytest.importorskip("trl")
CHATS = [
    answered(question(RED, "what is it?"), "red"),
    answered(question("and ", HUM, BLUE, HISS), "a ring"),
    answered(question("hi"), "yes"),
]


@pytest.mark.slow
def test_two_steps_on_pictures_and_sounds_lower_the_loss_that_our_masks_define(
    tmp_path: Path,
) -> None:
    processor = chats.processor()
    model = chats.model(processor)
    collator = InstructionCollator(form=FlareFormat(processor), conversations=CHATS, max_tokens=90)
    rows: list[Any] = [{"number": number} for number in range(3)]
    before = float(model(**collator(rows)).loss.detach())
    frozen = [p.clone() for p in model.vision_encoder.parameters()]
    config = RoundConfig(
        steps=2, learning_rate=0.01, batch_size=3, max_tokens=90, frozen=("vision_encoder",)
    )
    tuned, log = instruct(model, FlareFormat(processor), CHATS, config, folder=tmp_path)
    losses = [entry["loss"] for entry in log if "loss" in entry]
    assert losses[0] == pytest.approx(before, rel=1e-4)
    assert losses[1] < losses[0]
    assert float(tuned.eval()(**collator(rows)).loss) < losses[0]
    kept = [*tuned.vision_encoder.parameters()]
    assert all(torch.equal(a, b) for a, b in zip(frozen, kept, strict=True))
    assert tuned is model
    assert not {"forward", "model"} & {*vars(model)}


@pytest.mark.slow
def test_adapters_learn_in_the_decoder_alone_and_are_merged(tmp_path: Path) -> None:
    processor = chats.processor()
    model = chats.model(processor)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    trained = {name for name, p in model.named_parameters() if p.requires_grad}
    config = RoundConfig(steps=2, learning_rate=0.1, batch_size=3, lora_rank=2)
    tuned, _ = instruct(model, FlareFormat(processor), CHATS, config, folder=tmp_path)
    after = tuned.state_dict()
    assert after.keys() == before.keys()
    changed = {name for name in after if not torch.equal(after[name], before[name])}
    assert "decoder.blocks.0.attention.to_q.weight" in changed
    assert all(name.startswith("decoder.blocks.") for name in changed)
    assert {name for name, p in tuned.named_parameters() if p.requires_grad} == trained


def test_answers_do_not_depend_on_who_else_is_asked() -> None:
    processor = chats.processor()
    model = chats.model(processor).train()
    asked = [question(RED, "what is it?"), question("hi"), question(HUM, " and ", BLUE)]
    together = answers(model, FlareFormat(processor), asked, max_new_tokens=5)
    alone = [answers(model, FlareFormat(processor), [one], max_new_tokens=5)[0] for one in asked]
    assert together == alone
    assert model.training


def test_rounds_that_cannot_be_run_are_refused_in_one_line(tmp_path: Path) -> None:
    processor = chats.processor()
    model = chats.model(processor)
    config = RoundConfig(steps=1, learning_rate=0.1, frozen=("ears",))
    with pytest.raises(UserError, match="ears is no part of the model; it has vision_encoder"):
        instruct(model, FlareFormat(processor), CHATS, config, folder=tmp_path)
    with pytest.raises(UserError, match="nothing to tune on"):
        numbers(0)
    with pytest.raises(UserError, match="steps=0"):
        RoundConfig(steps=0, learning_rate=0.1)
    with pytest.raises(UserError, match="lora_rank=0"):
        RoundConfig(steps=1, learning_rate=0.1, lora_rank=0)
