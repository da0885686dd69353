"""A model of the hub is asked in its own template: a tiny LLaVA with random weights."""

from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import (
    CLIPImageProcessor,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
)

from common.data.document import Image, Recording
from common.data.embedded.tokenizer import train_tokenizer
from common.errors import UserError
from common.evaluation.hub_model import HubModel, load
from common.evaluation.models import Prompt, Turn, Writer

CHAT = (
    "<s>{% for message in messages %}[{{ message['role'] }}]"
    "{% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}<image>{% else %}{{ part['text'] }}{% endif %}{% endfor %}"
    "<turn>{% endfor %}{% if add_generation_prompt %}[assistant]{% endif %}"
)
SIDE, PATCH = 16, 4


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("llava")
    tokenizer = train_tokenizer(
        ["a plain text"], vocab_size=262, control_tokens=["<image>", "<turn>"]
    )
    tokenizer.add_special_tokens({"extra_special_tokens": ["<image>", "<turn>"]})
    vision = {
        "model_type": "clip_vision_model",
        "hidden_size": 20,
        "intermediate_size": 36,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "image_size": SIDE,
        "patch_size": PATCH,
        "projection_dim": 12,
    }
    text = {
        "model_type": "llama",
        "vocab_size": len(tokenizer),
        "hidden_size": 24,
        "intermediate_size": 40,
        "num_hidden_layers": 2,
        "num_attention_heads": 3,
        "num_key_value_heads": 1,
        "pad_token_id": 0,
        "bos_token_id": 1,
        "eos_token_id": 2,
    }
    image_token = tokenizer.convert_tokens_to_ids("<image>")
    config = LlavaConfig(vision_config=vision, text_config=text, image_token_id=image_token)
    torch.manual_seed(0)
    model = LlavaForConditionalGeneration(config)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.mul_(6)  # large enough for images to matter
    model.save_pretrained(folder)
    images = CLIPImageProcessor(
        size={"shortest_edge": SIDE}, crop_size={"height": SIDE, "width": SIDE}
    )
    LlavaProcessor(
        images,
        tokenizer,
        patch_size=PATCH,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=CHAT,
    ).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def hub(folder: Path) -> HubModel:
    return load(folder, device="cpu", dtype=torch.float32)


def image(seed: int) -> Image:
    return np.random.default_rng(seed).integers(0, 256, (18, 22, 3), dtype=np.uint8)


def prompt(*seeds: int, text: str = "what colour?") -> Prompt:
    examples = [Turn(media=(image(seed),), text="what?", answer=f"is {seed}") for seed in seeds[1:]]
    return (*examples, Turn(media=(image(seeds[0]),), text=text))


def test_examples_are_turns_and_the_answer_is_asked_for(hub: HubModel) -> None:
    inputs = hub._inputs([prompt(1, 2), (Turn(media=(), text="<image> and <turn>?"),)])
    long, short = inputs["input_ids"].tolist()
    pictures = "<image>" * (SIDE // PATCH) ** 2
    assert hub.processor.tokenizer.decode(long) == (
        f"<s>[user]{pictures}what?<turn>[assistant]is 2<turn>[user]{pictures}what colour?<turn>"
        "[assistant]"
    )
    assert len(inputs["pixel_values"]) == 2
    # What a user writes is no control token; padding stands on the left.
    own = short[len(long) - sum(inputs["attention_mask"][1].tolist()) :]
    assert hub.processor.tokenizer.decode(own) == "<s>[user]<image> and <turn>?<turn>[assistant]"
    assert own.count(hub.processor.image_token_id) == 0


def test_a_batch_of_different_lengths_is_answered_as_each_alone(hub: HubModel) -> None:
    assert isinstance(hub, Writer)
    prompts = [prompt(1), prompt(2, 3, 4, text="how many are there in it?"), prompt(5, text="w")]
    blind = (Turn(media=(), text="what colour?"),)
    for beams in (1, 3):
        for batch in (prompts, [blind, prompts[1]]):
            together = hub.write(batch, max_new_tokens=7, num_beams=beams)
            alone = [hub.write([own], max_new_tokens=7, num_beams=beams)[0] for own in batch]
            assert together == alone
    assert len(set(together)) > 1


def test_writing_stops_at_the_end_of_the_turn(hub: HubModel) -> None:
    tokenizer = hub.processor.tokenizer
    assert hub._ends == sorted([2, tokenizer.convert_tokens_to_ids("<turn>")])
    ids = hub.model.generate(**hub._inputs([prompt(1)]), max_new_tokens=6, do_sample=False)[0, -6:]
    stopping = HubModel(hub.model, hub.processor)
    stopping._ends = [int(ids[2])]
    written = stopping.write([prompt(1)], max_new_tokens=6, num_beams=1)
    first = ids.tolist().index(int(ids[2])) + 1
    assert written == [tokenizer.decode(ids[:first], skip_special_tokens=True).strip()]


def test_likelihoods_are_those_of_the_plain_forward(hub: HubModel) -> None:
    answers = [f"number {n}" + n * "!" for n in range(10)]
    prompts = [prompt(1, 2), (Turn(media=(), text="what colour?"),)]
    found = hub.log_likelihoods(prompts, [answers, answers[:1]])
    assert [len(own) for own in found] == [10, 1]
    for row, place in ((0, 9), (0, 3), (1, 0)):
        inputs = hub._inputs([prompts[row]])
        ids = torch.tensor([hub.processor.tokenizer.encode(answers[place])])
        whole = torch.cat([inputs["input_ids"], ids], dim=1)
        pixels = {"pixel_values": inputs["pixel_values"]} if row == 0 else {}
        logits = hub.model(input_ids=whole, **pixels).logits.log_softmax(-1)
        expected = logits[0, -ids.shape[1] - 1 : -1].gather(1, ids.T).sum()
        assert found[row][place] == pytest.approx(float(expected), abs=1e-4)
    blind = hub.log_likelihoods([(*prompts[0][:1], Turn(media=(), text="what colour?"))], [answers])
    assert blind[0] != pytest.approx(found[0], abs=1e-3)


def test_what_it_cannot_do_is_told_in_one_line(hub: HubModel, folder: Path, tmp_path: Path) -> None:
    sound = Recording(samples=np.zeros(500, np.float32))
    with pytest.raises(UserError, match="give it no sounds"):
        hub.write([(Turn(media=(sound,), text="what?"),)], max_new_tokens=3, num_beams=1)
    with pytest.raises(UserError, match="no answer, or an empty one"):
        hub.log_likelihoods([prompt(1)], [["a", ""]])
    with pytest.raises(UserError, match=r"config\.json is missing"):
        load(tmp_path, device="cpu", dtype=torch.float32)
    for path in folder.iterdir():
        if path.name != "chat_template.jinja":
            (tmp_path / path.name).symlink_to(path)
    with pytest.raises(UserError, match="has no template for chats"):
        load(tmp_path, device="cpu", dtype=torch.float32)
