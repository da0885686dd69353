"""What a document is made to teach: masked, causal, or with spans moved to its end.

Hybrid masked-next-token prediction (GPT-BERT): a masked document is read in both directions, some
of its text is hidden, and the hidden token i is predicted at position i - 1 by the same shifted
head that predicts the next token of a causal document. The share of masked documents falls to 0,
so that training ends with a causal generator. `cm3` stays causal throughout: spans are cut out and
told at the end. All functions take one document's ids and an explicit generator.
"""

from dataclasses import dataclass, fields
from typing import Literal

import numpy as np
from jaxtyping import Bool, Int

from common.errors import UserError

Form = Literal["masked", "causal", "cm3"]  # of one document

SPAN_LENGTHS = (1, 2, 3)
MASKED, RANDOM = 0.8, 0.1  # shares of the targets that become `<mask>` or another token
MOST_SPANS = 3  # that cm3 moves


@dataclass(frozen=True, kw_only=True)
class MaskingConfig:
    """How many documents are masked and how much of them is hidden, over a run.

    masked documents: `first_share` until `share_falls_at`, falling linearly to `late_share` at
    `causal_from`, none from there on; hidden text: from `first_rate` to `last_rate`, linearly.
    """

    objective: Literal["mntp_hybrid", "mlm_only", "causal", "cm3"] = "mntp_hybrid"
    first_share: float = 0.5
    late_share: float = 0.1
    share_falls_at: float = 0.8  # of the run
    causal_from: float = 0.9  # of the run
    first_rate: float = 0.30
    last_rate: float = 0.15

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if not isinstance(value, str) and not 0 <= value <= 1:
                raise UserError(f"{field.name}={value} is not a fraction; use a value from 0 to 1")
        if self.share_falls_at > self.causal_from:
            raise UserError(
                f"share_falls_at={self.share_falls_at} comes after causal_from={self.causal_from}"
            )

    def masked_share(self, progress: float) -> float:
        """The share of masked documents at a fraction of the run."""
        if self.objective != "mntp_hybrid":
            return float(self.objective == "mlm_only")
        if progress >= self.causal_from:
            return 0.0
        if progress <= self.share_falls_at:
            return self.first_share
        fallen = (progress - self.share_falls_at) / (self.causal_from - self.share_falls_at)
        return self.first_share + fallen * (self.late_share - self.first_share)

    def mask_rate(self, progress: float) -> float:
        """The share of a masked document's text that is hidden at a fraction of the run."""
        return self.first_rate + min(progress, 1) * (self.last_rate - self.first_rate)

    def draw_form(self, progress: float, generator: np.random.Generator) -> Form:
        """What the next document is made to teach."""
        if self.objective == "cm3":
            return "cm3"
        return "masked" if generator.random() < self.masked_share(progress) else "causal"


def corrupt(
    ids: Int[np.ndarray, " s"],
    maskable: Bool[np.ndarray, " s"],
    generator: np.random.Generator,
    *,
    rate: float,
    mask_id: int,
    random_ids: range,
) -> tuple[Int[np.ndarray, " s"], Bool[np.ndarray, " s"]]:
    """The ids with spans hidden, and which tokens are targets: at least one where possible.

    The text is divided into spans of 1 to 3 tokens, and spans are taken at random until `rate` of
    the maskable tokens are targets. Of these 80 % become `<mask>`, 10 % a token of `random_ids`
    and 10 % stay as they are.
    """
    is_target = _drawn_spans(maskable, generator, rate=rate)
    fate = generator.random(len(ids))
    others = generator.integers(random_ids.start, random_ids.stop, len(ids))
    corrupted = np.where(is_target & (fate < MASKED), mask_id, ids)
    replaced = is_target & (fate >= MASKED) & (fate < MASKED + RANDOM)
    return np.where(replaced, others, corrupted), is_target


def cm3(
    ids: Int[np.ndarray, " s"],
    maskable: Bool[np.ndarray, " s"],
    generator: np.random.Generator,
    *,
    mask_id: int,
    end_id: int,
) -> Int[np.ndarray, " z"]:
    """The ids with spans of text moved to the end, each after a `<mask>` like the one in its place.

    `<s> a b c d </s>` -> `<s> a <mask> d <mask> b c </s>`: a closing `end_id` stays last. A span
    holds nothing but text, so media keep their order; the number of spans is Poisson(1), at least
    1 and at most 3.
    """
    number = int(np.clip(generator.poisson(1), 1, MOST_SPANS))
    spans = _cut_spans(maskable, generator, number=number)
    kept, moved, end = [], [], 0
    for start, stop in spans:
        kept += [*ids[end:start].tolist(), mask_id]
        moved += [mask_id, *ids[start:stop].tolist()]
        end = stop
    rest = ids[end:].tolist()
    closing = [rest.pop()] if rest and rest[-1] == end_id else []
    return np.array([*kept, *rest, *moved, *closing], dtype=ids.dtype)


def _drawn_spans(
    maskable: Bool[np.ndarray, " s"], generator: np.random.Generator, *, rate: float
) -> Bool[np.ndarray, " s"]:
    """Whole spans in random order until the wanted number of tokens is reached; the last is cut."""
    is_target = np.zeros_like(maskable)
    places = np.flatnonzero(maskable)
    if len(places) == 0:
        return is_target
    begins = np.zeros(len(places), dtype=bool)
    ends = generator.choice(SPAN_LENGTHS, len(places)).cumsum()
    begins[ends[ends < len(places)]] = True
    begins[1:] |= np.diff(places) > 1  # what is no text ends a span
    span = begins.cumsum()
    priority = generator.random(len(places) + 1)[span]
    # Rounded at random, so that short documents have the same rate on average.
    wanted = max(1, int(rate * len(places) + generator.random()))
    is_target[places[priority.argsort(kind="stable")[:wanted]]] = True
    return is_target


def _cut_spans(
    maskable: Bool[np.ndarray, " s"], generator: np.random.Generator, *, number: int
) -> list[tuple[int, int]]:
    """Disjoint stretches of text, (first, last + 1) in reading order, each with random ends."""
    free, spans = maskable.copy(), []
    for _ in range(number):
        places = np.flatnonzero(free)
        if len(places) == 0:
            break
        one = int(generator.choice(places))
        blocked = np.flatnonzero(~free)
        first = blocked[blocked < one].max(initial=-1) + 1
        last = blocked[blocked > one].min(initial=len(free)) - 1
        other = int(generator.integers(first, last + 1))
        spans.append((min(one, other), max(one, other) + 1))
        free[spans[-1][0] : spans[-1][1]] = False
    return sorted(spans)
