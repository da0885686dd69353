"""Short numbers that stand for contents: a digest that equal bytes share, and a perceptual hash
that pictures share which look alike. The hash is pHash (Zauner 2010): the signs of the lowest 64
frequencies of a small grey picture. It sees no hue, and neither crops, mirrored nor turned
pictures are alike to it."""

from collections.abc import Iterable
from functools import cache
from hashlib import blake2b

import numpy as np
import PIL.Image
from jaxtyping import Int

from common.data.document import Image

HASHED_SIDE = 64  # pixels of the short side that an image needs to be hashed well
GRID = 32  # pixels of the small grey picture
BITS = 64
# Below this spread of frequencies (in grey levels) a picture is so even that noise sets the bits:
# of crops of photographs only plain sky is, and a JPEG copy of that differs in 12 bits.
MIN_SPREAD = 4.0


def digest(contents: Iterable[bytes]) -> int:
    """64 bits of BLAKE2b; never 0, which stands for nothing."""
    state = blake2b(digest_size=8)
    for content in contents:
        state.update(len(content).to_bytes(8, "big") + content)
    return int.from_bytes(state.digest(), "big") or 1


def perceptual_hash(image: Image) -> int | None:
    """64 bits; None for a picture too even to be told from others."""
    from scipy.fft import dctn  # noqa: PLC0415 -- loads for a second

    grey = PIL.Image.fromarray(image).convert("L")
    small = grey.resize((GRID, GRID), PIL.Image.Resampling.LANCZOS)
    frequencies = dctn(np.asarray(small, dtype=np.float32), norm="ortho")
    rows, columns = _lowest()
    low = frequencies[rows, columns]
    offsets = low - np.median(low)
    if np.median(np.abs(offsets)) < MIN_SPREAD:
        return None
    return int.from_bytes(np.packbits(offsets > 0).tobytes(), "big")


@cache
def _lowest() -> tuple[Int[np.ndarray, " bits"], Int[np.ndarray, " bits"]]:
    """Rows and columns of the 64 lowest frequencies, without the mean of the picture."""
    places = [(row, column) for row in range(GRID) for column in range(GRID)]
    chosen = np.array(sorted(places, key=lambda place: (sum(place), place))[1 : 1 + BITS])
    return chosen[:, 0], chosen[:, 1]
