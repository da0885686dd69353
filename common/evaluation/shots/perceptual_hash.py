"""A small perceptual hash (pHash): the signs of the lowest frequencies of an image's brightness,
against their median. Copies that were resized or encoded anew differ in few of the 64 bits. As
plain pictures of different colours may agree in all, a thumbnail of 8 x 8 pixels decides."""

from collections.abc import Iterator
from itertools import pairwise

import numpy as np
import PIL.Image
from jaxtyping import Float, UInt8, UInt64

from common.data.document import Image

SIDE, KEPT = 32, 8  # of the brightness that is transformed, and of the frequencies that are kept
NUM_BITS = KEPT * KEPT
# Mean difference of two thumbnails in levels of 0..255. Copies lie below 1, even at JPEG quality
# 60; generated scenes of the same objects, as alike as two pictures can be, above 1.8.
MAX_COLOUR_DIFFERENCE = 1.5


def perceptual_hash(image: Image) -> int:
    """64 bits that say what an image roughly looks like."""
    grey = PIL.Image.fromarray(image).convert("L")
    levels = np.asarray(grey.resize((SIDE, SIDE), PIL.Image.Resampling.LANCZOS), np.float64)
    frequencies = (COSINES @ levels @ COSINES.T).ravel()
    # The first frequency is the mean brightness: far above the others, it says nothing.
    bits = frequencies > np.median(frequencies[1:])
    return int.from_bytes(np.packbits(bits).tobytes())


def thumbnail(image: Image) -> UInt8[np.ndarray, " n"]:
    """The colours of 8 x 8 pixels."""
    picture = PIL.Image.fromarray(image)
    return np.array(picture.resize((KEPT, KEPT), PIL.Image.Resampling.LANCZOS)).ravel()


def near_pairs(
    first: UInt64[np.ndarray, " n"], second: UInt64[np.ndarray, " m"], *, max_distance: int
) -> Iterator[tuple[int, int]]:
    """Places of all pairs of hashes that differ in at most some bits, in no order.

    The bits are cut into one band more than may differ, so that one band at least is equal: only
    hashes that share a band are compared.
    """
    edges = np.linspace(0, NUM_BITS, max_distance + 2).astype(np.uint64)
    found: set[tuple[int, int]] = set()
    for start, end in pairwise(edges):
        mask = np.uint64((1 << int(end - start)) - 1)
        band = (second >> start) & mask
        order = np.argsort(band, kind="stable")
        wanted = (first >> start) & mask
        lows = np.searchsorted(band[order], wanted, side="left")
        highs = np.searchsorted(band[order], wanted, side="right")
        for place in np.flatnonzero(highs > lows).tolist():
            others = order[lows[place] : highs[place]]
            distances = np.bitwise_count(second[others] ^ first[place])
            found.update((place, int(other)) for other in others[distances <= max_distance])
    yield from found


def is_alike(first: UInt8[np.ndarray, " n"], second: UInt8[np.ndarray, " n"]) -> bool:
    """Whether two thumbnails may be of one picture."""
    difference = np.abs(first.astype(np.int16) - second)
    return float(difference.mean()) <= MAX_COLOUR_DIFFERENCE


def _cosines() -> Float[np.ndarray, "frequencies places"]:
    """The first rows of the discrete cosine transform."""
    angles = np.outer(np.arange(KEPT), np.arange(SIDE) + 0.5) * (np.pi / SIDE)
    return np.cos(angles)


COSINES = _cosines()
