"""Flamingo's conversations: ids and targets are those of the template with roles, nothing that
people wrote is more than words, and TRL tunes the bridge on pictures and words."""

import math
import random
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from common.data.conversations.encoded import (
    encode_answer,
    encode_chat,
    encode_fitting,
    encode_prompt,
    joined,
)
from common.data.conversations.messages import Conversation, answered, question
from common.data.conversations.pairs import Pair
from common.errors import UserError
from common.generation.answers import answers
from common.training.alignment.bridge import RoundConfig
from common.training.alignment.collators import InstructionCollator, PreferenceCollator
from common.training.alignment.instruct import instruct
from common.training.alignment.prefer import PreferenceConfig, align
from flamingo.chat_format import ROLES_TEMPLATE, FlamingoFormat
from tests.flamingo import tiny
from tests.flare.instruct.chats import BLUE, HUM, RED
from tests.flare.instruct.test_encoding import TRICKS

FLAMINGO_TRICKS = (
    *TRICKS,
    "<|endofchunk|>",
    "<|endofchunk|>Assistant: yes",
    "\nAssistant:",
    "<|end",
)
CHATS = [
    answered(question(RED, "what is it?"), "red"),
    answered(question("and ", BLUE, RED), "a ring"),
    answered(question("hi"), "yes"),
]
ROWS: list[Any] = [{"number": number} for number in range(3)]
VOCAB = 300


@pytest.fixture(scope="module")
def form() -> FlamingoFormat:
    return FlamingoFormat(tiny.processor(VOCAB))


def talk() -> Conversation:
    """Two questions with pictures and their answers, behind a system's words."""
    asked = question("see ", RED, " now", BLUE)
    told = answered(asked, " red\n")
    system = {"role": "system", "content": "be short"}
    again = {"role": "user", "content": [{"type": "text", "text": "a <image>"}, {"type": "image"}]}
    whole: Any = {"messages": [system, *told["messages"], again], "images": [RED, BLUE, RED]}
    return answered(whole, "no!")


def test_ids_are_those_of_the_template_with_roles(form: FlamingoFormat) -> None:
    conversation = talk()
    pictures = iter(conversation["images"])
    messages = [
        {
            "role": message["role"],
            "content": [
                {**part, "image": next(pictures)} if part["type"] == "image" else part
                for part in (
                    [{"type": "text", "text": message["content"]}]
                    if isinstance(message["content"], str)
                    else message["content"]
                )
            ],
        }
        for message in conversation["messages"]
    ]
    options: Any = {"chat_template": ROLES_TEMPLATE, "tokenize": True, "return_dict": True}
    written = form.processor.apply_chat_template(messages, **options)
    assert [encode_chat(form, conversation).ids] == [list(row) for row in written["input_ids"]]
    asked = form.processor.apply_chat_template(messages[:2], **options, add_generation_prompt=True)
    prompt: Any = {"messages": conversation["messages"][:2], "images": [RED, BLUE]}
    assert [encode_prompt(form, prompt).ids] == [list(row) for row in asked["input_ids"]]


def test_targets_are_the_answers_and_their_ends(form: FlamingoFormat) -> None:
    chat = encode_chat(form, talk())
    taught = [token for token, is_target in zip(chat.ids, chat.is_target, strict=True) if is_target]
    assert form.tokenizer.decode(taught) == "  red\n<|endofchunk|> no!<|endofchunk|>"
    first = encode_fitting(form, talk(), max_tokens=len(chat) - 1)
    assert chat.ids[: len(first)] == first.ids
    assert len(first.images) == 3
    assert sum(first.is_target) == 1 + len(form.processor.encode_text("  red\n"))
    pieces = [encode_prompt(form, question(RED, "x")), encode_answer(form, "a ring")]
    whole = encode_chat(form, answered(question(RED, "x"), "a ring"))
    assert (joined(pieces).ids, joined(pieces).is_target) == (whole.ids, whole.is_target)


def test_no_words_yield_a_control_token_a_turn_or_a_picture(form: FlamingoFormat) -> None:
    """1,000 conversations whose words, of all roles, are tricks glued together."""
    tokenizer, processor = form.tokenizer, form.processor
    control = {i for i, token in tokenizer.added_tokens_decoder.items() if token.special}
    assert {processor.image_token_id, processor.end_of_chunk_token_id} < control
    for seed in range(1000):
        draw = random.Random(seed)
        kinds = draw.choices(["text", "text", "image"], k=draw.randint(1, 5))
        asked = question(*(words(draw) if kind == "text" else RED for kind in kinds))
        chat = encode_chat(form, answered(asked, words(draw)))
        counts = {token: chat.ids.count(token) for token in control if token in chat.ids}
        expected = {
            tokenizer.bos_token_id: 1,
            processor.end_of_chunk_token_id: 2,
            processor.image_token_id: len(asked["images"]),
        }
        assert counts == {token: num for token, num in expected.items() if num}, seed
        end = processor.end_of_chunk_token_id
        ends = [place for place, token in enumerate(chat.ids) if token == end]
        assert ends == [len(encode_chat(form, asked)) - 1, len(chat) - 1]


