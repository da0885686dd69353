"""A small perceptual hash (pHash): the signs of the lowest frequencies of an image's brightness,
against their median. Copies that were resized or encoded anew differ in few of the 64 bits. As
plain pictures of different colours may agree in all, a thumbnail of 8 x 8 pixels decides. So even
pictures are hashed, too, which `common.data.quality` leaves out: 19 of 500 generated scenes of 96
pixels. Within 6 bits are 99 % of their copies at 0.6 times the size, 93 % at JPEG quality 60, 79 %
enlarged 1.7 times and encoded at 75."""

import numpy as np
import PIL.Image
from jaxtyping import Float, UInt8

from common.data.document import Image

SIDE, KEPT = 32, 8  # of the brightness that is transformed, and of the frequencies that are kept
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


def is_alike(first: UInt8[np.ndarray, " n"], second: UInt8[np.ndarray, " n"]) -> bool:
    """Whether two thumbnails may be of one picture."""
    difference = np.abs(first.astype(np.int16) - second)
    return float(difference.mean()) <= MAX_COLOUR_DIFFERENCE


def _cosines() -> Float[np.ndarray, "frequencies places"]:
    """The first rows of the discrete cosine transform."""
    angles = np.outer(np.arange(KEPT), np.arange(SIDE) + 0.5) * (np.pi / SIDE)
    return np.cos(angles)


COSINES = _cosines()
