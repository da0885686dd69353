"""Rules for a single sample, each a few numbers: what it rejects is counted under the reason that
it gives. Numbers are COYO-700M's (Byeon et al. 2022, dataset card, "data filtering") unless a rule
says otherwise. Rules for prose are in `prose.py`."""

import re
from collections import Counter
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from common.data.quality.sample import Sample, image_size
from common.data.quality.words import words

URL = re.compile(r"(https?://|www\.)\S+", re.IGNORECASE)
FILE_NAME = re.compile(
    r".*\.(jpe?g|png|gif|webp|bmp|tiff?|svg|heic|mp3|wav|flac|ogg|mp4)"
    r"|(img|dsc[nf]?|dcim|pict|image|photo|screenshot|untitled)[\W_]*\d*"
    r"|[\da-f]{8,}|[\W\d_]+",
    re.IGNORECASE | re.DOTALL,
)


@runtime_checkable
class Rule(Protocol):
    """Says why a sample is not wanted."""

    def reason(self, sample: Sample) -> str | None:
        """A word to count by; None keeps the sample."""
        ...


@dataclass(frozen=True, kw_only=True)
class ImageShape:
    """Every image is large enough and not too long.

    The numbers are those of ALIGN (Jia et al. 2021, section 3.1) and DataComp's basic filter too.
    """

    min_side: int = 200  # pixels
    max_aspect: float = 3.0  # longer side over shorter

    def reason(self, sample: Sample) -> str | None:
        name = sample.document.key
        for short, long in (sorted(image_size(x, name=name)) for x in sample.encoded_images):
            if short < self.min_side:
                return "image_small"
            if long > self.max_aspect * short:
                return "image_elongated"
        return None


@dataclass(frozen=True, kw_only=True)
class TextLength:
    """The caption, or all texts together, is neither too short nor too long."""

    min_characters: int = 6
    max_characters: int = 1000
    min_words: int = 3
    max_words: int = 256

    def reason(self, sample: Sample) -> str | None:
        num_characters, num_words = len(sample.text.strip()), len(words(sample.text))
        if num_characters < self.min_characters or num_words < self.min_words:
            return "text_short"
        too_long = num_characters > self.max_characters or num_words > self.max_words
        return "text_too_long" if too_long else None


@dataclass(frozen=True, kw_only=True)
class CaptionWords:
    """A caption is made of letters and does not repeat one word (both as in Conceptual Captions,
    Sharma et al. 2018, section 3.2, which gives no numbers: these are ours)."""

    min_letters: float = 0.5  # of its characters other than white space
    max_word: float = 0.5  # share of the most frequent word, if that occurs more than once

    def reason(self, sample: Sample) -> str | None:
        found = words(sample.text.casefold())
        characters = "".join(found)
        if sum(map(str.isalpha, characters)) < self.min_letters * len(characters):
            return "caption_letters"
        most = max(Counter(found).values(), default=0)
        return "caption_repetition" if most > max(1, self.max_word * len(found)) else None


@dataclass(frozen=True, kw_only=True)
class CaptionName:
    """A caption is no file name, camera number or address."""

    def reason(self, sample: Sample) -> str | None:
        caption = sample.text.strip()
        if URL.fullmatch(caption):
            return "caption_url"
        return "caption_file_name" if FILE_NAME.fullmatch(caption) else None
