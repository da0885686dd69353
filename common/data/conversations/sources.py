"""Instruction data as it is published, record by record into the one format of conversations:
LLaVA's turns (also with sounds), M3IT's instruction with pictures in base64, and OpenAQA's question
about a sound. `<image>` and `<audio>` mark places only as often as a record has media: further ones
are words. Media are read when a conversation is, so a set may be far larger than memory."""

import base64
import binascii
import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from common.data.audio import read_audio
from common.data.conversations.messages import ContentPart, Conversation, Message, Picture
from common.data.conversations.unread import Unread, located, opened
from common.data.faults import BadSample
from common.data.images import decode_image, read_image
from common.errors import UserError

Fields = Mapping[str, object]
Reader = Callable[[Fields, Path], Conversation]
PLACES: Mapping[str, ContentPart] = {
    "<image>": {"type": "image"},
    "<audio>": {"type": "audio"},
}
SPEAKERS = {"human": "user", "gpt": "assistant", "system": "system"}


@dataclass(frozen=True, kw_only=True)
class InstructionFile:
    """The records of one file; paths in them are relative to the folder of media."""

    records: Sequence[Fields]
    read: Reader
    media: Path
    name: str

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, index: int) -> Conversation:
        with located(index, self.name):
            return opened(self.read(self.records[index], self.media))

    def outline(self, index: int) -> Conversation:
        """The conversation, whose media are read when they are asked for."""
        with located(index, self.name):
            return self.read(self.records[index], self.media)


def open_instructions(path: Path, *, kind: str, media: Path) -> InstructionFile:
    """A JSON file of a list of records, or one of a record a line.

    Raises:
        UserError: the kind is unknown, or the file is missing or no such JSON.
    """
    if kind not in READERS:
        raise UserError(f"{kind=} is not one of {', '.join(READERS)}")
    return InstructionFile(
        records=read_records(path), read=READERS[kind], media=media, name=path.name
    )


def read_records(path: Path) -> list[Fields]:
    """The objects of a JSON file of a list, or of one of an object a line.

    Raises:
        UserError: the file is missing or no such JSON.
    """
    try:
        text = path.read_text(encoding="utf-8")
        is_list = text.lstrip().startswith("[")
        records = json.loads(text) if is_list else [json.loads(x) for x in text.splitlines() if x]
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}; check the path") from error
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path} is no JSON ({error}); copy it again") from error
    if not all(isinstance(record, dict) for record in records):
        raise UserError(f"{path} is no list of records; each is an object with named fields")
    return records


def read_llava(record: Fields, media: Path) -> Conversation:
    """`{"image": "a.jpg", "conversations": [{"from": "human", "value": "<image>\\nWhat?"}, ...]}`

    Raises:
        UserError: a field is missing or malformed, a speaker unknown, a medium unreadable, or media
            lack their marks.
    """
    names = {"image": names_of(record, "image"), "audio": names_of(record, "audio")}
    left = {kind: len(found) for kind, found in names.items()}
    messages = []
    for turn in list_of(record, "conversations"):
        speaker = text_of(turn, "from")
        if speaker not in SPEAKERS:
            raise UserError(f"unknown speaker {speaker!r}; use {', '.join(SPEAKERS)}")
        content = _marked(text_of(turn, "value"), left if speaker == "human" else {})
        messages.append(Message(role=SPEAKERS[speaker], content=content))
    for kind, num in left.items():
        if num:
            raise UserError(f"{num} {kind} files have no <{kind}> in the turns; add the marks")
    return {
        "messages": messages,
        "images": Unread(names["image"], lambda name: read_image(inside(media, name))),
        "audios": Unread(names["audio"], lambda name: read_audio(inside(media, name))),
    }


