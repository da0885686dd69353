"""The embedded tokenizer: lossless, deterministic, answers as single tokens."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from transformers import TokenizersBackend

from common.data.embedded.captions import PLURALS
from common.data.embedded.episodes import ANSWERS
from common.data.embedded.tokenizer import embedded_texts, train_tokenizer
from common.data.prompt_safety import encode_plain
from common.data.prompts import OUTPUT_PROMPT, completed, question_prompt

VOCAB_SIZE = 1024


@pytest.fixture(scope="module")
def texts() -> list[str]:
    return embedded_texts()


@pytest.fixture(scope="module")
def tokenizer(texts: list[str]) -> TokenizersBackend:
    return train_tokenizer(texts, vocab_size=VOCAB_SIZE)


@pytest.mark.proves("H2", "text through the tokenizer", 100)
@given(text=st.text())
def test_any_text_survives_encoding_and_decoding(tokenizer: TokenizersBackend, text: str) -> None:
    assert tokenizer.decode(tokenizer.encode(text)) == text


def test_training_again_gives_the_same_vocabulary(
    tokenizer: TokenizersBackend, texts: list[str]
) -> None:
    again = train_tokenizer(texts, vocab_size=VOCAB_SIZE)
    assert again.get_vocab() == tokenizer.get_vocab()
    assert len(again) == VOCAB_SIZE


@pytest.mark.parametrize("word", [word for words in ANSWERS.values() for word in words])
def test_an_answer_is_one_token_with_its_space(tokenizer: TokenizersBackend, word: str) -> None:
    assert len(tokenizer.encode(f" {word}")) == 1


@pytest.mark.parametrize("word", list(PLURALS.values()))
def test_a_plural_is_one_token_with_its_space(tokenizer: TokenizersBackend, word: str) -> None:
    assert len(tokenizer.encode(f" {word}")) == 1


@pytest.mark.parametrize("prompt", [OUTPUT_PROMPT, question_prompt("What colour is shown?")])
def test_the_tokens_of_a_prompt_begin_the_tokens_of_its_completion(
    tokenizer: TokenizersBackend, prompt: str
) -> None:
    ids = tokenizer.encode(prompt)
    assert tokenizer.encode(completed(prompt, "red")) == [*ids, *tokenizer.encode(" red")]


def test_special_tokens_come_first_and_are_not_added_unasked(tokenizer: TokenizersBackend) -> None:
    specials = (tokenizer.pad_token_id, tokenizer.bos_token_id, tokenizer.eos_token_id)
    assert specials == (0, 1, 2)
    assert not set(tokenizer.encode("two red circles")) & set(specials)


@pytest.mark.parametrize("text", ["", " two  red", "</s>red<pad>", "drei ß\n\n<s>"])
def test_plain_text_is_encoded_as_by_transformers_whatever_was_asked_before(
    tokenizer: TokenizersBackend, text: str
) -> None:
    tokenizer(["red", "two"], padding="max_length", max_length=5, truncation=True)
    ids = encode_plain(text, tokenizer)
    assert ids == tokenizer(text, add_special_tokens=False, split_special_tokens=True)["input_ids"]
    assert tokenizer.decode(ids) == text


def test_a_batch_is_padded_on_the_left(tokenizer: TokenizersBackend) -> None:
    batch = tokenizer(["red", "two red circles"], padding=True)
    assert batch["input_ids"][0][0] == 0
    assert batch["attention_mask"][0][-1] == 1
