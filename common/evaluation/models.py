"""What an evaluation asks of a model, whichever it is: to write after a prompt, to weigh given
answers, to predict the words of documents, and to turn media and texts into vectors that are
compared. A model need not do all four; a suite says which it needs."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, TypeAlias, runtime_checkable

from jaxtyping import Float
from torch import Tensor

from common.data.document import Document, Image, Recording

Medium: TypeAlias = Image | Recording
# Of beam search, as OpenFlamingo evaluates: the most probable answer, whether short or long.
LENGTH_PENALTY = 0.0


@dataclass(frozen=True, kw_only=True, eq=False)
class Turn:
    """Media, the words after them and what is said of them: `image, "Output:", "a red bus"`.

    An example has an answer, a query has none; one without media is a text-only example.
    """

    media: tuple[Medium, ...]
    text: str
    answer: str | None = None


# Examples in reading order, then the query.
Prompt: TypeAlias = tuple[Turn, ...]


@runtime_checkable
class Writer(Protocol):
    """A model that writes, and that can weigh what others wrote."""

    def write(self, prompts: Sequence[Prompt], *, max_new_tokens: int, num_beams: int) -> list[str]:
        """What the model answers to each query, up to the end of the answer."""
        ...

    def log_likelihoods(
        self, prompts: Sequence[Prompt], answers: Sequence[Sequence[str]]
    ) -> list[list[float]]:
        """Summed log-probability in nats of each of a prompt's possible answers."""
        ...


@runtime_checkable
class Reader(Protocol):
    """A model that predicts every next token of documents."""

    def losses(self, documents: Sequence[Document]) -> list[tuple[float, int]]:
        """Summed loss in nats and number of predicted tokens of each document."""
        ...


@runtime_checkable
class ImageEmbedder(Protocol):
    """A model, or a part of one, that turns images into vectors whose cosines say how alike."""

    def image_vectors(self, images: Sequence[Image]) -> Float[Tensor, "m e"]:
        """Vectors of length 1."""
        ...


@runtime_checkable
class SoundEmbedder(Protocol):
    """The same for recordings."""

    def sound_vectors(self, sounds: Sequence[Recording]) -> Float[Tensor, "m e"]:
        """Vectors of length 1."""
        ...


@runtime_checkable
class TextEmbedder(Protocol):
    """The same for captions; their vectors are compared with those of images and recordings."""

    def text_vectors(self, texts: Sequence[str]) -> Float[Tensor, "n e"]:
        """Vectors of length 1."""
        ...
