"""Captions are tokenised as the official Java program tokenises them."""

import pytest

from common.evaluation.metrics.caption_tokens import tokenised
from tests.common.evaluation.metrics.fixtures import official


def test_a_thousand_captions_have_the_tokens_of_the_java_tokenizer():
    cases = official("captions")
    pairs = list(zip(cases["captions"], cases["tokens"], strict=True))
    assert len(pairs) == 1000
    assert [pair for pair in pairs if tokenised(pair[0]) != pair[1]] == []


@pytest.mark.parametrize(
    ("caption", "tokens"),
    [
        ("A man's dog isn't here.", "a man 's dog is n't here"),
        ("(left) wow!! one!", "-lrb- left -rrb- wow !! one"),  # brackets and doubled marks stay
        ("1 1/2 cups", "1\u00a01/2 cups"),
        ("one\ntwo\u2028three", "one two three"),
        ("", ""),
        (" . ", ""),
    ],
)
def test_tokens_are_words_in_lower_case_without_most_punctuation(caption: str, tokens: str):
    assert tokenised(caption) == tokens
