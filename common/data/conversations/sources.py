"""Instruction data as it is published, record by record into the one format of conversations:
LLaVA's turns (also with sounds), M3IT's instruction with pictures in base64, and OpenAQA's question
about a sound. `<image>` and `<audio>` mark places only as often as a record has media: further ones
are words. Files are read when a conversation is, so a set may be far larger than memory."""

import base64
import binascii
import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from common.data.audio import read_audio
from common.data.conversations.messages import ContentPart, Conversation, Message, Picture
from common.data.document import Recording
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
        try:
            return self.read(self.records[index], self.media)
        except UserError as error:
            raise UserError(f"record {index} of {self.name}: {error}") from error


def open_instructions(path: Path, *, kind: str, media: Path) -> InstructionFile:
    """A JSON file of a list of records, or one of a record a line.

    Raises:
        UserError: the kind is unknown, or the file is missing or no such JSON.
    """
    if kind not in READERS:
        raise UserError(f"{kind=} is not one of {', '.join(READERS)}")
    try:
        text = path.read_text(encoding="utf-8")
        is_list = text.lstrip().startswith("[")
        records = json.loads(text) if is_list else [json.loads(x) for x in text.splitlines() if x]
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}; check the path") from error
    except ValueError as error:
        raise UserError(f"{path} is no JSON ({error}); copy it again") from error
    if not all(isinstance(record, dict) for record in records):
        raise UserError(f"{path} is no list of records; each is an object with named fields")
    return InstructionFile(records=records, read=READERS[kind], media=media, name=path.name)


def read_llava(record: Fields, media: Path) -> Conversation:
    """`{"image": "a.jpg", "conversations": [{"from": "human", "value": "<image>\\nWhat?"}, ...]}`

    Raises:
        UserError: a field is missing or malformed, a speaker unknown, a medium unreadable, or media
            lack their marks.
    """
    names = {"image": _names(record, "image"), "audio": _names(record, "audio")}
    left = {kind: len(found) for kind, found in names.items()}
    messages = []
    for turn in _list(record, "conversations"):
        speaker = _text(turn, "from")
        if speaker not in SPEAKERS:
            raise UserError(f"unknown speaker {speaker!r}; use {', '.join(SPEAKERS)}")
        content = _marked(_text(turn, "value"), left if speaker == "human" else {})
        messages.append(Message(role=SPEAKERS[speaker], content=content))
    for kind, num in left.items():
        if num:
            raise UserError(f"{num} {kind} files have no <{kind}> in the turns; add the marks")
    return {
        "messages": messages,
        "images": [read_image(_inside(media, name)) for name in names["image"]],
        "audios": [read_audio(_inside(media, name)) for name in names["audio"]],
    }


def read_m3it(record: Fields, media: Path) -> Conversation:
    """`{"instruction": ..., "inputs": ..., "image_base64_str": [...], "outputs": ...}`

    Raises:
        UserError: a field is missing or malformed, or a picture unreadable.
    """
    encoded = _names(record, "image_base64_str")
    pictures = [_picture(item, number) for number, item in enumerate(encoded)]
    return _single(record, pictures, [], details="inputs", answer="outputs")


def read_openaqa(record: Fields, media: Path) -> Conversation:
    """`{"audio_id": "a.wav", "instruction": ..., "input": ..., "output": ...}`

    Raises:
        UserError: a field is missing or malformed, or the sound unreadable.
    """
    sounds = [read_audio(_inside(media, name)) for name in _names(record, "audio_id")]
    return _single(record, [], sounds, details="input", answer="output")


READERS: Mapping[str, Reader] = {
    "llava": read_llava,
    "m3it": read_m3it,
    "openaqa": read_openaqa,
}


def _single(
    record: Fields,
    images: Sequence[Picture],
    audios: Sequence[Recording],
    *,
    details: str,
    answer: str,
) -> Conversation:
    """Media, then the instruction, then its details on a line of their own."""
    words = [_text(record, "instruction"), _text(record, details) if details in record else ""]
    content: list[ContentPart] = [{"type": "image"} for _ in images]
    content += [{"type": "audio"} for _ in audios]
    content.append({"type": "text", "text": "\n".join(part for part in words if part)})
    asked = Message(role="user", content=content)
    told = Message(role="assistant", content=_text(record, answer))
    return {"messages": [asked, told], "images": images, "audios": audios}


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


def _inside(media: Path, name: str) -> Path:
    """A published file says which of the media it means, and nothing else on this machine."""
    path = (media / name).resolve()
    if not path.is_relative_to(media.resolve()):
        raise UserError(f"{name} leads out of {media}; write paths relative to it")
    return path


def _picture(encoded: str, number: int) -> Picture:
    try:
        return decode_image(base64.b64decode(encoded, validate=True), name=f"picture {number}")
    except (binascii.Error, BadSample) as error:
        raise UserError(f"picture {number} cannot be decoded ({error}); copy it again") from error


def _text(record: object, field: str) -> str:
    value = record.get(field) if isinstance(record, Mapping) else None
    if not isinstance(value, str):
        raise UserError(f"the field {field} is {value!r}; it has to be a text")
    return value


def _list(record: Fields, field: str) -> Sequence[object]:
    value = record.get(field)
    if not isinstance(value, list):
        raise UserError(f"the field {field} is no list")
    return value


def _names(record: Fields, field: str) -> list[str]:
    """One text or a list of them; none when the field is missing."""
    value = record.get(field)
    named = value if isinstance(value, list) else [] if value is None else [value]
    names = [name for name in named if isinstance(name, str)]
    if len(names) < len(named):
        raise UserError(f"the field {field} is no text and no list of texts")
    return names
