"""The user's own text: a `.txt` file of paragraphs divided by blank lines, or a `.jsonl` file with
one object like {"text": "..."} a line. The whole file is held in memory."""

import json
import re
from pathlib import Path

from common.errors import UserError

EXAMPLE = '{"text": "A sentence."}'


def read_texts(path: Path) -> list[tuple[str, str]]:
    """Keys and texts, in the order of the file.

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
        records = [(f"{path.name}:{number}", text) for number, text in enumerate(texts, start=1)]
    else:
        lines = enumerate(content.split("\n"), start=1)
        records = [
            (f"{path.name}:{number}", _text_of(line, where=f"{path} line {number}"))
            for number, line in lines
            if line.strip()
        ]
    if not records:
        raise UserError(f"text file {path} is empty; write some text")
    return records


def _text_of(line: str, *, where: str) -> str:
    try:
        entry = json.loads(line)
    except json.JSONDecodeError as error:
        raise UserError(f"{where} is not valid JSON ({error.msg}); correct the line") from error
    text = entry.get("text") if isinstance(entry, dict) else None
    if not isinstance(text, str) or not text.strip():
        raise UserError(f"{where} has no text; write it as {EXAMPLE}")
    return text
