"""Where FLARE's documents come from: generated scenes, sounds, digits, speech and English, the
user's own pairs and text, or conversations (`flare/instruct/task_corpora.py`).

Splits are disjoint: generated scenes and sounds hold out combinations of attributes, digits and
voices are divided, and of the user's documents the last ones are held out.
"""

from collections.abc import Callable, Sequence
from copy import deepcopy
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Literal, TypeGuard

from transformers import PreTrainedTokenizerBase

from common.data.conversations.corpus import Measure
from common.data.corpus import ENDLESS, Corpus, MadeCorpus, part_of
from common.data.document import Document
from common.data.embedded import mixed_documents, speech
from common.data.embedded.digits import DIGIT_WORDS
from common.data.embedded.families import PLACE_FIRST_ODDS, member_at, scene_of, sound_of
from common.data.embedded.mixed_documents import MixedSplit, scene_document, sound_document
from common.data.embedded.prose import ProseSplit, paragraphs
from common.data.embedded.sound_captions import SOUND_PLURALS
from common.data.embedded.sounds import SOUND_ATTRIBUTES
from common.data.embedded.speech import spoken_caption
from common.data.embedded.tokenizer import (
    ANSWER_WEIGHT,
    NUM_SAMPLES,
    embedded_texts,
    train_tokenizer,
)
from common.data.feed import Feed, mixed
from common.data.own_data import OWN_KINDS, OwnKind, open_own
from common.data.sampler import OrderKind
from common.data.shards.corpus import open_shards
from common.errors import UserError
from flare.instruct.task_corpora import (
    EMBEDDED_KINDS,
    FILE_KINDS,
    ConversationKind,
    open_conversations,
)
from flare.processing import CONTROL_TOKENS

Generated = Literal["scenes", "sounds", "digits", "speech", "mixed", "prose"]
Kind = Generated | OwnKind | ConversationKind
# The user's own data have no unseen pairs: for them it is another name of validation.
CorpusSplit = Literal["train", "validation", "unseen_pairs"]

EMBEDDED_VOCAB_SIZE = 1024
SPLITS: dict[CorpusSplit, MixedSplit] = {
    "train": "train",
    "validation": "unseen",
    "unseen_pairs": "unseen_pairs",
}
# Documents of these kinds take turns.
GENERATED: dict[str, tuple[Callable[[int, int, MixedSplit], Document], ...]] = {
    "scenes": (mixed_documents.image_caption,),
    "sounds": (mixed_documents.sound_caption,),
    "digits": (mixed_documents.digit_caption,),
    "speech": (mixed_documents.spoken_digit,),
    "mixed": (
        mixed_documents.scene_and_sound,
        mixed_documents.image_question,
        mixed_documents.sound_question,
    ),
}


@dataclass(frozen=True, kw_only=True)
class SourceConfig:
    """One kind of documents in the mixture."""

    # Generated: scenes, sounds, digits, speech, mixed, prose. By path: image_pairs, audio_pairs,
    # interleaved, text. Conversations: instructions, requests; by path: llava, m3it, openaqa.
    # Pairs of answers: preferences; by path: pairs.
    kind: Kind
    # Documents of this kind in proportion to those of the others.
    weight: float
    # Folder of shards or of pairs, or a file of text or documents. Of generated kinds the shards
    # that `prepare_data.py embedded` wrote, or None to generate them on the way. Of conversations
    # and pairs a file of records.
    path: Path | None = None
    # Folder that the names of media in a file of records are relative to; None: that of the file.
    media: Path | None = None

    def __post_init__(self) -> None:
        if self.weight <= 0:
            raise UserError(f"weight of {self.kind} must be positive, not {self.weight}; leave out")


def open_feed(
    sources: Sequence[SourceConfig],
    *,
    split: CorpusSplit,
    seed: int,
    family_size: int,
    tokenizer: PreTrainedTokenizerBase,
    measure: Measure | None = None,
) -> Feed:
    """All sources mixed by weight; `measure` is needed for conversations."""
    corpora = [
        open_corpus(
            source.kind,
            path=source.path,
            media=source.media,
            measure=measure,
            split=split,
            seed=seed,
            family_size=family_size,
            tokenizer=tokenizer,
        )
        for source in sources
    ]
    # Generated documents come at random already, and neighbours shall stay side by side.
    visits: list[OrderKind] = [
        "stored" if source.kind in (*GENERATED, *EMBEDDED_KINDS) else "shuffled"
        for source in sources
    ]
    weights = [source.weight for source in sources]
    return mixed(corpora, seed=seed, visits=visits, weights=weights)


