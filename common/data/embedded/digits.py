"""Real pictures: the 1,797 handwritten digits that come inside scikit-learn (8 x 8, UCI), enlarged to
colour images, with captions and a fixed division of each class into training and held-out digits."""

from functools import cache
from typing import Literal

import numpy as np
import PIL.Image

from common.data.document import Image

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
IMAGE_SIZE = 32


def digit_images(split: DigitSplit) -> tuple[tuple[int, Image, str], ...]:
    """All digits of a split: index in scikit-learn's order, image and word."""
    return tuple(
        (index, image, word)
        for index, (image, word, held_out) in enumerate(_all_digits())
        if held_out == (split == "held_out")
    )


def draw_digit(generator: np.random.Generator, *, split: DigitSplit) -> tuple[Image, str]:
    """One digit of the split, all equally likely, and its word."""
    digits = _split_digits(split)
    _, image, word = digits[int(generator.integers(len(digits)))]
    return image, word


def digit_caption(word: str) -> str:
    """`a handwritten seven`"""
    return f"a handwritten {word}"


_split_digits = cache(digit_images)


@cache
def _all_digits() -> tuple[tuple[Image, str, bool], ...]:
    # Imported here because scikit-learn takes a second to load and most users of this module's names
    # never look at a digit.
    from sklearn.datasets import load_digits  # noqa: PLC0415

    digits = load_digits()
    seen = dict.fromkeys(range(10), 0)
    described = []
    for ink, label in zip(digits.images, digits.target.tolist(), strict=True):
        held_out = seen[label] % HELD_OUT_EVERY == 0
        seen[label] += 1
        described.append((_enlarge(ink), DIGIT_WORDS[label], held_out))
    return tuple(described)


def _enlarge(ink: np.ndarray) -> Image:
    """Smooth bright strokes on black, from ink of 0 to 16 on an 8 x 8 grid."""
    grey = PIL.Image.fromarray((ink * (255 / 16)).astype(np.uint8))
    large = grey.resize((IMAGE_SIZE, IMAGE_SIZE), PIL.Image.Resampling.BICUBIC)
    return np.repeat(np.asarray(large)[:, :, None], 3, axis=2)
