"""The one form in which interleaved data reaches a model: a document is a key and its parts in
reading order, each a piece of text, an image or a recording. Media and control tokens are never
written into the text: model code inserts their ids."""

from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from jaxtyping import Float32, UInt8

from common.errors import UserError

Image: TypeAlias = UInt8[np.ndarray, "_ _ c"]  # a document's images may differ in size
SAMPLE_RATE_HZ = 16_000  # of every recording


@dataclass(frozen=True, kw_only=True, eq=False)
class Recording:
    """Mono sound at 16 kHz, samples in -1..1."""

    samples: Float32[np.ndarray, " t"]


@dataclass(frozen=True, kw_only=True)
class Extent:
    """What a document will take in a row, known without reading it."""

    tokens: int  # of all its texts, each tokenised alone, without control tokens
    num_texts: int
    num_images: int
    num_clips: int


@dataclass(frozen=True, kw_only=True)
class Dialogue:
    """Who says the parts of a document: roles with their numbers of parts, turn by turn.

    `answers` are none, or two that may follow the last turn, the preferred one first.
    """

    turns: tuple[tuple[str, int], ...]
    answers: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True, eq=False)
class Document:
    """Text, images and recordings in reading order; text speaks of the medium before it.

    `caption` describes the document's only medium, to be contrasted with it; None: no contrast.
    """

    key: str
    parts: tuple[str | Image | Recording, ...]
    caption: str | None = None
    dialogue: Dialogue | None = None


def text_and_images(document: Document) -> tuple[str | Image, ...]:
    """The parts of a document for a model that does not hear.

    Raises:
        UserError: it has a recording.
    """
    seen = tuple(part for part in document.parts if not isinstance(part, Recording))
    if len(seen) < len(document.parts):
        raise UserError(f"{document.key} has a recording, but only text and images can be read")
    return seen
