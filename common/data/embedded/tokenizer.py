"""A small byte-level BPE tokenizer, trained in a second on whatever text it is given. Bytes are its
alphabet, so every text survives encoding and decoding. It adds no token of its own accord: who
builds a sequence places `<s>` and `</s>`."""

from collections.abc import Iterable, Sequence

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import TokenizersBackend

from common.data.embedded.documents import (
    caption_document,
    digit_document,
    interleaved_document,
    question_document,
)
from common.data.embedded.episodes import ANSWERS
from common.data.embedded.prose import paragraphs

SPECIAL_TOKENS = ("<pad>", "<s>", "</s>")
NUM_SAMPLES = 150  # documents of each kind
# Answers have to be single tokens; this many occurrences outweigh the pairs of letters in prose.
ANSWER_WEIGHT = 1500


def train_tokenizer(
    texts: Iterable[str],
    *,
    vocab_size: int,
    max_length: int = 2048,
    control_tokens: Sequence[str] = (),
) -> TokenizersBackend:
    """A transformers tokenizer that pads on the left.

    `<pad>`, `<s>` and `</s>` have the ids 0, 1 and 2, a model's own control tokens those after.
    """
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[*SPECIAL_TOKENS, *control_tokens],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return TokenizersBackend(
        tokenizer_object=tokenizer,
        pad_token="<pad>",
        bos_token="<s>",
        eos_token="</s>",
        padding_side="left",
        model_max_length=max_length,
        clean_up_tokenization_spaces=False,
    )


def embedded_texts() -> list[str]:
    """The text to train the tokenizer on: prose, documents of scenes, and every answer."""
    answers = " ".join(word for words in ANSWERS.values() for word in words)
    return [*paragraphs("train"), *_document_texts(), *[f" {answers}"] * ANSWER_WEIGHT]


def _document_texts() -> list[str]:
    documents = [
        kind(0, index, "train")
        for kind in (caption_document, digit_document, question_document, interleaved_document)
        for index in range(NUM_SAMPLES)
    ]
    return [part for document in documents for part in document.parts if isinstance(part, str)]
