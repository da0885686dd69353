"""VQAv2 and OK-VQA are read from their official files, and results go out and come back."""

import json
from pathlib import Path
from typing import Any

import pytest

from common.errors import UserError
from common.evaluation.benchmarks.submissions import (
    read_answers,
    read_captions,
    write_answers,
    write_captions,
)
from common.evaluation.benchmarks.vqa import VAL_IMAGE, answer_pairs, read_vqa

TEN = [{"answer": f"a{n % 3}", "answer_confidence": "yes", "answer_id": n + 1} for n in range(10)]


def questions_file() -> dict[str, Any]:
    return {
        "info": {"version": "2.0"},
        "questions": [
            {"image_id": 262148, "question": "Where is he looking?", "question_id": 262148000},
            {"image_id": 42, "question": "How many?", "question_id": 42001},
        ],
    }


def annotations_file() -> dict[str, Any]:
    def annotation(question: dict[str, Any], kind: str) -> dict[str, Any]:
        numbers = {key: question[key] for key in ("image_id", "question_id")}
        return numbers | {"question_type": "what", "answer_type": kind, "answers": TEN}

    first, second = questions_file()["questions"]
    return {"annotations": [annotation(second, "number"), annotation(first, "other")]}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for image_id in (262148, 42):
        (tmp_path / VAL_IMAGE.format(image_id)).touch()
    write(tmp_path / "questions.json", questions_file())
    write(tmp_path / "annotations.json", annotations_file())
    return tmp_path


def write(path: Path, content: object) -> None:
    path.write_text(json.dumps(content), encoding="utf-8")


def read(folder: Path) -> Any:
    return read_vqa(folder / "questions.json", folder / "annotations.json", images=folder)


def test_questions_meet_their_image_answers_and_types_whatever_the_order(folder: Path):
    first, second = read(folder)
    assert (first.question_id, first.image_id, first.answer_type) == (262148000, 262148, "other")
    assert first.image == folder / "COCO_val2014_000000262148.jpg"
    assert (second.text, second.answer_type, second.question_type) == (
        "How many?",
        "number",
        "what",
    )
    assert second.answers == ("a0", "a1", "a2", "a0", "a1", "a2", "a0", "a1", "a2", "a0")
    assert second.written_answers == second.answers


def test_ok_vqa_has_answers_as_written_beside_the_stemmed_ones(folder: Path):
    content = annotations_file()
    for annotation in content["annotations"]:
        annotation["answers"] = [
            {"answer_id": n, "raw_answer": "riding", "answer": "ride"} for n in range(10)
        ]
    write(folder / "annotations.json", content)
    questions = read(folder)
    assert questions[0].answers == ("ride",) * 10
    assert list(answer_pairs(questions)) == [("riding", "ride")] * 20


def test_a_test_split_has_questions_without_answers(folder: Path):
    questions = read_vqa(folder / "questions.json", None, images=folder)
    assert [question.answers for question in questions] == [(), ()]


@pytest.mark.parametrize(
    ("spoil", "complaint"),
    [
        (lambda q, a: q["questions"][1].pop("question"), r"questions\[1\] has no text 'question'"),
        (lambda q, a: q["questions"].append(7), r"questions\[2\] is no object"),
        (lambda q, a: q["questions"].append(q["questions"][0]), "262148000 twice"),
        (lambda q, a: q["questions"].pop(), "answers 1 questions .* 42001 first"),
        (lambda q, a: a["annotations"].pop(), r"questions\[0\] has no annotation"),
        (lambda q, a: q["questions"][0].update(image_id=7), "000000000007.jpg, which does not"),
        (lambda q, a: q["questions"][0].update(image_id=True), "no whole number 'image_id'"),
        (lambda q, a: a["annotations"][0].update(answers=TEN[:1]), "two are the least"),
        (lambda q, a: a.pop("annotations"), "no list 'annotations'"),
    ],
)
def test_what_is_wrong_with_a_file_is_told_with_its_place(folder: Path, spoil: Any, complaint: str):
    questions, annotations = questions_file(), annotations_file()
    spoil(questions, annotations)
    write(folder / "questions.json", questions)
    write(folder / "annotations.json", annotations)
    with pytest.raises(UserError, match=complaint):
        read(folder)


def test_files_that_are_missing_or_no_json_are_told(folder: Path):
    (folder / "questions.json").write_text("{", encoding="utf-8")
    with pytest.raises(UserError, match="is no JSON"):
        read(folder)
    (folder / "questions.json").unlink()
    with pytest.raises(UserError, match="No such file"):
        read(folder)
    write(folder / "questions.json", questions_file())
    with pytest.raises(UserError, match="does not exist; check the path"):
        read_vqa(folder / "questions.json", None, images=folder / "val2014")


def test_results_have_the_official_form_and_come_back(tmp_path: Path):
    answers, captions = {42001: "two", 7: "café"}, {42: "a dog"}
    write_answers(answers, tmp_path / "new" / "answers.json")
    write_captions(captions, tmp_path / "captions.json")
    assert json.loads((tmp_path / "new" / "answers.json").read_text(encoding="utf-8")) == [
        {"question_id": 42001, "answer": "two"},
        {"question_id": 7, "answer": "café"},
    ]
    assert read_answers(tmp_path / "new" / "answers.json") == answers
    assert read_captions(tmp_path / "captions.json") == captions
    write(tmp_path / "twice.json", [{"image_id": 4, "caption": "a"}] * 2)
    with pytest.raises(UserError, match="4 twice"):
        read_captions(tmp_path / "twice.json")
    write(tmp_path / "wrong.json", [{"question_id": 4, "caption": "a"}])
    with pytest.raises(UserError, match=r"\[0\] has no text 'answer'"):
        read_answers(tmp_path / "wrong.json")
