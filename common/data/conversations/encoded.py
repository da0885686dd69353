"""Conversations as ids, whatever the model: roles, media and ends are put in as ids by code, all
words are encoded as plain text, so nothing that was written, drawn or said can yield a control
token, a turn or a medium. Targets are what the assistant writes and the end of its turn. A model
says how it writes turns down by a `ChatFormat`."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Literal, Protocol, runtime_checkable

import torch
from jaxtyping import Bool
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence
from transformers import PreTrainedTokenizerBase, ProcessorMixin

from common.data.conversations.messages import Conversation, Part, Picture, Turn, turns_of
from common.data.document import Recording
from common.data.prompt_safety import encode_plain
from common.errors import UserError

Side = Literal["left", "right"]


@dataclass(frozen=True, kw_only=True)
class EncodedChat:
    """Ids of turns, which of them the assistant wrote, and their media in reading order."""

    ids: list[int]
    is_target: list[bool]
    images: list[Picture]
    audios: list[Recording]

    def __len__(self) -> int:
        return len(self.ids)


@runtime_checkable
class ChatFormat(Protocol):
    """How a model writes conversations down, and what of it adapters may adapt."""

    @property
    def processor(self) -> ProcessorMixin:
        """What is saved beside the model."""
        ...

    @property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        """The processor's."""
        ...

    @property
    def ends(self) -> Sequence[int]:
        """Ids at which an answer ends; the first is the one that turns end with."""
        ...

    def begin(self) -> EncodedChat:
        """What stands before the first turn."""
        ...

    def turn(self, turn: Turn) -> EncodedChat:
        """A whole turn.

        Raises:
            UserError: it has a medium that the model does not know.
        """
        ...

    def opening(self) -> EncodedChat:
        """The beginning of the assistant's turn, which the model continues."""
        ...

    def batch_of(self, chats: Sequence[EncodedChat], *, padding_side: Side) -> dict[str, Tensor]:
        """Inputs of the model, without labels."""
        ...

    def lora_targets(self, model: nn.Module) -> str | list[str]:
        """Linear layers that adapters are put on, in PEFT's words."""
        ...


def encode_chat(form: ChatFormat, conversation: Conversation) -> EncodedChat:
    """The whole conversation.

    Raises:
        UserError: it is not in the format (`messages.py`), or the model does not know a medium.
    """
    return joined([form.begin(), *(form.turn(turn) for turn in turns_of(conversation))])


def encode_prompt(form: ChatFormat, conversation: Conversation) -> EncodedChat:
    """The conversation and the opening of an answer, to be continued by the model.

    Raises:
        UserError: as `encode_chat`.
    """
    return joined([encode_chat(form, conversation), form.opening()])


def encode_answer(form: ChatFormat, answer: str) -> EncodedChat:
    """What follows the opening, with its end."""
    ids = [*encode_plain(f" {answer}", form.tokenizer), form.ends[0]]
    return EncodedChat(ids=ids, is_target=[True] * len(ids), images=[], audios=[])


def encode_fitting(form: ChatFormat, conversation: Conversation, *, max_tokens: int) -> EncodedChat:
    """The first turns that fit whole; a turn is never cut, so neither is a medium.

    Raises:
        UserError: as `encode_chat`, or no answer fits.
    """
    kept = [form.begin()]
    left = max_tokens - len(kept[0])
    for turn in turns_of(conversation):
        encoded = form.turn(turn)
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


def joined(pieces: Iterable[EncodedChat]) -> EncodedChat:
    """One behind the other."""
    pieces = list(pieces)
    return EncodedChat(
        ids=[i for piece in pieces for i in piece.ids],
        is_target=[t for piece in pieces for t in piece.is_target],
        images=[image for piece in pieces for image in piece.images],
        audios=[audio for piece in pieces for audio in piece.audios],
    )


def given(ids: Sequence[int]) -> EncodedChat:
    """Ids that nobody learns to write."""
    return EncodedChat(ids=[*ids], is_target=[False] * len(ids), images=[], audios=[])


def as_prompt(chat: EncodedChat) -> EncodedChat:
    """The same without targets."""
    return replace(chat, is_target=[False] * len(chat))


def opening_of(role: str) -> str:
    """`user` -> `User:`"""
    return f"{role.capitalize()}:"


def encode_turn(
    turn: Turn,
    *,
    begin: Sequence[int],
    end: int,
    words: Callable[[str], list[int]],
    slots: Callable[[Part], list[int]],
) -> EncodedChat:
    """The beginning, the role, the parts, the end; adjoining texts are one text, as chat templates
    have it."""
    opening, is_answer = opening_of(turn["role"]), turn["role"] == "assistant"
    begun = [*begin]
    if is_answer:  # encoded alone, for alone it stands when the model is asked
        begun, opening = [*begun, *words(opening)], ""
    pieces = [given(begun)]
    for part in _merged([f"{opening} ", *turn["parts"]]):
        is_text = isinstance(part, str)
        ids = words(part) if isinstance(part, str) else slots(part)
        pieces.append(
            EncodedChat(
                ids=ids,
                is_target=[is_answer and is_text] * len(ids),
                images=[] if isinstance(part, str | Recording) else [part],
                audios=[part] if isinstance(part, Recording) else [],
            )
        )
    pieces.append(EncodedChat(ids=[end], is_target=[is_answer], images=[], audios=[]))
    return joined(pieces)


def padded(chats: Sequence[EncodedChat], *, pad: int, padding_side: Side) -> dict[str, Tensor]:
    """Rows of ids and which of them are real."""
    ids = [torch.tensor(chat.ids) for chat in chats]
    return {
        "input_ids": pad_sequence(ids, True, pad, padding_side),
        "attention_mask": pad_sequence([torch.ones_like(i) for i in ids], True, 0, padding_side),
    }


def padded_targets(chats: Sequence[EncodedChat], *, padding_side: Side) -> Bool[Tensor, "b s"]:
    """Which ids of a batch the assistant wrote."""
    targets = [torch.tensor(chat.is_target) for chat in chats]
    return pad_sequence(targets, True, False, padding_side)


def _merged(parts: Sequence[Part]) -> list[Part]:
    """`["a", "b", picture]` -> `["ab", picture]`"""
    merged: list[Part] = []
    for part in parts:
        if isinstance(part, str) and merged and isinstance(merged[-1], str):
            merged[-1] += part
        else:
            merged.append(part)
    return merged