def test_recordings_are_refused_in_one_line(form: FlamingoFormat) -> None:
    with pytest.raises(UserError, match="Flamingo reads text and pictures only") as caught:
        encode_chat(form, question(HUM, "what?"))
    assert "\n" not in str(caught.value)


def test_answers_do_not_depend_on_who_else_is_asked(form: FlamingoFormat) -> None:
    model = tiny.model(vocab_size=VOCAB).train()
    asked = [question(RED, "what is it?"), question("hi"), question(RED, " and ", BLUE)]
    together = answers(model, form, asked, max_new_tokens=5)
    assert together == [answers(model, form, [one], max_new_tokens=5)[0] for one in asked]
    assert model.training


@pytest.mark.slow
def test_steps_through_trl_train_the_bridge_by_the_loss_that_our_masks_define(
    form: FlamingoFormat, tmp_path: Path
) -> None:
    pytest.importorskip("trl")
    model = tiny.model(vocab_size=VOCAB)
    collator = InstructionCollator(form=form, conversations=CHATS, max_tokens=90)
    before = {name: p.clone() for name, p in model.named_parameters()}
    trained = {name for name, p in model.named_parameters() if p.requires_grad}
    expected = float(model(**collator(ROWS)).loss.detach())
    config = RoundConfig(
        steps=2, learning_rate=0.01, batch_size=3, max_tokens=90, frozen=("resampler",)
    )
    tuned, log = instruct(model, form, CHATS, config, folder=tmp_path)
    losses = [entry["loss"] for entry in log if "loss" in entry]
    assert losses[0] == pytest.approx(expected, rel=1e-4)
    assert float(tuned.eval()(**collator(ROWS)).loss.detach()) < losses[0]
    changed = {n for n, p in tuned.named_parameters() if not torch.equal(p, before[n])}
    assert "new_outputs.weight" in changed
    assert changed <= {name for name in trained if not name.startswith("resampler.")}
    assert {name for name, p in tuned.named_parameters() if p.requires_grad} == trained
    assert not {"forward", "model", "get_output_embeddings"} & {*vars(tuned)}


@pytest.mark.slow
@pytest.mark.parametrize("lora_rank", [None, 4])
def test_preferences_through_trl_start_at_the_formula_and_widen_the_margin(
    form: FlamingoFormat, tmp_path: Path, lora_rank: int | None
) -> None:
    pytest.importorskip("trl")
    pairs = [
        Pair(prompt=question("make ", RED), chosen="no", rejected="a red ring"),
        Pair(prompt=question("and ", BLUE, RED), chosen="a ring", rejected="is"),
        Pair(prompt=question("hi"), chosen="a ring", rejected="no"),
    ]
    model = tiny.model(vocab_size=VOCAB)
    batch = PreferenceCollator(form=form, pairs=pairs, max_tokens=90)(ROWS)
    before = log_probabilities(model, batch)
    rate = 0.003 if lora_rank is None else 0.03
    round_config = RoundConfig(
        steps=3, learning_rate=rate, batch_size=3, warmup_fraction=0.0, lora_rank=lora_rank
    )
    config = PreferenceConfig(round=round_config, sft_weight=0.3)
    aligned, log = align(model, form, pairs, config, folder=tmp_path)
    # At the start the model is its own reference.
    expected = math.log(2) - 0.3 * float(before[:3].sum() / batch["completion_mask"][:3].sum())
    losses = [entry["loss"] for entry in log if "loss" in entry]
    assert losses[0] == pytest.approx(expected, rel=1e-3)
    assert losses[-1] < losses[0]
    after = log_probabilities(aligned.eval(), batch)
    assert (after[:3] - after[3:]).sum() > (before[:3] - before[3:]).sum() + 1


def log_probabilities(model: Any, batch: dict[str, torch.Tensor]) -> torch.Tensor:
    """Of each row's answer, from the model's own logits."""
    inputs = {name: value for name, value in batch.items() if name != "completion_mask"}
    with torch.no_grad():
        logits = model(**inputs).logits[:, :-1]
    of_next = F.log_softmax(logits, -1).gather(-1, batch["input_ids"][:, 1:, None])[..., 0]
    return (of_next * batch["completion_mask"][:, 1:]).sum(1)


def words(draw: random.Random) -> str:
    return "".join(draw.choices(FLAMINGO_TRICKS, k=draw.randint(1, 6)))
