"""Where FLARE's documents come from: generated scenes, sounds, digits, speech and English, or the
user's own pairs and text.

A corpus is a function from an index, without end, to a document. Splits are disjoint: generated
scenes and sounds hold out combinations of attributes, digits and voices are divided, and of the
user's records the last ones are held out.
"""

from collections.abc import Callable, Sequence
from copy import deepcopy
from functools import cache, partial
from pathlib import Path
from typing import Literal

from transformers import PreTrainedTokenizerBase

from common.data import epochs
from common.data.document import MixedDocument
from common.data.embedded import mixed_documents, speech
from common.data.embedded.digits import DIGIT_WORDS
from common.data.embedded.families import PLACE_FIRST_ODDS, member_at, scene_of, sound_of
from common.data.embedded.mixed_documents import MixedSplit, scene_document, sound_document
from common.data.embedded.prose import paragraphs
from common.data.embedded.sound_captions import SOUND_PLURALS
from common.data.embedded.sounds import SOUND_ATTRIBUTES
from common.data.embedded.speech import spoken_caption
from common.data.embedded.tokenizer import (
    ANSWER_WEIGHT,
    NUM_SAMPLES,
    embedded_texts,
    train_tokenizer,
)
from common.data.epochs import records_of, shuffled
from common.data.folder import AudioRecord, PairRecord, read_audio_pairs, read_pairs
from common.data.texts import read_texts
from common.errors import UserError
from flare.processing import CONTROL_TOKENS

Generated = Literal["scenes", "sounds", "digits", "speech", "mixed", "prose"]
ByPath = Literal["image_pairs", "audio_pairs", "text"]
Kind = Generated | ByPath
# The user's own data have no unseen pairs: for them it is another name of validation.
CorpusSplit = Literal["train", "validation", "unseen_pairs"]
Corpus = Callable[[int], MixedDocument]

EMBEDDED_VOCAB_SIZE = 1024
SPLITS: dict[CorpusSplit, MixedSplit] = {
    "train": "train",
    "validation": "unseen",
    "unseen_pairs": "unseen_pairs",
}
# Documents of these kinds take turns.
GENERATED: dict[str, tuple[Callable[[int, int, MixedSplit], MixedDocument], ...]] = {
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
PATHS = {
    "image_pairs": "a folder of images and their captions",
    "audio_pairs": "a folder of recordings and their captions",
    "text": "a .txt or .jsonl file",
}


def open_corpus(
    kind: Kind, *, path: Path | None, split: CorpusSplit, seed: int, family_size: int
) -> Corpus:
    """The documents of one kind; generated kinds take no path, the others need one.

    Of the training scenes and sounds `family_size` in a row are neighbours: they differ from the
    first of them in one attribute.
    """
    if kind in PATHS:
        if path is None:
            raise UserError(f"a source of kind {kind} needs a path: {PATHS[kind]}")
        return _own(kind, path, split="train" if split == "train" else "validation", seed=seed)
    if path is not None:
        raise UserError(f"{kind} are generated and take no path; remove {path}")
    if kind == "speech" and not speech.is_available():
        raise UserError("speech needs the program espeak-ng; install it or leave speech out")
    if kind == "prose":
        return _prose(split, seed=seed)
    if kind in ("scenes", "sounds") and split == "train":
        return _family(kind, seed=seed, family_size=family_size)
    draws = GENERATED[kind]
    return lambda index: draws[index % len(draws)](seed, index, SPLITS[split])


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


def _family(kind: Kind, *, seed: int, family_size: int) -> Corpus:
    """Scenes or sounds in families of neighbours, each with its full caption."""

    def draw(index: int) -> MixedDocument:
        member = member_at(seed=seed, index=index, family_size=family_size, stream=f"flare/{kind}")
        key = f"{kind}/train/{seed}/{index}"
        if kind == "scenes":
            scene = scene_of(member, odds=PLACE_FIRST_ODDS)
            return scene_document(scene, member.own, key=key)
        return sound_document(sound_of(member), member.own, key=key)

    return draw


def _prose(split: CorpusSplit, *, seed: int) -> Corpus:
    texts = paragraphs("train" if split == "train" else "held_out")
    place = shuffled(len(texts), seed=seed)

    def draw(index: int) -> MixedDocument:
        number = place(index)
        return MixedDocument(key=f"prose/{split}/{number}", parts=(texts[number],))

    return draw


def _own(kind: Kind, path: Path, *, split: epochs.CorpusSplit, seed: int) -> Corpus:
    """The user's records in an order that every epoch has of its own."""
    loaders: Sequence[Callable[[], MixedDocument]]
    if kind == "text":
        loaders = [partial(_text_document, *record) for record in read_texts(path)]
    elif kind == "image_pairs":
        loaders = [partial(_image_document, record) for record in read_pairs(path)]
    else:
        loaders = [partial(_audio_document, record) for record in read_audio_pairs(path)]
    chosen = records_of(loaders, path=path, split=split)
    place = shuffled(len(chosen), seed=seed)
    return lambda index: chosen[place(index)]()


def _text_document(key: str, text: str) -> MixedDocument:
    return MixedDocument(key=key, parts=(text,))


def _image_document(record: PairRecord) -> MixedDocument:
    pair = record.load()
    return MixedDocument(key=pair.key, parts=(pair.image, pair.text), caption=pair.text)


def _audio_document(record: AudioRecord) -> MixedDocument:
    pair = record.load()
    return MixedDocument(key=pair.key, parts=(pair.recording, pair.text), caption=pair.text)


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
