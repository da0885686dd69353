"""A conversation that is remembered is the one that is read anew for each answer, with each picture
encoded once, for both models."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import pytest
import torch

from common.data.conversations.encoded import ChatFormat, given, joined
from common.data.conversations.messages import Part, question, turns_of
from common.errors import UserError
from common.generation.cached_chat import CachedChat
from common.generation.chat import Chat
from flamingo.chat import flamingo_chat
from flamingo.chat_format import FlamingoFormat
from flare.chat import flare_chat
from flare.instruct.encoding import FlareFormat
from tests.flamingo import tiny as tiny_flamingo
from tests.flare.instruct import chats
from tests.flare.instruct.chats import BLUE, HUM, RED

TURNS: list[list[Part]] = [["hi"], [RED, "what is ", BLUE, "it?"], ["</s> and <image>"], [RED]]


@dataclass(frozen=True, kw_only=True)
class Subject:
    """One of the two models."""

    model: Any
    form: ChatFormat
    kind: type

    def chat(self) -> Chat:
        chat = self.kind(self.model, self.form.processor)
        assert isinstance(chat, Chat)
        return chat


@pytest.fixture(scope="module", params=["flamingo", "flare"])
def subject(request: pytest.FixtureRequest) -> Subject:
    if request.param == "flare":
        flare = chats.processor()
        form: ChatFormat = FlareFormat(flare)
        return Subject(model=chats.model(flare), form=form, kind=flare_chat)
    processor = tiny_flamingo.processor()
    model = tiny_flamingo.model(vocab_size=300)
    return Subject(model=model, form=FlamingoFormat(processor), kind=flamingo_chat)


def test_remembered_turns_are_answered_as_the_whole_conversation_is(subject: Subject) -> None:
    chat, encoded = subject.chat(), list[int]()
    count = subject.model.vision_encoder.register_forward_pre_hook(
        lambda module, inputs: encoded.append(len(inputs[0]))
    )
    subject.model.train()
    written = [said(chat, parts) for parts in TURNS]
    count.remove()
    assert subject.model.training
    subject.model.eval()
    assert written == read_anew(subject, TURNS, [5] * 4)
    assert len({*written}) > 1
    assert sum(encoded) == 3  # each picture once
    chat.restart()
    assert said(chat, TURNS[1]) == read_anew(subject, TURNS[1:2], [5])[0]


def test_an_answer_that_is_cut_short_counts_as_whole(subject: Subject) -> None:
    """By the one who asked, by closing the iterator, and by asking on."""
    chat, lengths = subject.chat(), [2, 0, 0, 5]
    asked = iter([False, False, True])
    *_, first = chat.say(TURNS[0], max_new_tokens=9, stop=lambda: next(asked))
    begun = []
    for turn in (1, 2):

        def count(turn: int = turn) -> bool:
            lengths[turn] += 1  # a token each time that it is asked
            return False

        writing = chat.say(TURNS[turn], max_new_tokens=9, stop=count)
        begun.append((writing, next(writing)))
        if turn == 1:
            writing.close()
    last = said(chat, TURNS[3])
    assert [first, *(text for _, text in begun), last] == read_anew(subject, TURNS, lengths)
    assert max(lengths[1:3]) < 9
    assert all(list(writing) == [] for writing, _ in begun)


def test_answers_only_grow_and_a_cold_answer_is_the_greedy_one(subject: Subject) -> None:
    chat = subject.chat()
    grown = [*chat.say(TURNS[1], max_new_tokens=8)]
    assert all(after.startswith(before) for before, after in pairwise(grown))
    assert len({*grown}) == len(grown)
    chat.restart()
    *_, cold = chat.say(TURNS[1], max_new_tokens=8, temperature=1e-4)
    assert cold == grown[-1]


def test_what_does_not_fit_is_refused_in_one_line_and_not_said(subject: Subject) -> None:
    chat = CachedChat(subject.model, subject.form, max_tokens=60)
    first = said(chat, TURNS[0])
    with pytest.raises(UserError, match="but the model reads 60; say less") as caught:
        chat.say(["x" * 40], max_new_tokens=5)
    assert "\n" not in str(caught.value)
    expected = read_anew(subject, [TURNS[0], ["a"]], [5, 5])
    assert [first, said(chat, ["a"])] == expected


def test_flamingo_refuses_to_hear_and_goes_on() -> None:
    chat = flamingo_chat(tiny_flamingo.model(vocab_size=300), tiny_flamingo.processor())
    with pytest.raises(UserError, match="Flamingo reads text and pictures only"):
        chat.say([HUM], max_new_tokens=5)
    assert said(chat, ["hi"])


def said(chat: Chat, parts: Sequence[Part]) -> str:
    """The whole answer."""
    return [*chat.say(parts, max_new_tokens=5)][-1]


@torch.no_grad()
def read_anew(subject: Subject, turns: Sequence[Sequence[Part]], most: Sequence[int]) -> list[str]:
    """The answers in turn, each by transformers' `generate` over everything that was said."""
    form, pieces, texts = subject.form, [subject.form.begin()], []
    for parts, max_new_tokens in zip(turns, most, strict=True):
        pieces += [*map(form.turn, turns_of(question(*parts))), form.opening()]
        whole = joined(pieces)
        ids = subject.model.generate(
            **form.batch_of([whole], padding_side="right"),
            max_new_tokens=max_new_tokens,
            do_sample=False,
            eos_token_id=[*form.ends],
            pad_token_id=form.tokenizer.pad_token_id,
        )
        written = [token for token in ids[0, len(whole) :].tolist() if token not in form.ends]
        texts.append(form.tokenizer.decode(written, skip_special_tokens=True).strip())
        pieces += [given(written), given(form.ends[:1])]
    return texts
