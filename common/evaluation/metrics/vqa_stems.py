"""Stems for OK-VQA, whose annotations compare stemmed answers with the formula of `vqa`. The
stemmer of version 1.1 was not found published; its results are: every annotation holds an answer as
it was written (`raw_answer`) and stemmed (`answer`). The stems of words are read off these pairs,
so an answer that any annotator gave is stemmed as officially; a word that none gave stays."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from types import MappingProxyType


def learn_stems(pairs: Iterable[tuple[str, str]]) -> Mapping[str, str]:
    """Stems of whole answers and of their words from (written, stemmed) answers.

    Of several stems the most frequent one counts, of equally frequent ones the first in the
    alphabet: `[("riding horses", "ride horse")]` -> riding horses: ride horse, riding: ride,
    horses: horse
    """
    seen: defaultdict[str, Counter[str]] = defaultdict(Counter)
    for written, stemmed in pairs:
        phrase, stem = written.lower().strip(), stemmed.strip()
        seen[phrase][stem] += 1
        words, stems = phrase.split(), stem.split()
        if 1 < len(words) == len(stems):
            for word, own in zip(words, stems, strict=True):
                seen[word][own] += 1
    return MappingProxyType(
        {word: min(stems, key=lambda stem: (-stems[stem], stem)) for word, stems in seen.items()}
    )


def stemmed(answer: str, stems: Mapping[str, str]) -> str:
    """The answer as the annotators' equal one was stemmed, or word by word."""
    phrase = answer.lower().strip()
    if phrase in stems:
        return stems[phrase]
    return " ".join(stems.get(word, word) for word in phrase.split())
