"""Words of a text in any language, and the form in which texts are compared. Han characters, kana
and the marks between them count as a word each, since they are written without spaces; Thai, Lao,
Khmer and Burmese are not divided."""

import re
import unicodedata

UNSPACED = "\u3001-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"
WORD = re.compile(rf"[{UNSPACED}]|[^\s{UNSPACED}]+")
UNSPACED_WORD = re.compile(rf"[{UNSPACED}]")


def words(text: str) -> list[str]:
    """Pieces between white space. "a cat, 猫だ" -> "a" "cat," "猫" "だ" """
    return WORD.findall(text)


def normalised(text: str) -> str:
    """Equal for texts that differ in letter case, white space or compatible characters only."""
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split())
