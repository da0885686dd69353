"""What the official files of all benchmarks are read into: questions, captioned and labelled media.
A medium is a path; nothing is decoded here."""

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, kw_only=True)
class Question:
    """A question about an image; one without human answers belongs to a test split."""

    question_id: int
    image_id: int
    image: Path
    text: str
    answers: tuple[str, ...]
    written_answers: tuple[str, ...]  # before stemming, which only OK-VQA has; else the same
    answer_type: str
    question_type: str


@dataclass(frozen=True, kw_only=True)
class CaptionedImage:
    """An image and what people say of it."""

    image_id: int
    image: Path
    captions: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class LabelledImage:
    """An image and the place of its class among the names."""

    image: Path
    label: int


@dataclass(frozen=True, kw_only=True)
class CaptionedSound:
    """A recording and what people say of it."""

    key: str
    sound: Path
    captions: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class LabelledSound:
    """A recording and the places of its classes among the names."""

    key: str
    sound: Path
    labels: tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class ClassifiedImages:
    """Images of named classes."""

    names: tuple[str, ...]
    images: tuple[LabelledImage, ...]


@dataclass(frozen=True, kw_only=True)
class ClassifiedSounds:
    """Recordings of named classes, and the keys that are listed but have no file."""

    names: tuple[str, ...]
    sounds: tuple[LabelledSound, ...]
    missing: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class DescribedSounds:
    """Captioned recordings, and the keys that are listed but have no file."""

    sounds: tuple[CaptionedSound, ...]
    missing: tuple[str, ...] = ()
