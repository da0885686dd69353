"""Conversations as rows of a training run: one document each, with labels on what the assistant
writes. What does not fit goes turn by turn, whole."""

from collections.abc import Sequence
from pathlib import Path
from typing import Literal, get_args

from common.data.conversations.corpus import ConversationCorpus, Measure, turns_in
from common.data.conversations.embedded import TaughtInstructions
from common.data.conversations.encoded import EncodedChat, given, joined
from common.data.conversations.files import file_corpus
from common.data.conversations.messages import Conversations, Turn
from common.data.conversations.pairs import UnalignedRequests
from common.data.corpus import Corpus, Split
from common.data.document import Document
from common.data.embedded.instructions import About, Instructions
from common.data.embedded.preferences import Channel, Preferences
from common.errors import UserError
from common.generation.answers import continued
from flamingo.chat_format import FlamingoFormat
from flamingo.model import FlamingoForConditionalGeneration
from flamingo.processing import FlamingoProcessor

Embedded = Literal["instructions", "requests"]
File = Literal["llava", "m3it"]
ConversationKind = Embedded | File
EMBEDDED_KINDS: tuple[Embedded, ...] = get_args(Embedded)
FILE_KINDS: tuple[File, ...] = get_args(File)

# What a model can be asked that does not hear.
SEEN_AND_READ: tuple[About, ...] = ("scene", "text")
SEEN_CHANNELS: tuple[Channel, ...] = ("text", "forged", "drawn")
MANY = 100_000  # embedded conversations: no short run sees one twice
MOST_SAMPLED_TOKENS = 24


def open_conversations(
    kind: ConversationKind,
    *,
    path: Path | None,
    media: Path | None,
    split: Split,
    seed: int,
    measure: Measure,
) -> Corpus:
    """The conversations of one kind; held-out embedded ones have their own wordings.

    Raises:
        UserError: a path is missing, or the file is not as its kind has it.
    """
    if kind in EMBEDDED_KINDS:
        items = _embedded("train" if split == "train" else "held_out", kind=kind, seed=seed)
        digest = f"{kind}/{split}/{seed}"
        return ConversationCorpus(kind, items, digest=digest, measure=measure)
    if path is None:
        raise UserError(f"a source of kind {kind} needs a path: a .json or .jsonl file of records")
    return file_corpus(kind, path, media=media, split=split, measure=measure)


def num_tokens(processor: FlamingoProcessor, document: Document) -> int:
    """Tokens of a dialogue, without `<s>`, `<image>` and the last `<|endofchunk|>`, as extents
    count them."""
    form = FlamingoFormat(processor)
    chat = joined(map(form.turn, turns_in(document)))
    return max(0, len(chat) - len(chat.images) - 1)


def fitting_dialogue(
    processor: FlamingoProcessor, document: Document, *, max_tokens: int, max_images: int
) -> tuple[EncodedChat, bool]:
    """As many turns as fit, and whether one did not; a single token where none does, that a row is
    never empty.

    Raises:
        UserError: it has a recording.
    """
    form = FlamingoFormat(processor)
    chat, turns = form.begin(), turns_in(document)
    for turn in turns:
        longer = joined([chat, form.turn(turn)])
        if len(longer) > max_tokens or len(longer.images) > max_images:
            return (chat if len(chat) else given(longer.ids[:1])), True
        chat = longer
    return chat, False


def dialogue_samples(
    model: FlamingoForConditionalGeneration,
    processor: FlamingoProcessor,
    documents: Sequence[Document],
) -> list[str]:
    """The model's last answers in held-out dialogues, beside those of the data."""
    form = FlamingoFormat(processor)
    turns = [turns_in(document) for document in documents]
    prompts = [
        joined([form.begin(), *map(form.turn, asked), form.opening()]) for *asked, _ in turns
    ]
    texts = continued(model, form, prompts, max_new_tokens=MOST_SAMPLED_TOKENS)
    return [
        f"{' '.join(map(_words, asked))} -> {text} (data: {_words(told)})"
        for (*asked, told), text in zip(turns, texts, strict=True)
    ]


def _embedded(split: Literal["train", "held_out"], *, kind: str, seed: int) -> Conversations:
    if kind == "instructions":
        return TaughtInstructions(
            Instructions(split=split, seed=seed, num=MANY, subjects=SEEN_AND_READ)
        )
    return UnalignedRequests(Preferences(split=split, seed=seed, num=MANY, channels=SEEN_CHANNELS))


def _words(turn: Turn) -> str:
    return "".join(part for part in turn["parts"] if isinstance(part, str))
