"""All pairs of 64-bit hashes that differ in few bits, without comparing each with each. With the
bits cut into k + 2 bands, k differing bits leave at least two bands equal (pigeonhole), so only
hashes that share two bands are compared: for k = 4 about 21 bits, against 13 of a single band of
k + 1. Candidates still grow with the square of the number, over two million."""

from collections.abc import Iterator
from itertools import combinations, pairwise
from typing import TypeAlias

import numpy as np
from jaxtyping import UInt64

from common.data.quality.clusters import Clusters, Positions, equal_pairs, in_ranges
from common.data.quality.hashing import BITS
from common.errors import UserError

Hashes: TypeAlias = UInt64[np.ndarray, " n"]
MAX_DISTANCE = 16  # Beyond, unrelated pictures are alike.


def near_clusters(hashes: Hashes, *, distance: int) -> Positions:
    """For each hash the number of its cluster: hashes at most `distance` bits apart share one, and
    so do the ends of a chain of such.

    Raises:
        UserError: the distance is out of range.
    """
    different, places = np.unique(hashes, return_inverse=True)
    clusters = Clusters(len(different))
    for key in _keys(different, distance=distance):
        for left, right in equal_pairs(key):
            near = _distances(different[left], different[right]) <= distance
            clusters.join(left[near], right[near])
    return clusters.roots(np.arange(len(different)))[places]


def near_pairs(
    hashes: Hashes, table: UInt64[np.ndarray, " m"], *, distance: int
) -> list[tuple[int, int]]:
    """Sorted positions in both of all pairs at most `distance` bits apart.

    Raises:
        UserError: the distance is out of range.
    """
    found: set[tuple[int, int]] = set()
    both = np.concatenate([hashes, table])
    for key in _keys(both, distance=distance):
        asked, known = key[: len(hashes)], key[len(hashes) :]
        order = np.argsort(known)
        starts = np.searchsorted(known[order], asked, side="left")
        ends = np.searchsorted(known[order], asked, side="right")
        for left, place in in_ranges(starts, ends):
            right = order[place]
            near = _distances(hashes[left], table[right]) <= distance
            found.update(zip(left[near].tolist(), right[near].tolist(), strict=True))
    return sorted(found)


def _keys(hashes: Hashes, *, distance: int) -> Iterator[Hashes]:
    """The hashes with all bits cleared but those of two bands, for every two."""
    if not 0 <= distance <= MAX_DISTANCE:
        raise UserError(f"{distance=} bits is out of range; use 0 to {MAX_DISTANCE}, 4 as a rule")
    edges = np.linspace(0, BITS, distance + 3).round().astype(int).tolist()
    bands = [(1 << high) - (1 << low) for low, high in pairwise(edges)]
    for one, other in combinations(bands, 2):
        yield hashes & np.uint64(one | other)


def _distances(left: Hashes, right: Hashes) -> Positions:
    return np.bitwise_count(left ^ right).astype(np.int64)
