"""Results in the form that official servers and evaluations read: `[{"question_id", "answer"}]` for
VQA, `[{"image_id", "caption"}]` for COCO."""

import json
from collections.abc import Mapping
from pathlib import Path

from common.evaluation.benchmarks.files import read_objects, unique


def write_answers(answers: Mapping[int, str], path: Path) -> None:
    """Answers by the numbers of their questions."""
    _write(answers, path, key="question_id", value="answer")


def read_answers(path: Path) -> dict[int, str]:
    """What `write_answers` or another system wrote.

    Raises:
        UserError: the file does not exist or is malformed, or answers a question twice.
    """
    return _read(path, key="question_id", value="answer")


def write_captions(captions: Mapping[int, str], path: Path) -> None:
    """Captions by the numbers of their images."""
    _write(captions, path, key="image_id", value="caption")


def read_captions(path: Path) -> dict[int, str]:
    """What `write_captions` or another system wrote.

    Raises:
        UserError: the file does not exist or is malformed, or captions an image twice.
    """
    return _read(path, key="image_id", value="caption")


def _write(texts: Mapping[int, str], path: Path, *, key: str, value: str) -> None:
    rows = [{key: number, value: text} for number, text in texts.items()]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(rows, ensure_ascii=False), encoding="utf-8")


def _read(path: Path, *, key: str, value: str) -> dict[int, str]:
    entries = read_objects(path)
    unique((entry.number(key) for entry in entries), place=str(path))
    return {entry.number(key): entry.text(value) for entry in entries}
