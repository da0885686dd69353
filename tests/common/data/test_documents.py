"""Pairs and documents of scenes and digits, the digits themselves, and prose."""

from collections import Counter
from collections.abc import Callable

import numpy as np
import pytest
from sklearn.datasets import load_digits

from common.data.document import Document
from common.data.embedded.digits import DIGIT_WORDS, digits_in
from common.data.embedded.documents import (
    caption_document,
    digit_document,
    interleaved_document,
    question_document,
)
from common.data.embedded.episodes import episode_document
from common.data.embedded.prose import paragraphs
from common.data.embedded.scenes import Split

KINDS = (
    caption_document,
    digit_document,
    episode_document,
    interleaved_document,
    question_document,
)
Kind = Callable[[int, int, Split], Document]


def content(document: Document) -> list[str | bytes]:
    return [part if isinstance(part, str) else part.tobytes() for part in document.parts]


@pytest.mark.parametrize("kind", KINDS)
def test_a_document_is_a_function_of_seed_index_and_split(kind: Kind) -> None:
    document = kind(1, 2, "train")
    assert content(kind(1, 2, "train")) == content(document)
    others = [kind(2, 2, "train"), kind(1, 3, "train"), kind(1, 2, "unseen_scenes")]
    assert all(content(other) != content(document) for other in others)
    assert len({document.key, *(other.key for other in others)}) == 4


@pytest.mark.parametrize("kind", KINDS)
def test_in_every_document_a_text_follows_each_image(kind: Kind) -> None:
    for index in range(20):
        parts = kind(0, index, "train").parts
        assert all(isinstance(part, np.ndarray) for part in parts[0::2])
        assert all(isinstance(part, str) for part in parts[1::2])
        assert len(parts) % 2 == 0


def test_questions_are_answered_in_the_prompt_format() -> None:
    text = question_document(0, 0, "train").parts[1]
    assert isinstance(text, str)
    assert text.startswith("Question: ")
    assert "? Short answer: " in text


def test_digit_splits_share_no_digit_and_hold_out_a_fifth_of_each_class() -> None:
    train, held_out = digits_in("train"), digits_in("held_out")
    assert not {digit.index for digit in train} & {digit.index for digit in held_out}
    assert len(train) + len(held_out) == 1797
    labels = load_digits().target
    assert all(DIGIT_WORDS[labels[digit.index]] == digit.word for digit in (*train, *held_out))
    every = Counter(digit.word for digit in (*train, *held_out))
    unseen = Counter(digit.word for digit in held_out)
    for word in DIGIT_WORDS:
        assert unseen[word] / every[word] == pytest.approx(0.2, abs=0.01)


def test_writing_into_a_drawn_digit_leaves_the_data_unchanged() -> None:
    digit_document(0, 0, "train").parts[0][:] = 0
    assert digit_document(0, 0, "train").parts[0].any()


def test_digits_outside_training_are_held_out_ones() -> None:
    train = {digit.image.tobytes() for digit in digits_in("train")}
    for index in range(50):
        assert digit_document(0, index, "unseen_pairs").parts[0].tobytes() not in train


def test_prose_splits_share_no_paragraph_and_hold_single_lines() -> None:
    train, held_out = paragraphs("train"), paragraphs("held_out")
    assert not set(train) & set(held_out)
    assert len(train) > 5 * len(held_out) > 250
    assert not any("\n" in text for text in (*train, *held_out))
