"""VQAv2 and OK-VQA: a file of questions, a file of annotations with ten answers each, and the
folder of COCO images that both data sets are asked about."""

from collections.abc import Iterator, Sequence
from pathlib import Path

from common.errors import UserError
from common.evaluation.benchmarks.files import Entry, media_finder, read_object, unique
from common.evaluation.benchmarks.items import Question

VAL_IMAGE = "COCO_val2014_{:012d}.jpg"


def read_vqa(
    questions: Path, annotations: Path | None, *, images: Path, image_name: str = VAL_IMAGE
) -> tuple[Question, ...]:
    """All questions in the order of their file.

    Args:
        annotations: None for a test split, whose questions have no answers.
        image_name: a format of the image's number.

    Raises:
        UserError: a file or an image does not exist or is malformed, or a question and the
            annotations do not belong together.
    """
    asked = read_object(questions).entries("questions")
    unique((entry.number("question_id") for entry in asked), place=str(questions))
    answered = {} if annotations is None else _by_question(annotations)
    find = media_finder(images)
    found = []
    for entry in asked:
        annotation = answered.pop(entry.number("question_id"), None)
        if annotations is not None and annotation is None:
            raise UserError(
                f"{entry.place} has no annotation in {annotations}; name files of a pair"
            )
        name = image_name.format(entry.number("image_id"))
        found.append(_question(entry, annotation, image=find(name, entry.place)))
    if answered:
        raise UserError(
            f"{annotations} answers {len(answered)} questions that {questions} does not ask, "
            f"{min(answered)} first; name files of a pair"
        )
    return tuple(found)


def answer_pairs(questions: Sequence[Question]) -> Iterator[tuple[str, str]]:
    """Every human answer as it was written and as it was stemmed."""
    for question in questions:
        yield from zip(question.written_answers, question.answers, strict=True)


def _by_question(annotations: Path) -> dict[int, Entry]:
    entries = read_object(annotations).entries("annotations")
    unique((entry.number("question_id") for entry in entries), place=str(annotations))
    return {entry.number("question_id"): entry for entry in entries}


def _question(entry: Entry, annotation: Entry | None, *, image: Path) -> Question:
    answers = [] if annotation is None else annotation.entries("answers")
    if annotation is not None and len(answers) < 2:
        raise UserError(f"{annotation.place} has {len(answers)} answers; two are the least")
    return Question(
        question_id=entry.number("question_id"),
        image_id=entry.number("image_id"),
        image=image,
        text=entry.text("question"),
        answers=tuple(answer.text("answer") for answer in answers),
        written_answers=tuple(
            answer.text("raw_answer" if "raw_answer" in answer.values else "answer")
            for answer in answers
        ),
        answer_type="" if annotation is None else annotation.text("answer_type"),
        question_type="" if annotation is None else annotation.text("question_type"),
    )
