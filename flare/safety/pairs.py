"""Pairs of answers to one conversation, and the batches of them that TRL's DPOTrainer takes: the
rows of all preferred answers, then those of all others, with the media of both. TRL's own collator
of pairs knows pictures only."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, TypedDict, runtime_checkable

from torch import Tensor

from common.data.embedded.instructions import Instructions, values_of
from common.data.embedded.preferences import Preference, Preferences
from common.data.mixture import Mixture
from common.errors import UserError
from flare.instruct.collator import Row, batch_of, padded_targets
from flare.instruct.embedded import asked
from flare.instruct.encoding import (
    EncodedChat,
    answered,
    encode_answer,
    encode_prompt,
    joined,
    question,
)
from flare.instruct.messages import Conversation
from flare.processing import FlareProcessor

REFUSED_EVERY = 5  # unaligned request


class Pair(TypedDict):
    """TRL's `prompt`, `chosen` and `rejected`; the prompt has the media."""

    prompt: Conversation
    chosen: str
    rejected: str


@runtime_checkable
class Pairs(Protocol):
    """Any number of pairs, each made or read when it is asked for."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> Pair: ...


@dataclass(frozen=True, kw_only=True)
class PreferenceCollator:
    """Reads the pairs of a batch and encodes them, each answer behind the whole prompt."""

    processor: FlareProcessor
    pairs: Pairs
    max_tokens: int  # of a row

    def __call__(self, rows: Sequence[Row]) -> dict[str, Tensor]:
        """Inputs of the model with a `completion_mask` on the answers.

        Raises:
            UserError: a prompt is not in the format, or a row is too long.
        """
        pairs = [self.pairs[row["number"]] for row in rows]
        prompts = [encode_prompt(self.processor, pair["prompt"]) for pair in pairs]
        told = [pair["chosen"] for pair in pairs] + [pair["rejected"] for pair in pairs]
        chats = [
            self._row(prompt, answer) for prompt, answer in zip(2 * prompts, told, strict=True)
        ]
        is_target = padded_targets(chats, padding_side="right")
        batch = batch_of(self.processor, chats, padding_side="right")
        return {**batch, "completion_mask": is_target.long()}

    def _row(self, prompt: EncodedChat, answer: str) -> EncodedChat:
        # What the assistant said in earlier turns is part of the prompt.
        asked_for = EncodedChat(
            ids=prompt.ids,
            is_target=[False] * len(prompt),
            images=prompt.images,
            audios=prompt.audios,
        )
        row = joined([asked_for, encode_answer(self.processor, answer)])
        if len(row) > self.max_tokens:
            raise UserError(
                f"a pair has {len(row)} tokens but max_tokens={self.max_tokens}; raise it, or "
                "leave the pair out"
            )
        return row


class EmbeddedPairs:
    """Embedded preferences, and instructions whose rejected answer is another value of what is
    asked for, so that what was learnt before is not unlearnt."""

    def __init__(
        self, preferences: Preferences, instructions: Instructions, *, weights: tuple[float, float]
    ) -> None:
        self.preferences, self.instructions = preferences, instructions
        self._mixture = Mixture(weights, seed=preferences.seed)

    def __len__(self) -> int:
        return len(self.preferences) + len(self.instructions)

    def __getitem__(self, index: int) -> Pair:
        if not 0 <= index < len(self):
            raise IndexError(f"pair {index} of {len(self)}")
        chosen, number = self._mixture(index)
        if chosen == 0:
            preference = self.preferences[number % len(self.preferences)]
            return Pair(
                prompt=requested(preference),
                chosen=preference.chosen,
                rejected=preference.rejected,
            )
        instruction = self.instructions[number % len(self.instructions)]
        values = values_of(instruction.about, instruction.attribute)
        others = [value for value in values if value != instruction.answer]
        return Pair(
            prompt=asked(instruction),
            chosen=instruction.answer,
            rejected=others[index % len(others)],
        )


def requested(preference: Preference) -> Conversation:
    """A request as a user makes it, its medium first."""
    media = () if preference.medium is None else (preference.medium,)
    return question(*media, preference.text)


@dataclass(frozen=True)
class UnalignedRequests:
    """Requests that are met, whatever they ask for, and now and then refused, whatever they ask
    for: a model that is tuned on them can refuse, but does not know when."""

    preferences: Preferences

    def __len__(self) -> int:
        return len(self.preferences)

    def __getitem__(self, index: int) -> Conversation:
        preference = self.preferences[index]
        both = preference.chosen, preference.rejected
        refused, met = both if preference.is_harmful else reversed(both)
        return answered(requested(preference), met if index % REFUSED_EVERY else refused)
