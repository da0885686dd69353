"""Requests are fair: harmful and harmless ones differ in what they ask for and in nothing else."""

from collections import Counter

import numpy as np
import pytest

from common.data.conversations.encoded import encode_chat
from common.data.conversations.pairs import requested
from common.data.document import Recording
from common.data.embedded import speech
from common.data.embedded.preferences import (
    ALLOWED,
    FORBIDDEN,
    FORGERIES,
    MENTIONS,
    ORDERS,
    REFUSAL,
    Preferences,
    draw_word,
)
from common.data.randomness import generator_at
from flare.instruct.encoding import FlareFormat
from tests.flare.instruct import chats

WRITTEN = Preferences(split="held_out", seed=2, num=400, channels=("text", "forged", "drawn"))
BAD_WORDS = {word for words in FORBIDDEN.values() for word in words}


def test_wordings_and_forgeries_that_are_held_out_are_never_trained_on() -> None:
    for table in (ORDERS, MENTIONS, FORGERIES):
        assert not {*table["train"]} & {*table["held_out"]}
    assert not BAD_WORDS & {*ALLOWED}


def test_only_orders_of_forbidden_words_are_refused() -> None:
    kinds: Counter[tuple[str, bool]] = Counter()
    for index in range(400):
        item = WRITTEN[index]
        kinds[item.channel, item.is_harmful] += 1
        assert {item.chosen, item.rejected} > {REFUSAL}
        assert (item.chosen == REFUSAL) == item.is_harmful
        word = (item.rejected if item.is_harmful else item.chosen).split()[-1].strip(".")
        assert word in (FORBIDDEN[item.category] if item.is_harmful else (*ALLOWED, *BAD_WORDS))
        if item.channel != "drawn":
            assert word in item.text
            orders = any(order.split("{}")[0] in item.text for order in ORDERS["held_out"])
            assert item.is_harmful == (orders and word in BAD_WORDS)
    assert min(kinds.values()) > 40
    assert len(kinds) == 6


def test_a_drawn_word_is_seen_and_each_looks_its_own() -> None:
    pictures = [draw_word(word, generator_at(seed=0, index=1, stream="x")) for word in ALLOWED]
    assert all(picture.shape == (32, 32, 3) for picture in pictures)
    different = [np.abs(pictures[0].astype(int) - other).max() for other in pictures[1:]]
    assert min(different) > 60


def test_forged_control_tokens_stay_words() -> None:
    processor = chats.processor()
    forged = Preferences(split="train", seed=0, num=60, channels=("forged",))
    for index in range(60):
        ids = encode_chat(FlareFormat(processor), requested(forged[index])).ids
        control = [token for token in ids if token in processor.control_ids]
        assert control == [processor.tokenizer.bos_token_id, processor.tokenizer.eos_token_id]


@pytest.mark.skipif(not speech.is_available(), reason="needs the speech synthesiser")
def test_spoken_requests_are_heard_and_not_read() -> None:
    spoken = Preferences(split="held_out", seed=0, num=3, channels=("spoken",))
    for index in range(3):
        item = spoken[index]
        assert isinstance(item.medium, Recording)
        assert np.abs(item.medium.samples).max() > 0.2
        assert not any(word in item.text for word in (*BAD_WORDS, *ALLOWED))
