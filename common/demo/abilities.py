"""What the page asks of a model. It knows neither of ours: a loader fills in what its model can do,
and a tab appears where the abilities for it are there."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, TypeAlias

from common.data.document import Image, Recording
from common.generation.chat import Chat

DocumentPart: TypeAlias = str | Image | Recording


class Completer(Protocol):
    """Continues a document of pictures, sounds and words."""

    def complete(self, parts: Sequence[DocumentPart], *, max_new_tokens: int) -> str:
        """The most probable words after the document."""
        ...

    def as_read(self, parts: Sequence[DocumentPart]) -> str:
        """The document's tokens, control tokens and all."""
        ...


@dataclass(frozen=True, kw_only=True)
class Demonstrated:
    """A loaded model as the page shows it."""

    name: str
    card: str  # a line of Markdown: what it is and what it was trained on
    hears: bool
    num_examples: int  # that may stand before a picture; 0: it learns of none
    start_chat: Callable[[], Chat]
    completer: Completer
    # Answers to the protocols of `common.evaluation.models` that embed, as far as it can.
    embedder: object
    # Draws where the words of a document look into a PNG file.
    draw_attention: Callable[[Sequence[DocumentPart], Path], None] | None = None
