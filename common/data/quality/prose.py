"""Rules for running text, with the numbers of Gopher (Rae et al. 2021, arXiv 2112.11446, section
A1.1 and table A1) and C4 (Raffel et al. 2020, section 2.2). What only holds for English is left
out: Gopher's stop words, C4's final punctuation. They are meant for whole pages, not captions."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from common.data.quality.sample import Sample
from common.data.quality.words import UNSPACED_WORD, words

BULLETS = ("•", "‣", "▪", "●", "◦", "-", "*")
ELLIPSES = ("...", "…")


@dataclass(frozen=True, kw_only=True)
class ProseQuality:
    """Gopher's rules for single documents."""

    min_words: int = 50
    max_words: int = 100_000
    min_word_length: float = 3.0  # mean, in characters, of words in scripts with spaces
    max_word_length: float = 10.0
    max_symbols: float = 0.1  # hash signs, or ellipses, per word
    max_bullets: float = 0.9  # share of lines that begin with one
    max_ellipses: float = 0.3  # share of lines that end with one
    min_lettered: float = 0.8  # share of words with a letter

    def reason(self, sample: Sample) -> str | None:
        text = sample.text
        found, lines = words(text), _lines(text)
        if not self.min_words <= len(found) <= self.max_words:
            return "prose_length"
        spaced = [len(word) for word in found if not UNSPACED_WORD.match(word)]
        mean = sum(spaced) / len(spaced) if spaced else self.min_word_length
        if not self.min_word_length <= mean <= self.max_word_length:
            return "prose_word_length"
        symbols = max(text.count("#"), sum(map(text.count, ELLIPSES)))
        if symbols > self.max_symbols * len(found):
            return "prose_symbols"
        if sum(line.startswith(BULLETS) for line in lines) > self.max_bullets * len(lines):
            return "prose_bullets"
        if sum(line.endswith(ELLIPSES) for line in lines) > self.max_ellipses * len(lines):
            return "prose_ellipses"
        lettered = sum(any(map(str.isalpha, word)) for word in found)
        return "prose_letters" if lettered < self.min_lettered * len(found) else None


@dataclass(frozen=True, kw_only=True)
class ProseRepetition:
    """Gopher's rules against repetition, as shares of a document.

    Of duplicates all occurrences but the first are counted; characters exclude white space.
    """

    lines: float = 0.3
    line_characters: float = 0.2
    paragraphs: float = 0.3
    paragraph_characters: float = 0.2
    most_frequent: tuple[float, ...] = (0.20, 0.18, 0.16)  # characters of the top 2- to 4-gram
    repeated: tuple[float, ...] = (0.15, 0.14, 0.13, 0.12, 0.11, 0.10)  # of 5- to 10-grams

    def reason(self, sample: Sample) -> str | None:
        lines = _lines(sample.text)
        if _repeats(lines, share=self.lines, characters=self.line_characters):
            return "prose_lines"
        paragraphs = [part.strip() for part in sample.text.split("\n\n") if part.strip()]
        if _repeats(paragraphs, share=self.paragraphs, characters=self.paragraph_characters):
            return "prose_paragraphs"
        found = words(sample.text)
        size = sum(map(len, found))
        for length, limit in enumerate(self.most_frequent, start=2):
            if _most_frequent(found, length=length) > limit * size:
                return "prose_frequent"
        for length, limit in enumerate(self.repeated, start=5):
            if _repeated(found, length=length) > limit * size:
                return "prose_repetition"
        return None


@dataclass(frozen=True, kw_only=True)
class Placeholder:
    """C4's signs of a page that is no prose: a curly bracket, or "lorem ipsum"."""

    def reason(self, sample: Sample) -> str | None:
        text = sample.text
        return "prose_placeholder" if "{" in text or "lorem ipsum" in text.lower() else None


def _lines(text: str) -> list[str]:
    return [line.strip() for line in text.splitlines() if line.strip()]


def _repeats(pieces: Sequence[str], *, share: float, characters: float) -> bool:
    counts = Counter(pieces)
    again = sum(len(piece) * (count - 1) for piece, count in counts.items())
    many = len(pieces) - len(counts) > share * len(pieces)
    return many or again > characters * sum(map(len, pieces))


def _most_frequent(found: Sequence[str], *, length: int) -> int:
    """Characters in all occurrences of the most frequent n-gram; 0 if none occurs twice."""
    grams = Counter(zip(*(found[start:] for start in range(length)), strict=False))
    if not grams:
        return 0
    gram, count = grams.most_common(1)[0]
    return count * sum(map(len, gram)) if count > 1 else 0


def _repeated(found: Sequence[str], *, length: int) -> int:
    """Characters in n-grams that occurred before, each word once."""
    seen: set[tuple[str, ...]] = set()
    size, counted = 0, 0  # words before `counted` are in the size already
    for start, gram in enumerate(zip(*(found[start:] for start in range(length)), strict=False)):
        if gram in seen:
            size += sum(map(len, found[max(start, counted) : start + length]))
            counted = start + length
        seen.add(gram)
    return size
