"""Conversations and pairs that a training run draws from: the user's files by path, or the embedded
instructions and requests, whose held-out ones share no wording with those that are trained on."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Literal, get_args

from common.data.conversations.corpus import ConversationCorpus, Measure
from common.data.conversations.embedded import TaughtInstructions
from common.data.conversations.files import file_corpus
from common.data.conversations.messages import Conversations
from common.data.conversations.pairs import EmbeddedPairs, Pairs, UnalignedRequests
from common.data.corpus import Corpus, Split
from common.data.embedded.instructions import Instructions
from common.data.embedded.preferences import Channel, Preferences
from common.errors import UserError

ConversationFile = Literal["llava", "m3it", "openaqa", "pairs"]
EmbeddedConversations = Literal["instructions", "requests", "preferences"]
ConversationKind = ConversationFile | EmbeddedConversations
FILE_KINDS: tuple[ConversationFile, ...] = get_args(ConversationFile)
EMBEDDED_KINDS: tuple[EmbeddedConversations, ...] = get_args(EmbeddedConversations)
PAIR_KINDS = ("pairs", "preferences")

MANY = 100_000  # embedded conversations: no short run sees one twice
NUM_PREFERENCES = 1024  # embedded requests in pairs, and as many instructions
# Spoken requests need a program that not every machine has.
CHANNELS: tuple[Channel, ...] = ("text", "forged", "drawn")
SHARES = (2.0, 1.0)  # of requests and of instructions among the embedded pairs


def open_conversations(
    kind: ConversationKind,
    *,
    path: Path | None,
    media: Path | None,
    split: Split,
    seed: int,
    measure: Measure,
) -> Corpus:
    """The conversations or the pairs of one kind.

    Raises:
        UserError: a path is missing or one too many, or the file is not as its kind has it.
    """
    if kind in EMBEDDED_KINDS:
        if path is not None:
            raise UserError(f"{kind} are made on the way; leave the path {path} out")
        return ConversationCorpus(
            kind,
            EMBEDDED[kind]("train" if split == "train" else "held_out", seed),
            digest=f"{kind}/{split}/{seed}",
            measure=measure,
        )
    if path is None:
        raise UserError(f"a source of kind {kind} needs a path: a .json or .jsonl file of records")
    return file_corpus(kind, path, media=media, split=split, measure=measure)


EmbeddedSplit = Literal["train", "held_out"]


def _instructions(split: EmbeddedSplit, seed: int) -> TaughtInstructions:
    return TaughtInstructions(Instructions(split=split, seed=seed, num=MANY))


def _requests(split: EmbeddedSplit, seed: int) -> UnalignedRequests:
    return UnalignedRequests(Preferences(split=split, seed=seed, num=MANY, channels=CHANNELS))


def _preferences(split: EmbeddedSplit, seed: int) -> EmbeddedPairs:
    # Requests that were met or refused at random are not those that are ranked afterwards.
    requests = Preferences(split=split, seed=seed + 1, num=NUM_PREFERENCES, channels=CHANNELS)
    instructions = Instructions(split=split, seed=seed + 1, num=NUM_PREFERENCES)
    return EmbeddedPairs(requests, instructions, weights=SHARES)


EMBEDDED: Mapping[EmbeddedConversations, Callable[[EmbeddedSplit, int], Conversations | Pairs]] = {
    "instructions": _instructions,
    "requests": _requests,
    "preferences": _preferences,
}
