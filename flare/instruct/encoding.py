"""From a conversation to ids and targets, turn by turn: `<s>User: words</s>`, `<s>Assistant:
words</s>`. Roles and media are put in as ids, all words are encoded as plain text, so nothing that
was written, drawn or said can yield a control token, a turn or a medium. Targets are what the
assistant writes and the `</s>` that ends it."""

from collections.abc import Sequence
from dataclasses import dataclass

from common.data.conversations.messages import Conversation, Part, Picture, Turn, turns_of
from common.data.document import Recording
from common.errors import UserError
from flare.processing import FlareProcessor


@dataclass(frozen=True, kw_only=True)
class EncodedChat:
    """Ids of turns, which of them the assistant wrote, and their media in reading order."""

    ids: list[int]
    is_target: list[bool]
    images: list[Picture]
    audios: list[Recording]

    def __len__(self) -> int:
        return len(self.ids)


def encode_chat(processor: FlareProcessor, conversation: Conversation) -> EncodedChat:
    """The whole conversation.

    Raises:
        UserError: it is not in the format (`messages.py`).
    """
    return joined([_encode_turn(processor, turn) for turn in turns_of(conversation)])


def encode_prompt(processor: FlareProcessor, conversation: Conversation) -> EncodedChat:
    """The conversation and `<s>Assistant:`, to be continued by the model.

    Raises:
        UserError: it is not in the format.
    """
    opened = [processor.tokenizer.bos_token_id, *processor.encode_text(_opening("assistant"))]
    begun = EncodedChat(ids=opened, is_target=[False] * len(opened), images=[], audios=[])
    return joined([encode_chat(processor, conversation), begun])


def encode_answer(processor: FlareProcessor, answer: str) -> EncodedChat:
    """What follows `<s>Assistant:`, with its end."""
    ids = [*processor.encode_text(f" {answer}"), processor.tokenizer.eos_token_id]
    return EncodedChat(ids=ids, is_target=[True] * len(ids), images=[], audios=[])


def encode_fitting(
    processor: FlareProcessor, conversation: Conversation, *, max_tokens: int
) -> EncodedChat:
    """The first turns that fit whole; a turn is never cut, so neither is a medium.

    Raises:
        UserError: it is not in the format, or no answer fits.
    """
    kept: list[EncodedChat] = []
    left = max_tokens
    for turn in turns_of(conversation):
        encoded = _encode_turn(processor, turn)
        left -= len(encoded)
        if left < 0:
            break
        kept.append(encoded)
    chat = joined(kept)
    if not any(chat.is_target):
        raise UserError(
            f"no answer of the conversation fits into max_tokens={max_tokens}; raise it, or leave "
            "the conversation out"
        )
    return chat


def joined(pieces: Sequence[EncodedChat]) -> EncodedChat:
    """One behind the other."""
    return EncodedChat(
        ids=[i for piece in pieces for i in piece.ids],
        is_target=[t for piece in pieces for t in piece.is_target],
        images=[image for piece in pieces for image in piece.images],
        audios=[audio for piece in pieces for audio in piece.audios],
    )


def _encode_turn(processor: FlareProcessor, turn: Turn) -> EncodedChat:
    """`<s>`, the role, the parts, `</s>`; adjoining texts are one text, as the template has it."""
    opening, is_answer = _opening(turn["role"]), turn["role"] == "assistant"
    begun = [processor.tokenizer.bos_token_id]
    if is_answer:  # encoded alone, for alone it stands when the model is asked
        begun, opening = [*begun, *processor.encode_text(opening)], ""
    parts = _merged([f"{opening} ", *turn["parts"]])
    said = processor.encode_document(parts)[1:]  # its `<s>` stands before the role
    return EncodedChat(
        ids=[*begun, *said],
        is_target=[False] * len(begun) + [is_answer and i not in _slots(processor) for i in said],
        images=[part for part in parts if not isinstance(part, str | Recording)],
        audios=[part for part in parts if isinstance(part, Recording)],
    )


def _opening(role: str) -> str:
    return f"{role.capitalize()}:"


def _slots(processor: FlareProcessor) -> tuple[int, int]:
    return processor.image_token_id, processor.audio_token_id


def _merged(parts: Sequence[Part]) -> list[Part]:
    """`["a", "b", picture]` -> `["ab", picture]`"""
    merged: list[Part] = []
    for part in parts:
        if isinstance(part, str) and merged and isinstance(merged[-1], str):
            merged[-1] += part
        else:
            merged.append(part)
    return merged
