"""The one form in which interleaved data reaches a model: a document is a key and its parts in
reading order, each a piece of text or an image. Media and control tokens are never written into the
text: model code inserts their ids."""

from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from jaxtyping import UInt8

Image: TypeAlias = UInt8[np.ndarray, "y x c"]


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
