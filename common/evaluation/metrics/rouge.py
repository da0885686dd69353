"""ROUGE-L (Lin, 2004) as pycocoevalcap computes it: F-measure with beta 1.2 of the longest common
subsequence, precision and recall each at their best over the references. Texts are tokenised before
(`caption_tokens`)."""

from collections.abc import Sequence
from statistics import fmean

BETA = 1.2


def rouge_l(candidates: Sequence[str], references: Sequence[Sequence[str]]) -> float:
    """Mean ROUGE-L of tokenised texts, each with one or more references.

    Raises:
        ValueError: there is no candidate, or one without references.
    """
    return fmean(
        sentence_rouge_l(candidate, own)
        for candidate, own in zip(candidates, references, strict=True)
    )


def sentence_rouge_l(candidate: str, references: Sequence[str]) -> float:
    """ROUGE-L of a single text; an empty one counts, as officially, as one empty word."""
    words = candidate.split(" ")
    others = [reference.split(" ") for reference in references]
    common = [_common_length(words, other) for other in others]
    precision = max(common) / len(words)
    recall = max(length / len(other) for length, other in zip(common, others, strict=True))
    if precision == 0 or recall == 0:
        return 0.0
    return (1 + BETA**2) * precision * recall / (recall + BETA**2 * precision)


def _common_length(first: Sequence[str], second: Sequence[str]) -> int:
    """Of the longest common subsequence: `a b c d`, `b x d -> 2`."""
    row = [0] * (len(second) + 1)
    for word in first:
        diagonal = 0
        for place, other in enumerate(second, 1):
            above = row[place]
            row[place] = diagonal + 1 if word == other else max(above, row[place - 1])
            diagonal = above
    return row[-1]
