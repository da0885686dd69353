"""Media that a test can tell apart by a number, and embedders that know it."""

import re
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import PIL.Image
import soundfile
import torch
import torch.nn.functional as F
from torch import Tensor

from common.data.document import SAMPLE_RATE_HZ, Image, Recording


def write_image(path: Path, number: int) -> Path:
    """A plain picture."""
    path.parent.mkdir(parents=True, exist_ok=True)
    PIL.Image.fromarray(np.full((8, 8, 3), 10 * number, dtype=np.uint8)).save(path)
    return path


def write_sound(path: Path, number: int) -> Path:
    """A quiet noise of a known length."""
    path.parent.mkdir(parents=True, exist_ok=True)
    samples = np.random.default_rng(number).normal(size=500 + 10 * number) / 10
    soundfile.write(path, samples, SAMPLE_RATE_HZ)
    return path


class NumberEmbedder:
    """Vectors of numbers; of texts those of the last number that they name."""

    def __init__(
        self, media: Callable[[int], Tensor], texts: Callable[[str, int], Tensor] | None = None
    ) -> None:
        self.media = media
        self.texts = texts or (lambda text, number: media(number))

    def image_vectors(self, images: Sequence[Image]) -> Tensor:
        return torch.stack([self.media(int(image[0, 0, 0]) // 10) for image in images])

    def sound_vectors(self, sounds: Sequence[Recording]) -> Tensor:
        return torch.stack([self.media((len(sound.samples) - 500) // 10) for sound in sounds])

    def text_vectors(self, texts: Sequence[str]) -> Tensor:
        numbers = [int(re.findall(r"\d+", text)[-1]) for text in texts]
        return torch.stack([self.texts(*both) for both in zip(texts, numbers, strict=True)])


def oracle() -> NumberEmbedder:
    """Every number has a direction of its own."""
    return NumberEmbedder(lambda number: torch.eye(30)[number])


def confused(seed: int) -> NumberEmbedder:
    """Directions drawn for each number and for each text."""

    def drawn(name: str) -> Tensor:
        key = [seed, *name.encode()]
        return F.normalize(
            torch.from_numpy(np.random.default_rng(key).normal(size=5)).float(), dim=0
        )

    return NumberEmbedder(lambda number: drawn(str(number)), lambda text, number: drawn(text))
