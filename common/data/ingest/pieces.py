"""Long texts divided into pieces, at the end of a paragraph, else of a sentence, else of a word.
Nothing is lost: the pieces of a text, joined, are the text."""

import re
from collections.abc import Iterable, Iterator
from itertools import chain

MAX_CHARACTERS = 8_000  # of a piece
PARAGRAPH = re.compile(r"\n\s*\n")
# The full-width marks of Chinese and Japanese have no space after them.
SENTENCE = re.compile(r"""[.!?]["'»”)\]]*\s+|[\u3002\uff01\uff1f]""")
WORD = re.compile(r"\s+")


def divide(chunks: Iterable[str], *, max_characters: int) -> Iterator[str]:
    """Pieces of a text that comes in chunks of any size, as few as two of which are held at once.

    A piece is at least half as long as allowed, except for the last one, as long as there is any
    whitespace in its second half.
    """
    if max_characters < 1:
        raise ValueError(f"{max_characters=} leaves nothing of a text; use at least 1")
    rest = ""
    for chunk in chunks:
        rest += chunk
        start = 0
        while len(rest) - start > max_characters:
            end = _cut(rest, start, start + max_characters)
            yield rest[start:end]
            start = end
        rest = rest[start:]
    if rest:
        yield rest


def numbered(key: str, pieces: Iterable[str]) -> Iterator[tuple[str, str]]:
    """Pieces with keys: `KEY` for the only one, `KEY#0`, `KEY#1`, ... for several."""
    remaining = iter(pieces)
    first, second = next(remaining, None), next(remaining, None)
    if first is not None and second is None:
        yield key, first
    elif first is not None and second is not None:
        for number, piece in enumerate(chain((first, second), remaining)):
            yield f"{key}#{number}", piece


def _cut(text: str, start: int, end: int) -> int:
    """The last good boundary in the second half of a window; without any, the window's end."""
    middle = start + (end - start) // 2
    for boundary in (PARAGRAPH, SENTENCE, WORD):
        ends = [match.end() for match in boundary.finditer(text, middle, end)]
        if ends:
            return ends[-1]
    return end
