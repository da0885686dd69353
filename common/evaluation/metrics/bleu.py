"""BLEU-1 to BLEU-4 of a corpus (Papineni et al., 2002) as pycocoevalcap computes it: clipped counts
and lengths are summed over the corpus, of several references the one closest in length counts, and
small constants stand where a count is zero. Texts are tokenised before (`caption_tokens`)."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from common.evaluation.metrics.n_grams import LONGEST, n_gram_counts

IN_NUMERATOR, IN_DENOMINATOR = 1e-15, 1e-9


def bleu(candidates: Sequence[str], references: Sequence[Sequence[str]]) -> tuple[float, ...]:
    """BLEU-1, -2, -3 and -4 of tokenised texts, each with one or more references.

    Raises:
        ValueError: there is no candidate, or one without references.
    """
    parts = [_matches(*pair) for pair in zip(candidates, references, strict=True)]
    if not parts:
        raise ValueError("BLEU of no candidates is undefined")
    return _score(
        _Matches(
            correct=tuple(map(sum, zip(*(part.correct for part in parts), strict=True))),
            possible=tuple(map(sum, zip(*(part.possible for part in parts), strict=True))),
            length=sum(part.length for part in parts),
            reference_length=sum(part.reference_length for part in parts),
        )
    )


def sentence_bleu(candidate: str, references: Sequence[str]) -> tuple[float, ...]:
    """BLEU-1 to -4 of a single text; the mean of these is not the corpus's."""
    return _score(_matches(candidate, references))


@dataclass(frozen=True, kw_only=True)
class _Matches:
    """Per size of n-gram: how many stand in a reference too, and how many there are."""

    correct: tuple[int, ...]
    possible: tuple[int, ...]
    length: int
    reference_length: int


def _matches(candidate: str, references: Sequence[str]) -> _Matches:
    if not references:
        raise ValueError(f"candidate {candidate!r} has no reference")
    words = candidate.split()
    sought = [n_gram_counts(reference.split()) for reference in references]
    correct = [0] * LONGEST
    for gram, count in n_gram_counts(words).items():
        correct[len(gram) - 1] += min(count, max(counts[gram] for counts in sought))
    lengths = [len(reference.split()) for reference in references]
    return _Matches(
        correct=tuple(correct),
        possible=tuple(max(0, len(words) - size) for size in range(LONGEST)),
        length=len(words),
        # Of two references equally close the shorter one counts.
        reference_length=min(lengths, key=lambda length: (abs(length - len(words)), length)),
    )


def _score(matches: _Matches) -> tuple[float, ...]:
    ratio = (matches.length + IN_NUMERATOR) / (matches.reference_length + IN_DENOMINATOR)
    brevity = math.exp(1 - 1 / ratio) if ratio < 1 else 1.0
    scores = []
    product = 1.0
    for order, (correct, possible) in enumerate(
        zip(matches.correct, matches.possible, strict=True), 1
    ):
        product *= (correct + IN_NUMERATOR) / (possible + IN_DENOMINATOR)
        scores.append(product ** (1 / order) * brevity)
    return tuple(scores)
