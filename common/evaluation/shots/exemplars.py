"""What a few-shot prompt is made of before anything is decoded: examples with their answers, and
queries in the same form. The same image or clip is known by its number or by its bytes."""

from dataclasses import dataclass
from filecmp import cmp
from pathlib import Path
from typing import Literal

from common.data.audio import read_audio
from common.data.images import read_image
from common.evaluation.models import Medium

MediumKind = Literal["image", "sound"]


@dataclass(frozen=True, kw_only=True)
class Exemplar:
    """A medium, the words after it and what is said of it; a query's answer is not shown."""

    key: str  # differs from that of any other query, or of any other example
    medium: Path
    medium_id: str  # as the benchmark names it: several questions are asked about an image
    text: str
    answer: str = ""


def is_same_medium(first: Exemplar, second: Exemplar) -> bool:
    """Whether both show one image or clip, by its number or by the bytes of its files."""
    # Contents are read only where two files are equally long.
    return first.medium_id == second.medium_id or cmp(first.medium, second.medium, shallow=False)


def read_medium(path: Path, *, kind: MediumKind) -> Medium:
    """An image or a recording from its file.

    Raises:
        UserError: the file is missing, damaged, or of another kind.
    """
    return read_image(path) if kind == "image" else read_audio(path)
