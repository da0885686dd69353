"""Pairs of answers to one conversation: the preferred one and the other. Among them the embedded
requests, some of which are to be refused, with instructions in between."""

from dataclasses import dataclass
from typing import Protocol, TypedDict, runtime_checkable

from common.data.conversations.embedded import asked
from common.data.conversations.messages import Conversation, answered, question
from common.data.embedded.instructions import Instructions, values_of
from common.data.embedded.preferences import Preference, Preferences
from common.data.mixture import Mixture

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
