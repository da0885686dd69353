"""Groups that grow as pairs are joined: union-find over whole arrays of pairs, and the ranges of
equal keys from which candidate pairs are drawn."""

from collections.abc import Iterator
from typing import TypeAlias

import numpy as np
from jaxtyping import Bool, Int, Shaped

Positions: TypeAlias = Int[np.ndarray, " _"]


class Clusters:
    """Numbers 0..size-1, at first each alone; the smallest of a cluster is its root."""

    def __init__(self, size: int) -> None:
        self._parents = np.arange(size)

    def join(self, left: Positions, right: Positions) -> None:
        """Puts left[i] and right[i] into one cluster, for all i."""
        while True:
            left, right = self.apart(left, right)
            if not left.size:
                return
            one, other = self.roots(left), self.roots(right)
            np.minimum.at(self._parents, np.maximum(one, other), np.minimum(one, other))

    def apart(self, left: Positions, right: Positions) -> tuple[Positions, Positions]:
        """The pairs whose two are not in one cluster yet."""
        different = self.roots(left) != self.roots(right)
        return left[different], right[different]

    def roots(self, members: Positions) -> Positions:
        found = self._parents[members]
        while True:
            above = self._parents[found]
            if np.array_equal(above, found):
                self._parents[members] = found  # The next way up is short.
                return found
            found = above


def later_copies(labels: Shaped[np.ndarray, " n"]) -> Bool[np.ndarray, " n"]:
    """True for all but the first of each label. 7 5 7 7 5 -> False False True True True"""
    _, first = np.unique(labels, return_index=True)
    later = np.ones(len(labels), dtype=np.bool_)
    later[first] = False
    return later


def equal_pairs(keys: Shaped[np.ndarray, " n"]) -> Iterator[tuple[Positions, Positions]]:
    """Every pair of positions with equal keys, in arrays no longer than the keys."""
    order = np.argsort(keys, kind="stable")
    ends = np.searchsorted(keys[order], keys[order], side="right")
    for left, right in in_ranges(np.arange(1, len(keys) + 1), ends):
        yield order[left], order[right]


def in_ranges(starts: Positions, ends: Positions) -> Iterator[tuple[Positions, Positions]]:
    """Every (i, j) with starts[i] <= j < ends[i]: first each range's first, then its second."""
    asking = np.flatnonzero(starts < ends)
    step = 0
    while asking.size:
        yield asking, starts[asking] + step
        step += 1
        asking = asking[starts[asking] + step < ends[asking]]
