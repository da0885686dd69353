"""Real English: the language topics that CPython carries for `help()`, cut into paragraphs of
prose. Topics are divided into training and held-out ones; a paragraph that topics share counts as
held out if any of them is. The text differs a little between Python versions."""

import re
from functools import cache
from pydoc_data.topics import topics
from typing import Literal

ProseSplit = Literal["train", "held_out"]
HELD_OUT_EVERY = 10  # every tenth topic in alphabetical order
MIN_CHARACTERS = 80
MIN_LETTER_SHARE = 0.75  # below it, a paragraph is code, a table or a grammar


@cache
def paragraphs(split: ProseSplit) -> tuple[str, ...]:
    """The distinct paragraphs of a split, one line each, in the order of the topics."""
    names = sorted(topics)
    held_out = dict.fromkeys(_prose_of(names[::HELD_OUT_EVERY]))
    if split == "held_out":
        return tuple(held_out)
    return tuple(text for text in dict.fromkeys(_prose_of(names)) if text not in held_out)


def _prose_of(names: list[str]) -> list[str]:
    blocks = (block for name in names for block in re.split(r"\n\s*\n", topics[name]))
    return [text for text in (" ".join(block.split()) for block in blocks) if _is_prose(text)]


def _is_prose(text: str) -> bool:
    letters = sum(character.isalpha() or character == " " for character in text)
    grammar = "::=" in text
    return len(text) >= MIN_CHARACTERS and letters >= MIN_LETTER_SHARE * len(text) and not grammar
