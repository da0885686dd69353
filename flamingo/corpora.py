"""Where training documents come from: generated scenes and digits, the user's own files, or
conversations (`flamingo/conversations.py`).

The splits are disjoint: generated scenes hold out combinations of attributes, of the user's
documents the last ones are held out.
"""

from collections.abc import Callable, Sequence
from copy import deepcopy
from functools import cache, partial
from pathlib import Path
from typing import Literal, TypeGuard, cast

from transformers import PreTrainedTokenizerBase

from common.data.conversations.corpus import Measure
from common.data.corpus import Corpus, MadeCorpus, Split, part_of
from common.data.document import Document, text_and_images
from common.data.embedded.documents import (
    caption_document,
    digit_document,
    interleaved_document,
    question_document,
)
from common.data.embedded.episodes import episode_document
from common.data.embedded.tokenizer import embedded_texts, train_tokenizer
from common.data.feed import Feed, mixed
from common.data.own_data import OWN_KINDS, open_own
from common.data.sampler import OrderKind
from common.data.shards.corpus import open_shards
from common.errors import UserError
from flamingo.conversations import (
    EMBEDDED_KINDS,
    FILE_KINDS,
    ConversationKind,
    open_conversations,
)
from flamingo.processing import Part

Generated = Literal["episodes", "scenes", "scene_pairs"]
DocumentKind = Generated | Literal["interleaved", "image_pairs"]
Kind = DocumentKind | ConversationKind

EMBEDDED_VOCAB_SIZE = 1024

# Documents of these kinds take turns.
GENERATED: dict[str, tuple[Callable[..., Document], ...]] = {
    "episodes": (episode_document,),
    "scenes": (question_document, interleaved_document),
    "scene_pairs": (caption_document, digit_document),
}


def open_feed(
    kind: Kind,
    *,
    path: Path | None,
    split: Split,
    seed: int,
    tokenizer: PreTrainedTokenizerBase,
    media: Path | None = None,
    measure: Measure | None = None,
) -> Feed:
    """The documents of one kind, without end; generated ones keep their order. Conversations are
    measured, and those of a file have their media in a folder, or beside it."""
    if is_conversation(kind):
        assert measure is not None
        corpus = open_conversations(
            kind, path=path, media=media, split=split, seed=seed, measure=measure
        )
    else:
        stored = cast("DocumentKind", kind)
        corpus = open_corpus(stored, path=path, split=split, seed=seed, tokenizer=tokenizer)
    visits: OrderKind = "stored" if kind in (*GENERATED, *EMBEDDED_KINDS) else "shuffled"
    return mixed([corpus], seed=seed, visits=[visits])


def is_conversation(kind: Kind) -> TypeGuard[ConversationKind]:
    """Whether its documents are dialogues."""
    return kind in (*EMBEDDED_KINDS, *FILE_KINDS)


def open_corpus(
    kind: DocumentKind,
    *,
    path: Path | None,
    split: Split,
    seed: int,
    tokenizer: PreTrainedTokenizerBase,
) -> Corpus:
    """The documents of one kind. Generated ones may have been stored as shards at a path."""
    if kind == "interleaved" or kind == "image_pairs":  # noqa: PLR1714 -- narrows the type
        if path is None:
            raise UserError(f"a source of kind {kind} needs a path: {OWN_KINDS[kind]}")
        return part_of(open_own(kind, path, tokenizer=tokenizer), split, name=str(path))
    if path is not None and split == "train":
        return open_shards(path, tokenizer=tokenizer)
    return MadeCorpus(
        kind,
        partial(generated, kind, split, seed),
        digest=f"{kind}/{split}/{seed}",
        tokenizer=tokenizer,
    )


def generated(kind: Generated, split: Split, seed: int, index: int) -> Document:
    """One generated document."""
    draws = GENERATED[kind]
    held_out = "train" if split == "train" else "unseen_scenes"
    return draws[index % len(draws)](seed, index, held_out)


def embedded_tokenizer(vocab_size: int) -> PreTrainedTokenizerBase:
    """The byte-level tokenizer of the generated corpora, for a model of `vocab_size` rows."""
    # A processor may add tokens to its own.
    return deepcopy(_trained_tokenizer(min(EMBEDDED_VOCAB_SIZE, vocab_size)))


@cache
def _trained_tokenizer(vocab_size: int) -> PreTrainedTokenizerBase:
    return train_tokenizer(embedded_texts(), vocab_size=vocab_size)


def as_prompt(document: Document) -> tuple[tuple[Part, ...], str]:
    """A document up to the start of its last text, and that text."""
    parts: Sequence[Part] = text_and_images(document)
    last = parts[-1]
    if not isinstance(last, str):
        return tuple(parts), ""
    parts = parts[:-1]
    marker = next((mark for mark in ("Short answer:", "Output:") if mark in last), None)
    if marker is None:
        return tuple(parts), last
    prompt, answer = last.split(marker, maxsplit=1)
    return (*parts, prompt + marker), answer
