"""Published records of instruction data become conversations, or are refused in one line."""

import base64
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest
import soundfile

from common.data.conversations.messages import turns_of
from common.data.conversations.sources import open_instructions
from common.errors import UserError
from tests.flare.instruct.chats import HUM, RED


@pytest.fixture
def media(tmp_path: Path) -> Path:
    folder = tmp_path / "media"
    folder.mkdir()
    PIL.Image.fromarray(RED).save(folder / "red.png")
    soundfile.write(folder / "hum.wav", HUM.samples, 16_000)
    return folder


def read(folder: Path, kind: str, record: Any) -> Any:
    path = folder / "records.json"
    path.write_text(json.dumps([record]))
    return open_instructions(path, kind=kind, media=folder)[0]


def said(conversation: Any) -> list[tuple[str, list[str]]]:
    """Roles and parts, media by the names of their types."""
    return [
        (turn["role"], [p if isinstance(p, str) else type(p).__name__ for p in turn["parts"]])
        for turn in turns_of(conversation)
    ]


def test_llava_turns_have_their_media_at_the_marks_and_further_marks_are_words(
    media: Path,
) -> None:
    record = {
        "image": "red.png",
        "audio": ["hum.wav"],
        "conversations": [
            {"from": "human", "value": "<image>\nWhat is an <image> tag?"},
            {"from": "gpt", "value": "An <image> tag."},
            {"from": "human", "value": "And <audio>?"},
            {"from": "gpt", "value": "A hum."},
        ],
    }
    conversation = read(media, "llava", record)
    assert said(conversation) == [
        ("user", ["ndarray", "What is an <image> tag?"]),
        ("assistant", ["An <image> tag."]),
        ("user", ["And ", "Recording", "?"]),
        ("assistant", ["A hum."]),
    ]
    assert np.array_equal(conversation["images"][0], RED)
    assert len(conversation["audios"][0].samples) == len(HUM.samples)


def test_m3it_pictures_come_out_of_base64(media: Path) -> None:
    file = io.BytesIO()
    PIL.Image.fromarray(RED).save(file, "png")
    record = {
        "instruction": "Answer.",
        "inputs": "Which colour?",
        "image_base64_str": [base64.b64encode(file.getvalue()).decode()],
        "outputs": "red",
    }
    conversation = read(media, "m3it", record)
    told = [("user", ["ndarray", "Answer.\nWhich colour?"]), ("assistant", ["red"])]
    assert said(conversation) == told
    assert np.array_equal(conversation["images"][0], RED)


def test_openaqa_asks_about_a_sound(media: Path) -> None:
    record = {"audio_id": "hum.wav", "instruction": "What?", "input": "", "output": "a hum"}
    conversation = read(media, "openaqa", record)
    assert said(conversation) == [("user", ["Recording", "What?"]), ("assistant", ["a hum"])]


def test_a_record_a_line_is_read_too(media: Path) -> None:
    path = media / "lines.jsonl"
    line = json.dumps({"instruction": "Hi", "output": "hello"})
    path.write_text(f"{line}\n{line}\n")
    conversations = open_instructions(path, kind="openaqa", media=media)
    assert [said(c) for c in conversations] == 2 * [[("user", ["Hi"]), ("assistant", ["hello"])]]


TURN = {"from": "human", "value": "hi"}


@pytest.mark.parametrize(
    ("kind", "record", "told"),
    [
        ("llava", {"image": "red.png", "conversations": [TURN]}, "1 image files have no <image>"),
        ("llava", {"conversations": "hi"}, "the field conversations is no list"),
        ("llava", {"conversations": [{**TURN, "from": "bot"}]}, "unknown speaker 'bot'"),
        ("llava", {"conversations": ["hi"]}, "the field from is None"),
        (
            "llava",
            {"image": "../records.json", "conversations": [{**TURN, "value": "<image>"}]},
            "leads out of",
        ),
        ("m3it", {"instruction": "x", "outputs": "y", "image_base64_str": ["?"]}, "picture 0"),
        ("m3it", {"instruction": 3, "outputs": "y"}, "the field instruction is 3"),
        ("openaqa", {"audio_id": "no.wav", "instruction": "x", "output": "y"}, "cannot read sound"),
    ],
)
def test_a_bad_record_is_named_in_one_line(
    media: Path, kind: str, record: dict[str, Any], told: str
) -> None:
    with pytest.raises(UserError, match=r"record 0 of records\.json: ") as caught:
        read(media, kind, record)
    assert told in str(caught.value)
    assert "\n" not in str(caught.value)


def test_bad_files_and_kinds_are_told_in_one_line(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    with pytest.raises(UserError, match="kind='llama' is not one of llava, m3it, openaqa"):
        open_instructions(path, kind="llama", media=tmp_path)
    with pytest.raises(UserError, match="cannot read"):
        open_instructions(path, kind="llava", media=tmp_path)
    path.write_text("[{]")
    with pytest.raises(UserError, match="is no JSON"):
        open_instructions(path, kind="llava", media=tmp_path)
    path.write_text('["a"]')
    with pytest.raises(UserError, match="no list of records"):
        open_instructions(path, kind="llava", media=tmp_path)
