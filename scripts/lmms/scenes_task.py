"""What lmms-eval calls for the tasks beside this file, one row of `questions.jsonl` at a time."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from PIL import Image

from common.data.prompts import question_prompt
from common.evaluation.metrics.vqa import question_accuracy

Row = Mapping[str, Any]


def image(row: Row) -> list[Image.Image]:
    """The scene."""
    return [Image.open(row["image"]).convert("RGB")]


def question(row: Row, lmms_eval_specific_kwargs: object = None) -> str:
    """As both models are trained: `Question: What colour is shown? Short answer:`."""
    return question_prompt(row["question"])


def most_frequent(row: Row) -> str:
    """What most people answered."""
    return Counter(row["answers"]).most_common(1)[0][0]


def score(row: Row, results: Sequence[str]) -> dict[str, float]:
    """The official VQA accuracy of one answer."""
    return {"vqa_accuracy": question_accuracy(results[0], row["answers"])}


def choices(row: Row) -> list[str]:
    """All answers to questions of this type."""
    return list(row["choices"])


def right_choice(row: Row) -> int:
    """Which of them most people gave."""
    return choices(row).index(most_frequent(row))
