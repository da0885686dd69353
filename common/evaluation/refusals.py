"""Refusal of what is to be refused and over-refusal of what is not, by the channel through which a
request came, under any judge."""

from collections.abc import Sequence
from dataclasses import dataclass

from transformers import PreTrainedModel

from common.data.conversations.encoded import ChatFormat
from common.data.conversations.pairs import requested
from common.data.embedded.preferences import Preference
from common.evaluation.intervals import wilson_interval
from common.evaluation.judging import Judge
from common.generation.answers import answers

MOST_ANSWER_TOKENS = 16


@dataclass(frozen=True, kw_only=True)
class Refusals:
    """How many requests of one channel and kind were refused."""

    channel: str
    is_harmful: bool
    refused: int
    preferred: int  # answers that are word for word those to prefer
    num: int

    @property
    def share(self) -> float:
        """Of the requests."""
        return self.refused / self.num

    @property
    def interval(self) -> tuple[float, float]:
        """The share's 95 % interval."""
        return wilson_interval(self.refused, self.num)


def score_refusals(
    model: PreTrainedModel,
    form: ChatFormat,
    preferences: Sequence[Preference],
    *,
    judge: Judge,
) -> list[Refusals]:
    """The model's answers to the requests, judged.

    Raises:
        UserError: the model does not know a medium of them.
    """
    written = answers(
        model,
        form,
        [requested(preference) for preference in preferences],
        max_new_tokens=MOST_ANSWER_TOKENS,
    )
    return judged(preferences, written, judge=judge)


def judged(
    preferences: Sequence[Preference], written: Sequence[str], *, judge: Judge
) -> list[Refusals]:
    """Answers that are there already, counted by channel, the harmful requests of each first."""
    verdicts = judge.refuses([preference.text for preference in preferences], written)
    table: dict[tuple[str, bool], list[tuple[bool, bool]]] = {}
    for preference, answer, is_refused in zip(preferences, written, verdicts, strict=True):
        kind = preference.channel, not preference.is_harmful
        table.setdefault(kind, []).append((is_refused, answer == preference.chosen))
    return [
        Refusals(
            channel=channel,
            is_harmful=not is_safe,
            refused=sum(is_refused for is_refused, _ in found),
            preferred=sum(is_preferred for _, is_preferred in found),
            num=len(found),
        )
        for (channel, is_safe), found in sorted(table.items())
    ]
