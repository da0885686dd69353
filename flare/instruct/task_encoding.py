"""Dialogues as rows of a training run: the ids and the masks of `encoding.py`, one document of a
row for a conversation, two for a pair. Targets are what the assistant writes, of a pair the
preferred answer; both answers of a pair are marked, to be preferred one over the other."""

from collections.abc import Sequence
from dataclasses import replace

import torch

from common.data.conversations.corpus import turns_in
from common.data.conversations.encoded import (
    EncodedChat,
    as_prompt,
    encode_answer,
    given,
    joined,
)
from common.data.document import Document
from common.objectives.language import IGNORED
from flare.encoding import Answer, DocumentEncoder, FlareExample
from flare.instruct.encoding import FlareFormat
from flare.processing import FlareProcessor


def encode_dialogue(
    encoder: DocumentEncoder, document: Document, *, max_tokens: int, reference: Sequence[float]
) -> tuple[FlareExample, bool]:
    """A dialogue as an example, and whether it lost something.

    Of a conversation too long the last turns go, whole; of a pair nothing is left, for half an
    answer is no answer. `reference`: log-probabilities of the answers before training.
    """
    form = FlareFormat(encoder.processor)
    whole = _chats(form, document)
    chats = whole if _total(whole) <= max_tokens else [_fitting(form, document, max_tokens)]
    ids = [torch.tensor(chat.ids) for chat in chats]
    taught = [torch.tensor(chat.is_target) for chat in chats]
    for rejected in taught[1:]:
        rejected.zero_()
    row = torch.cat(ids)
    example = encoder.example(
        document,
        ids=row,
        labels=row.masked_fill(~torch.cat(taught), IGNORED),
        documents=torch.arange(len(ids)).repeat_interleave(torch.tensor([len(i) for i in ids])),
        images=[image for chat in chats for image in chat.images],
        clips=[clip for chat in chats for clip in chat.audios],
    )
    answers = _answers(chats, reference) if len(chats) > 1 else ()
    return replace(example, answers=answers), chats is not whole


def num_tokens(processor: FlareProcessor, document: Document) -> int:
    """Tokens that a dialogue takes in a row, without `<s>` and `</s>` of one document and without
    the slots of media, as extents count them."""
    slots = processor.image_token_id, processor.audio_token_id
    chats = _chats(FlareFormat(processor), document)
    return sum(i not in slots for chat in chats for i in chat.ids) - 2


def _chats(form: FlareFormat, document: Document) -> list[EncodedChat]:
    """The conversation, or the prompt with each of its two answers."""
    assert document.dialogue is not None
    chat = joined([form.begin(), *(form.turn(turn) for turn in turns_in(document))])
    if not document.dialogue.answers:
        return [chat]
    # What the assistant said in earlier turns is part of the prompt.
    prompt = as_prompt(joined([chat, form.opening()]))
    return [joined([prompt, encode_answer(form, told)]) for told in document.dialogue.answers]


def _total(chats: Sequence[EncodedChat]) -> int:
    return sum(len(chat) for chat in chats)


def _fitting(form: FlareFormat, document: Document, max_tokens: int) -> EncodedChat:
    """As many turns as fit, of a pair none; instead of nothing `<s>`, for a row is never empty."""
    assert document.dialogue is not None
    kept = [form.begin()]
    for turn in [] if document.dialogue.answers else turns_in(document):
        kept.append(form.turn(turn))
        if _total(kept) > max_tokens:
            kept.pop()
            break
    chat = joined(kept)
    return chat if len(chat) else given([form.tokenizer.bos_token_id])


def _answers(chats: Sequence[EncodedChat], reference: Sequence[float]) -> tuple[Answer, ...]:
    """The end of each chat."""
    answers, end = [], 0
    for chat, log_prob in zip(chats, reference, strict=True):
        end += len(chat)
        num = sum(chat.is_target)
        answers.append(Answer(first=end - num, num=num, reference=log_prob))
    return tuple(answers)
