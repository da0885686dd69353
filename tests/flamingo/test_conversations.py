"""Conversations in our own trainer: packed rows have the loss of each conversation alone, on the
assistant's words, and a run goes on from a trained folder."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from common.data.conversations.corpus import turns_in
from common.data.conversations.encoded import joined
from common.data.packing import PackState
from common.errors import UserError
from common.objectives.language import IGNORED
from flamingo.chat_format import ROLES_TEMPLATE, FlamingoFormat
from flamingo.conversations import fitting_dialogue
from flamingo.recipes import flamingo_tiny_instruct
from flamingo.task import FlamingoTask
from flamingo.task_config import SourceConfig
from tests.flamingo import tiny


@pytest.fixture(scope="module")
def start(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A trained model, as far as its folder shows."""
    folder = tmp_path_factory.mktemp("model")
    tiny.model(vocab_size=300).save_pretrained(folder)
    tiny.processor().save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def task(start: Path) -> FlamingoTask:
    config = flamingo_tiny_instruct().task
    return FlamingoTask(replace(config, start=start, max_tokens=160, max_images=3))


@pytest.mark.parametrize("name", ["instructions", "requests"])
def test_packed_rows_have_the_loss_of_each_conversation_alone(
    task: FlamingoTask, name: str
) -> None:
    source, model = task.sources()[name], task.build_model().eval()
    rows, _ = source.pack(0, PackState())
    batch = source.collate([source.example(row) for row in rows[:3]])
    packed = task.compute(model, name, batch).losses[name]
    form, expected, targets = FlamingoFormat(task.processor), 0.0, 0
    assert task.processor.chat_template == ROLES_TEMPLATE
    for number in (number for row in rows[:3] for number in row.numbers):
        document = source.feed.read(number).document
        chat = joined([form.begin(), *map(form.turn, turns_in(document))])
        assert len(chat) <= source.encoder.size(source.feed.extent(number)).tokens
        alone = form.batch_of([chat], padding_side="right")
        labels = alone["input_ids"].masked_fill(~torch.tensor([chat.is_target]), IGNORED)
        expected += float(model(**alone, labels=labels, num_items_in_batch=1).loss)
        targets += sum(chat.is_target)
    assert float(packed) == pytest.approx(expected, rel=1e-4)
    assert task.counts(name, batch) == {name: targets}
    assert sum(len(row.numbers) for row in rows[:3]) > 3


def test_a_run_starts_from_the_folder_and_tells_its_answers(
    task: FlamingoTask, start: Path, tmp_path: Path
) -> None:
    model = task.build_model()
    trained = tiny.model(vocab_size=300).state_dict()
    assert all(torch.equal(value, trained[name]) for name, value in model.state_dict().items())
    assert not any(p.requires_grad for p in model.language_model.parameters())
    assert [sample.count(" -> ") for sample in task.samples(model)] == [1] * 3
    task.export(model, tmp_path)
    assert "Assistant" in (tmp_path / "chat_template.jinja").read_text()
    with pytest.raises(UserError, match="start has all parts"):
        replace(task.config, language_model=start)


def test_conversations_by_path_lose_whole_turns_and_keep_their_pictures(
    task: FlamingoTask, tmp_path: Path
) -> None:
    Image.fromarray(np.full((40, 44, 3), 90, dtype=np.uint8)).save(tmp_path / "a.png")
    turns = [
        {"from": "human", "value": "<image>\nwhat is it?"},
        {"from": "gpt", "value": "a ring"},
        {"from": "human", "value": "x" * 150},
        {"from": "gpt", "value": "yes"},
    ]
    records = [{"image": "a.png", "conversations": turns}] * 3
    (tmp_path / "talks.json").write_text(json.dumps(records))
    talks = SourceConfig(
        name="talks", kind="llava", path=tmp_path / "talks.json", batch_size=2, weight=1.0
    )
    source = FlamingoTask(replace(task.config, sources=(talks,))).sources()["talks"]
    rows, _ = source.pack(0, PackState())
    example = source.example(rows[0])
    taught = example.ids[example.labels != IGNORED]
    assert task.processor.tokenizer.decode(taught) == " a ring<|endofchunk|>"
    assert (len(example.images), sum(example.supply.cut.values())) == (1, 1)
    document = source.feed.read(0).document
    chat, is_cut = fitting_dialogue(task.processor, document, max_tokens=9, max_images=1)
    assert (len(chat), is_cut) == (1, True)
    with pytest.raises(UserError, match="a source of kind m3it needs a path"):
        FlamingoTask(
            replace(task.config, sources=(replace(talks, kind="m3it", path=None),))
        ).sources()