def open_corpus(
    kind: Kind,
    *,
    path: Path | None,
    split: CorpusSplit,
    seed: int,
    family_size: int,
    tokenizer: PreTrainedTokenizerBase,
    media: Path | None = None,
    measure: Measure | None = None,
) -> Corpus:
    """The documents of one kind. Generated ones may have been stored as shards at a path.

    Of the training scenes and sounds `family_size` in a row are neighbours: they differ from the
    first of them in one attribute.
    """
    if is_conversation(kind):
        assert measure is not None
        return open_conversations(
            kind,
            path=path,
            media=media,
            split="train" if split == "train" else "validation",
            seed=seed,
            measure=measure,
        )
    if kind in OWN_KINDS:
        if path is None:
            raise UserError(f"a source of kind {kind} needs a path: {OWN_KINDS[kind]}")
        whole = open_own(kind, path, tokenizer=tokenizer)
        return part_of(whole, "train" if split == "train" else "validation", name=str(path))
    if path is not None and split == "train":
        return open_shards(path, tokenizer=tokenizer)
    size = len(paragraphs(_prose_split(split))) if kind == "prose" else ENDLESS
    make = draw_of(kind, split=split, seed=seed, family_size=family_size)
    digest = f"{kind}/{split}/{seed}/{family_size}"
    return MadeCorpus(kind, make, size=size, digest=digest, tokenizer=tokenizer)


def draw_of(
    kind: Kind, *, split: CorpusSplit, seed: int, family_size: int
) -> Callable[[int], Document]:
    """Index -> generated document; of prose there are so many, of the rest there is no end."""
    if kind == "prose":
        return partial(_paragraph, paragraphs(_prose_split(split)), split)
    if kind == "speech" and not speech.is_available():
        raise UserError("speech needs the program espeak-ng; install it or leave speech out")
    if kind in ("scenes", "sounds") and split == "train":
        return partial(_member, kind, seed, family_size)
    draws = GENERATED[kind]
    return lambda index: draws[index % len(draws)](seed, index, SPLITS[split])


def is_conversation(kind: Kind) -> TypeGuard[ConversationKind]:
    """Of a kind whose documents are conversations or pairs."""
    return kind in (*EMBEDDED_KINDS, *FILE_KINDS)


def embedded_tokenizer() -> PreTrainedTokenizerBase:
    """The byte-level tokenizer of the generated corpora, FLARE's control tokens in front.

    `<pad> <s> </s> <image> <audio> <mask> <emb>` have the ids 0 to 6.
    """
    return deepcopy(_trained_tokenizer())  # a processor may add tokens to its own


@cache
def _trained_tokenizer() -> PreTrainedTokenizerBase:
    return train_tokenizer(
        [*embedded_texts(), *_mixed_texts()],
        vocab_size=EMBEDDED_VOCAB_SIZE,
        control_tokens=CONTROL_TOKENS,
    )


def _member(kind: Kind, seed: int, family_size: int, index: int) -> Document:
    """A scene or sound of a family of neighbours, with its full caption."""
    member = member_at(seed=seed, index=index, family_size=family_size, stream=f"flare/{kind}")
    key = f"{kind}/train/{seed}/{index}"
    if kind == "scenes":
        scene = scene_of(member, odds=PLACE_FIRST_ODDS)
        return scene_document(scene, member.own, key=key)
    return sound_document(sound_of(member), member.own, key=key)


def _prose_split(split: CorpusSplit) -> ProseSplit:
    return "train" if split == "train" else "held_out"


def _paragraph(texts: Sequence[str], split: CorpusSplit, index: int) -> Document:
    return Document(key=f"prose/{split}/{index}", parts=(texts[index],))


def _mixed_texts() -> list[str]:
    """Texts of generated documents, and every word for a sound.

    Of speech the captions, whether it can be spoken or not: ids must not depend on the machine.
    """
    kinds = [kind for name, kinds in GENERATED.items() if name != "speech" for kind in kinds]
    documents = [kind(0, index, "train") for kind in kinds for index in range(NUM_SAMPLES)]
    texts = [part for document in documents for part in document.parts if isinstance(part, str)]
    words = [*SOUND_PLURALS.values(), *(w for ws in SOUND_ATTRIBUTES.values() for w in ws)]
    spoken = [spoken_caption(word) for word in DIGIT_WORDS]
    return [*texts, *spoken, *[f" {' '.join(words)}"] * ANSWER_WEIGHT]
