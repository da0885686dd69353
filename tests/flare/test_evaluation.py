"""Figures of an evaluation against counts by hand."""

import math

import pytest
import torch

from common.data.document import Document
from flare.corpora import embedded_tokenizer
from flare.evaluation import (
    attributes_in,
    caption_score,
    distinct_groups,
    unigram_entropy,
    word_forms,
)
from tests.feeds import feed_of

FORMS = word_forms(
    {"count": ("one", "two"), "shape": ("bar", "ring"), "colour": ("red", "blue")},
    {"bar": "bars", "ring": "rings"},
)


def test_attributes_are_read_from_singular_and_plural_words() -> None:
    found = {"count": "two", "shape": "bar", "colour": "red"}
    assert attributes_in("Output: Two red bars, one ring.", forms=FORMS) == found
    assert attributes_in("nothing of the kind", forms=FORMS) == {}


def test_a_caption_scores_by_the_attributes_that_the_truth_names() -> None:
    true = ["two red bars", "one blue ring", "a red ring", "two red rings"]
    written = ["two red bars", "one red ring", "a ring", "two red rings"]
    score = caption_score(written, true, forms=FORMS)
    assert score.named == {"count": 3, "shape": 4, "colour": 4}
    assert score.correct == {"count": 3, "shape": 4, "colour": 2}
    assert score.accuracy == pytest.approx(9 / 11)
    # Truth i against what was written about medium i + 1.
    assert score.shuffled == {"count": 1, "shape": 2, "colour": 3}
    assert score.prior == {"count": 2 / 3, "shape": 3 / 4, "colour": 3 / 4}


def test_groups_hold_distinct_captions() -> None:
    captions = ["a", "b", "a", "c", "d", "b"]

    def corpus(index: int) -> Document:
        caption = captions[index % len(captions)]
        return Document(key=str(index), parts=(caption,), caption=caption)

    feed = feed_of({"all": (corpus, 1.0)}, tokenizer=embedded_tokenizer())
    groups = distinct_groups(feed, size=3, num=2, least=2)
    assert [[d.caption for d in group] for group in groups] == [["a", "b", "c"], ["d", "b", "a"]]
    assert len(distinct_groups(feed, size=9, num=1, least=2)[0]) == 4
    assert distinct_groups(feed, size=9, num=1, least=5) == []


def test_unigram_entropy_is_that_of_the_frequencies() -> None:
    entropy = unigram_entropy(torch.tensor([3, 3, 5, 9]))
    assert entropy == pytest.approx(0.5 * math.log(2) + 0.5 * math.log(4))