def read_m3it(record: Fields, media: Path) -> Conversation:
    """`{"instruction": ..., "inputs": ..., "image_base64_str": [...], "outputs": ...}`

    Raises:
        UserError: a field is missing or malformed, or a picture unreadable.
    """
    encoded = names_of(record, "image_base64_str")
    pictures = Unread(range(len(encoded)), lambda number: _picture(encoded[number], number))
    places = [PLACES["<image>"]] * len(pictures)
    messages = _single(record, places, details="inputs", answer="outputs")
    return {"messages": messages, "images": pictures}


def read_openaqa(record: Fields, media: Path) -> Conversation:
    """`{"audio_id": "a.wav", "instruction": ..., "input": ..., "output": ...}`

    Raises:
        UserError: a field is missing or malformed, or the sound unreadable.
    """
    names = names_of(record, "audio_id")
    sounds = Unread(names, lambda name: read_audio(inside(media, name)))
    places = [PLACES["<audio>"]] * len(sounds)
    messages = _single(record, places, details="input", answer="output")
    return {"messages": messages, "audios": sounds}


READERS: Mapping[str, Reader] = {
    "llava": read_llava,
    "m3it": read_m3it,
    "openaqa": read_openaqa,
}


def _single(
    record: Fields, media: Sequence[ContentPart], *, details: str, answer: str
) -> list[Message]:
    """Media, then the instruction, then its details on a line of their own."""
    words = [text_of(record, "instruction"), text_of(record, details) if details in record else ""]
    text: ContentPart = {"type": "text", "text": "\n".join(part for part in words if part)}
    asked = Message(role="user", content=[*media, text])
    return [asked, Message(role="assistant", content=text_of(record, answer))]


def _marked(text: str, left: dict[str, int]) -> list[ContentPart]:
    """`<image>\\nWhat?` -> a picture's place and `What?`; counts down what is left to be placed."""
    parts: list[ContentPart] = []
    words = ""
    for piece in re.split(f"({'|'.join(PLACES)})", text):
        place = PLACES.get(piece)
        if place is None or not left.get(place["type"]):
            words += piece
            continue
        left[place["type"]] -= 1
        parts += [*_words(words), place]
        words = ""
    return [*parts, *_words(words)]


def _words(text: str) -> list[ContentPart]:
    """The line break between a mark and a question is the format's, not the user's."""
    stripped = text.strip("\n")
    return [{"type": "text", "text": stripped}] if stripped else []


def inside(media: Path, name: str) -> Path:
    """A published file says which of the media it means, and nothing else on this machine.

    Raises:
        UserError: the name leads out of the folder.
    """
    path = (media / name).resolve()
    if not path.is_relative_to(media.resolve()):
        raise UserError(f"{name} leads out of {media}; write paths relative to it")
    return path


def _picture(encoded: str, number: int) -> Picture:
    try:
        return decode_image(base64.b64decode(encoded, validate=True), name=f"picture {number}")
    except (binascii.Error, BadSample) as error:
        raise UserError(f"picture {number} cannot be decoded ({error}); copy it again") from error


def text_of(record: object, field: str) -> str:
    """A field that is a text.

    Raises:
        UserError: it is missing or no text.
    """
    value = record.get(field) if isinstance(record, Mapping) else None
    if not isinstance(value, str):
        raise UserError(f"the field {field} is {value!r}; it has to be a text")
    return value


def list_of(record: Fields, field: str) -> list[Any]:
    """A field that is a list.

    Raises:
        UserError: it is missing or no list.
    """
    value = record.get(field)
    if not isinstance(value, list):
        raise UserError(f"the field {field} is no list")
    return value


def names_of(record: Fields, field: str) -> list[str]:
    """One text or a list of them; none when the field is missing.

    Raises:
        UserError: it is something else.
    """
    value = record.get(field)
    named = value if isinstance(value, list) else [] if value is None else [value]
    names = [name for name in named if isinstance(name, str)]
    if len(names) < len(named):
        raise UserError(f"the field {field} is no text and no list of texts")
    return names
