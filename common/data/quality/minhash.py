"""Texts that share most of their word 5-grams, by MinHash and locality-sensitive hashing (Broder
1997; Leskovec et al., Mining of Massive Datasets, chapter 3). Two texts of Jaccard similarity s
agree in each of 128 places of their signatures with probability s, and are compared at all with
probability 1 - (1 - s^8)^16: 0.95 at s = 0.8, 0.06 at s = 0.5."""

from functools import cache
from hashlib import blake2b
from typing import TypeAlias

import numpy as np
from jaxtyping import UInt32, UInt64

from common.data.quality.clusters import Clusters, Positions, equal_pairs
from common.data.quality.words import normalised, words

PLACES = 128
BANDS = 16
GRAM = 5  # words
CHUNK = 2048  # 5-grams at a time, so that a book needs no more memory than a page

Signature: TypeAlias = UInt32[np.ndarray, "128"]
Signatures: TypeAlias = UInt32[np.ndarray, "p 128"]


def signature(text: str) -> Signature:
    """Minima of 128 hash functions over the 5-grams; a shorter text is one gram."""
    grams = _grams(words(normalised(text)))
    factors, offsets = _functions()
    lowest = np.full(PLACES, np.iinfo(np.uint32).max, dtype=np.uint32)
    for start in range(0, len(grams), CHUNK):
        # Multiply-shift: the upper half of a product with an odd number, modulo 2^64.
        hashed = (grams[start : start + CHUNK, None] * factors + offsets) >> np.uint64(32)
        np.minimum(lowest, hashed.min(axis=0).astype(np.uint32), out=lowest)
    return lowest


def text_clusters(signatures: Signatures, *, jaccard: float) -> Positions:
    """For each signature the number of its cluster: texts whose estimated similarity is at least
    `jaccard` share one, and so do the ends of a chain of such."""
    clusters = Clusters(len(signatures))
    for band in np.split(signatures, BANDS, axis=1):
        rows = np.ascontiguousarray(band)
        keys = rows.view(np.dtype((np.void, rows.itemsize * rows.shape[1]))).ravel()
        _, numbers = np.unique(keys, return_inverse=True)
        for left, right in equal_pairs(numbers):
            one, other = clusters.apart(left, right)
            alike = (signatures[one] == signatures[other]).mean(axis=1) >= jaccard
            clusters.join(one[alike], other[alike])
    return clusters.roots(np.arange(len(signatures)))


def _grams(found: list[str]) -> UInt64[np.ndarray, " grams"]:
    """One well-mixed number for each run of five words."""
    numbers = {word: blake2b(word.encode(), digest_size=8).digest() for word in set(found)}
    hashed = np.frombuffer(b"".join(numbers[word] for word in found), dtype=np.uint64)
    count = max(len(found) - GRAM + 1, min(len(found), 1))
    total = np.zeros(count, dtype=np.uint64)
    for place in range(min(GRAM, len(found))):
        total = (total ^ hashed[place : place + count]) * np.uint64(0x9E3779B97F4A7C15)
        total ^= total >> np.uint64(29)
    return total


@cache
def _functions() -> tuple[UInt64[np.ndarray, "128"], UInt64[np.ndarray, "128"]]:
    generator = np.random.default_rng(128)
    factors, offsets = generator.integers(0, 2**64, size=(2, PLACES), dtype=np.uint64)
    return factors | np.uint64(1), offsets
