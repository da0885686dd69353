"""The one form in which interleaved data reaches a model: a document is a key and its parts in
reading order, each a piece of text, an image or a recording. Media and control tokens are never
written into the text: model code inserts their ids."""

from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from jaxtyping import Float32, UInt8

Image: TypeAlias = UInt8[np.ndarray, "y x c"]
SAMPLE_RATE_HZ = 16_000  # of every recording


@dataclass(frozen=True, kw_only=True, eq=False)
class Recording:
    """Mono sound at 16 kHz, samples in -1..1."""

    samples: Float32[np.ndarray, " t"]


@dataclass(frozen=True, kw_only=True, eq=False)
class Document:
    """Text and images in reading order; text speaks of the image before it."""

    key: str
    parts: tuple[str | Image, ...]


@dataclass(frozen=True, kw_only=True, eq=False)
class Pair:
    """One image and the text that describes it."""

    key: str
    image: Image
    text: str


@dataclass(frozen=True, kw_only=True, eq=False)
class MixedDocument:
    """Text, images and recordings in reading order.

    `caption` describes the document's only medium, to be contrasted with it; None: no contrast.
    """

    key: str
    parts: tuple[str | Image | Recording, ...]
    caption: str | None = None
