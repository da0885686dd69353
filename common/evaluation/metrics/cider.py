"""CIDEr-D (Vedantam et al., 2015) as pycocoevalcap computes it: per size of n-gram the cosine of
tf-idf vectors, clipped to the reference's and damped by a Gaussian of the difference in length,
meaned over sizes and references, times 10. Document frequencies are those of the references
themselves, or were counted elsewhere. Texts are tokenised before (`caption_tokens`)."""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

from common.evaluation.metrics.n_grams import LONGEST, NGram, n_gram_counts

SIGMA = 6.0


@dataclass(frozen=True, kw_only=True)
class DocumentFrequencies:
    """In the references of how many media each n-gram occurs."""

    counts: Mapping[NGram, int]
    num_documents: int


def document_frequencies(references: Sequence[Sequence[str]]) -> DocumentFrequencies:
    """Count the n-grams of tokenised references, all those of one medium together."""
    counts: Counter[NGram] = Counter()
    for captions in references:
        counts.update({gram for caption in captions for gram in n_gram_counts(caption.split())})
    return DocumentFrequencies(counts=counts, num_documents=len(references))


def cider_d(
    candidates: Sequence[str],
    references: Sequence[Sequence[str]],
    *,
    frequencies: DocumentFrequencies | None = None,
) -> float:
    """Mean CIDEr-D of tokenised texts; 1.2 is what papers print as 120.

    Raises:
        ValueError: there is no candidate, or one without references.
    """
    return fmean(cider_d_each(candidates, references, frequencies=frequencies))


def cider_d_each(
    candidates: Sequence[str],
    references: Sequence[Sequence[str]],
    *,
    frequencies: DocumentFrequencies | None = None,
) -> list[float]:
    """CIDEr-D of every text.

    Raises:
        ValueError: a candidate has no references.
    """
    known = document_frequencies(references) if frequencies is None else frequencies
    scores = []
    for candidate, own in zip(candidates, references, strict=True):
        vector = _vector(candidate, known)
        similarities = [_similarity(vector, _vector(caption, known)) for caption in own]
        scores.append(10 * fmean(similarities))
    return scores


@dataclass(frozen=True, kw_only=True)
class _Vector:
    """Tf-idf weights, their norm per size of n-gram, and the length in words."""

    weights: Mapping[NGram, float]
    norms: tuple[float, ...]
    length: int


def _vector(text: str, frequencies: DocumentFrequencies) -> _Vector:
    words = text.split()
    log_documents = math.log(frequencies.num_documents)
    weights = {
        gram: count * (log_documents - math.log(max(1, frequencies.counts.get(gram, 0))))
        for gram, count in n_gram_counts(words).items()
    }
    squares = [0.0] * LONGEST
    for gram, weight in weights.items():
        squares[len(gram) - 1] += weight * weight
    return _Vector(weights=weights, norms=tuple(map(math.sqrt, squares)), length=len(words))


def _similarity(candidate: _Vector, reference: _Vector) -> float:
    """Meaned over the sizes of n-grams."""
    products = [0.0] * LONGEST
    for gram, weight in candidate.weights.items():
        other = reference.weights.get(gram, 0.0)
        products[len(gram) - 1] += min(weight, other) * other
    norms = zip(candidate.norms, reference.norms, strict=True)
    scales = [own * other or 1.0 for own, other in norms]
    damping = math.exp(-((candidate.length - reference.length) ** 2) / (2 * SIGMA**2))
    return damping * fmean(map(float.__truediv__, products, scales))
