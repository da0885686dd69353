"""Real pictures: the 1,797 handwritten digits that come inside scikit-learn (8 x 8, UCI), enlarged
to colour images, with captions and a fixed division of each class into training and held-out
digits."""

from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Literal

import numpy as np
import PIL.Image
from jaxtyping import Float64, UInt8

from common.data.document import Image
from common.data.embedded.scenes import IMAGE_SIZE

DigitSplit = Literal["train", "held_out"]
DIGIT_WORDS = (
    "zero",
    "one",
    "two",
    "three",
    "four",
    "five",
    "six",
    "seven",
    "eight",
    "nine",
)
HELD_OUT_EVERY = 5  # every fifth digit of each class
MARGIN = 3  # pixels, because the original strokes touch the border


@dataclass(frozen=True, kw_only=True, eq=False)
class Digit:
    """One handwritten digit; `index` is its place in scikit-learn's data."""

    index: int
    image: Image
    word: str


@cache
def digits_in(split: DigitSplit) -> tuple[Digit, ...]:
    """All digits of a split, in scikit-learn's order. Do not write into their images."""
    inks, labels = _scanned()
    seen = [0] * len(DIGIT_WORDS)
    chosen = []
    for index, label in enumerate(labels):
        held_out = seen[label] % HELD_OUT_EVERY == 0
        seen[label] += 1
        if held_out == (split == "held_out"):
            image = _enlarge(inks[index])
            chosen.append(Digit(index=index, image=image, word=DIGIT_WORDS[label]))
    return tuple(chosen)


def draw_digit(generator: np.random.Generator, *, split: DigitSplit) -> tuple[Image, str]:
    """One digit of the split, all equally likely: a copy of its image, and its word."""
    digits = digits_in(split)
    digit = digits[int(generator.integers(len(digits)))]
    return digit.image.copy(), digit.word


def digit_caption(word: str) -> str:
    """`a handwritten seven`"""
    return f"a handwritten {word}"


def _scanned() -> tuple[Float64[np.ndarray, "n 8 8"], list[int]]:
    """Ink and label of every digit. The file is read where it lies: to import scikit-learn for it
    would take every process that makes a tokenizer two seconds."""
    package = find_spec("sklearn")
    assert package is not None
    assert package.origin is not None
    path = Path(package.origin).parent / "datasets" / "data" / "digits.csv.gz"
    rows = np.loadtxt(path, delimiter=",")
    return rows[:, :-1].reshape(-1, 8, 8), rows[:, -1].astype(int).tolist()


def _enlarge(ink: Float64[np.ndarray, "y x"]) -> UInt8[np.ndarray, "y2 x2 3"]:
    """Smooth bright strokes on black, from ink of 0 to 16 on an 8 x 8 grid."""
    inner = IMAGE_SIZE - 2 * MARGIN
    grey = PIL.Image.fromarray((ink * (255 / 16)).astype(np.uint8))
    strokes = np.asarray(grey.resize((inner, inner), PIL.Image.Resampling.BICUBIC))
    return np.repeat(np.pad(strokes, MARGIN)[:, :, None], 3, axis=2)
