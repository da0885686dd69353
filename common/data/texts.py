"""The user's own text: a `.txt` file of paragraphs divided by blank lines, or a `.jsonl` file with
one object like {"text": "..."} a line. The whole file is held in memory."""

import json
import re
from dataclasses import dataclass
from pathlib import Path

from common.data.document import Document
from common.errors import UserError

EXAMPLE = '{"text": "A sentence."}'


@dataclass(frozen=True, kw_only=True)
class TextRecord:
    """One text; the key is its place in the file."""

    key: str
    text: str
    num_images = 0
    num_clips = 0

    @property
    def texts(self) -> list[str]:
        return [self.text]

    def load(self) -> Document:
        """A document of nothing else."""
        return Document(key=self.key, parts=(self.text,))


def read_texts(path: Path) -> list[TextRecord]:
    """The texts, in the order of the file.

    Raises:
        UserError: the file is missing, empty or malformed; names the line and the remedy.
    """
    if path.suffix not in (".txt", ".jsonl") or not path.is_file():
        raise UserError(f"{path} is no .txt or .jsonl file; check the path")
    try:
        content = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not UTF-8 text; convert it to UTF-8") from error
    if path.suffix == ".txt":
        texts = [text.strip() for text in re.split(r"\n\s*\n", content) if text.strip()]
        numbered = list(enumerate(texts, start=1))
    else:
        lines = enumerate(content.split("\n"), start=1)
        numbered = [
            (number, _text_of(line, where=f"{path} line {number}"))
            for number, line in lines
            if line.strip()
        ]
    if not numbered:
        raise UserError(f"text file {path} is empty; write some text")
    return [TextRecord(key=f"{path.name}:{number}", text=text) for number, text in numbered]


def _text_of(line: str, *, where: str) -> str:
    try:
        entry = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{where} is not valid JSON ({error}); correct the line") from error
    text = entry.get("text") if isinstance(entry, dict) else None
    if not isinstance(text, str) or not text.strip():
        raise UserError(f"{where} has no text; write it as {EXAMPLE}")
    return text
