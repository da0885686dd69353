"""Counts of the runs of words that a text is made of."""

from collections import Counter
from collections.abc import Sequence

LONGEST = 4
NGram = tuple[str, ...]


def n_gram_counts(words: Sequence[str]) -> Counter[NGram]:
    """How often each run of one to four words occurs: `["a", "a"] -> {a: 2, a a: 1}`."""
    return Counter(
        tuple(words[start : start + size])
        for size in range(1, LONGEST + 1)
        for start in range(len(words) - size + 1)
    )
