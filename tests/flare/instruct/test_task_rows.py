"""Conversations in packed rows teach exactly what they teach alone, and what TRL's batches do."""

import json
from pathlib import Path

import PIL.Image
import pytest
import torch

from common.data.conversations.corpus import document_of
from common.data.conversations.encoded import encode_chat
from common.data.conversations.messages import Conversation, Message, answered, question
from common.data.conversations.sources import open_instructions
from common.training.alignment.collators import InstructionCollator, Row
from flare import passes
from flare.data import FlareBatch
from flare.encoding import FlareExample
from flare.instruct.encoding import FlareFormat
from flare.instruct.task_encoding import encode_dialogue
from flare.model import FlareForConditionalGeneration
from tests.feeds import packed_examples
from tests.flare.instruct import chats
from tests.flare.instruct.chats import BLUE, HISS, HUM, RED
from tests.flare.instruct.rows import corpus_of, encoder_of, source_of

PROCESSOR = chats.processor()


def talk() -> Conversation:
    """Two answers, the second after a picture and a sound."""
    first, second = question("see ", RED, " now"), question(HISS, "and", BLUE)
    both = [*answered(first, "a red ring")["messages"], *second["messages"]]
    whole: Conversation = {"messages": both, "images": [RED, BLUE], "audios": [HISS]}
    return answered(whole, "a ring")


SYSTEM: Message = {"role": "system", "content": "be short"}
SAID = [
    answered(question(RED, "what is it?"), "red"),
    talk(),
    {
        "messages": [
            {"role": "system", "content": "be short"},
            *answered(question("hi"), "yes")["messages"],
        ]
    },
    answered(question(HUM, "and ", HISS), "a ring ring"),
]


def encoded(conversation: Conversation, *, max_tokens: int) -> tuple[FlareExample, bool]:
    document = document_of(conversation, key="it")
    return encode_dialogue(
        encoder_of(PROCESSOR), document, max_tokens=max_tokens, reference=(0.0, 0.0)
    )


@pytest.mark.parametrize("number", range(4))
def test_ids_and_targets_are_those_of_trls_batches(number: int) -> None:
    length = len(encode_chat(FlareFormat(PROCESSOR), SAID[number]))
    for max_tokens in (length, length + 7, 60):
        collate = InstructionCollator(
            form=FlareFormat(PROCESSOR), conversations=SAID, max_tokens=max_tokens
        )
        rows: list[Row] = [{"number": number}]
        expected = collate(rows)
        example, is_cut = encoded(SAID[number], max_tokens=max_tokens)
        assert torch.equal(example.ids, expected["input_ids"][0])
        assert torch.equal(example.labels, expected["labels"][0])
        assert is_cut == (max_tokens < length)
        for kind, found in (("num_images", example.images), ("num_audios", example.clips)):
            assert len(found) == (int(expected[kind][0]) if kind in expected else 0)


def test_where_no_turn_fits_a_row_still_begins() -> None:
    example, is_cut = encoded(talk(), max_tokens=5)
    assert example.ids.tolist() == [PROCESSOR.tokenizer.bos_token_id]
    assert is_cut
    assert not example.images


def test_a_packed_rows_loss_is_the_sum_of_its_conversations_losses() -> None:
    source = source_of(PROCESSOR, SAID, rows=2, max_tokens=150)
    packed = packed_examples(source, 2)
    assert max(int(example.documents.max()) for example in packed) > 0
    model = chats.model(PROCESSOR)
    whole = losses(model, source.collate(packed))
    keys = [key for example in packed for key in example.key.split("+")]
    numbers = [int(key.split("/")[1]) for key in keys]
    form, parts = FlareFormat(PROCESSOR), []
    for number in numbers:
        collate = InstructionCollator(form=form, conversations=SAID, max_tokens=150)
        batch = collate([{"number": number}])
        targets = int((batch["labels"] != -100).sum())
        parts.append(float(model(**batch).loss.detach()) * targets)
    assert float(whole["language/causal"].detach()) == pytest.approx(sum(parts), rel=1e-5)
    assert float(whole["language/masked"]) == 0


def test_a_set_is_measured_exactly_and_without_a_look_at_its_media(tmp_path: Path) -> None:
    record = {
        "image": ["red.png", "gone.png"],
        "conversations": [
            {"from": "human", "value": "<image> and <image>\nWhat?"},
            {"from": "gpt", "value": "red"},
        ],
    }
    (tmp_path / "said.json").write_text(json.dumps([record, {"conversations": 3}]))
    items = open_instructions(tmp_path / "said.json", kind="llava", media=tmp_path)
    corpus = corpus_of(PROCESSOR, items)
    extent = corpus.extent(0)
    assert (extent.num_images, extent.num_clips) == (2, 0)
    for name in record["image"]:
        PIL.Image.fromarray(RED).save(tmp_path / name)
    chat = encode_chat(FlareFormat(PROCESSOR), items[0])
    assert encoder_of(PROCESSOR).length(extent) == len(chat)
    assert corpus.read(0).parts[0].shape == RED.shape


def test_what_cannot_be_read_is_replaced_and_counted(tmp_path: Path) -> None:
    turns = [{"from": "human", "value": "<image>"}, {"from": "gpt", "value": "red"}]
    records = [
        {"conversations": [{"from": "human", "value": "hi"}, turns[1]]},
        {"image": "gone.png", "conversations": turns},
        {"conversations": "nothing"},
        {"image": "broken.png", "conversations": turns},
    ]
    (tmp_path / "broken.png").write_bytes(b"no picture")
    (tmp_path / "said.json").write_text(json.dumps(records))
    items = open_instructions(tmp_path / "said.json", kind="llava", media=tmp_path)
    source = source_of(PROCESSOR, items, rows=1, max_tokens=120)
    (example,) = packed_examples(source, 1)
    assert {key for key in example.key.split("+")} == {"said/0"}
    causes = {fault.cause for fault in example.supply.faults}
    assert causes == {"json_invalid", "image_corrupt"}
    told = " ".join(fault.message for fault in example.supply.faults)
    assert "record 1 of said.json" in told
    assert "record 2 of said.json" in told


def losses(model: FlareForConditionalGeneration, batch: FlareBatch) -> dict[str, torch.Tensor]:
    x = passes.start(model, batch).hidden
    x = passes.advance(model, model.decoder.blocks, x, batch)
    return dict(passes.finish(model, batch, x, z_loss=0.0, beta=0.3).losses)
