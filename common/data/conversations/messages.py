"""One format of conversations for tuning, evaluation and preferences: `messages` of roles and
contents, and the media in reading order that the parts of the contents stand for. It is the format
of TRL with sounds added; what is no such conversation is refused in one line."""

from collections.abc import Sequence
from typing import Literal, NotRequired, Protocol, TypedDict, runtime_checkable

import numpy as np
from PIL import Image

from common.data.document import Recording
from common.errors import UserError

Picture = np.ndarray | Image.Image
Part = str | Picture | Recording

ROLES = ("system", "user", "assistant")


class ContentPart(TypedDict):
    """A piece of text, or the place of the next picture or sound."""

    type: Literal["text", "image", "audio"]
    text: NotRequired[str]


class Message(TypedDict):
    """One turn."""

    role: str
    content: str | Sequence[ContentPart]


class Conversation(TypedDict):
    """Turns, and their media in reading order."""

    messages: Sequence[Message]
    images: NotRequired[Sequence[Picture]]
    audios: NotRequired[Sequence[Recording]]


@runtime_checkable
class Conversations(Protocol):
    """Any number of conversations, each made or read when it is asked for."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> Conversation: ...


class Turn(TypedDict):
    """A message with its media in their places."""

    role: str
    parts: list[Part]


def question(*parts: Part) -> Conversation:
    """One turn of a user, of texts and media in reading order."""
    return {
        "messages": [Message(role="user", content=[_content_part(part) for part in parts])],
        "images": [part for part in parts if not isinstance(part, str | Recording)],
        "audios": [part for part in parts if isinstance(part, Recording)],
    }


def answered(conversation: Conversation, answer: str) -> Conversation:
    """The conversation with the assistant's next turn."""
    turn = Message(role="assistant", content=answer)
    return {**conversation, "messages": [*conversation["messages"], turn]}


def turns_of(conversation: Conversation) -> list[Turn]:
    """Messages with their media in their places.

    Raises:
        UserError: a role or a part of an unknown kind, text that is no Unicode, or more or fewer
            media than places.
    """
    media: dict[str, list[Part]] = {
        "image": list(conversation.get("images") or ()),
        "audio": list(conversation.get("audios") or ()),
    }
    turns = [
        Turn(role=_role(message, number), parts=_parts(message, number, media))
        for number, message in enumerate(conversation["messages"])
    ]
    spare = {kind: len(left) for kind, left in media.items() if left}
    if spare:
        told = ", ".join(f"{num} {kind}" for kind, num in spare.items())
        raise UserError(f"the conversation has {told} without a place; add a part of that type")
    return turns


def _content_part(part: Part) -> ContentPart:
    if isinstance(part, str):
        return {"type": "text", "text": part}
    return {"type": "audio" if isinstance(part, Recording) else "image"}


def _role(message: Message, number: int) -> str:
    role = message.get("role")
    if role not in ROLES:
        raise UserError(f"message {number} has the role {role!r}; use {', '.join(ROLES)}")
    return role


def _parts(message: Message, number: int, media: dict[str, list[Part]]) -> list[Part]:
    content = message.get("content")
    if isinstance(content, str):
        return [_words(content, number)]
    if not isinstance(content, list | tuple):
        raise UserError(f"the content of message {number} is no text and no list of parts")
    return [_part(part, number, media) for part in content]


def _part(part: ContentPart, number: int, media: dict[str, list[Part]]) -> Part:
    """The part's text, or the next medium of its kind."""
    kind = part.get("type")
    if kind == "text" and isinstance(part.get("text"), str):
        return _words(part["text"], number)
    if kind not in media:
        raise UserError(
            f"message {number} has a part of type {kind!r}; use text with a text, image or audio"
        )
    if not media[kind]:
        raise UserError(f"message {number} has a place for an {kind} that is not given")
    return media[kind].pop(0)


def _words(text: str, number: int) -> str:
    try:
        text.encode()
    except UnicodeEncodeError as error:
        told = f"the text of message {number} has half a character at {error.start}; write it anew"
        raise UserError(told) from None
    return text
