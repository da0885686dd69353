"""Accuracy of answers equals that of the official evaluation; stems are those of annotations."""

import pytest

from common.evaluation.metrics.vqa import AnsweredQuestion, question_accuracy, vqa_accuracy
from common.evaluation.metrics.vqa_answers import normalised
from common.evaluation.metrics.vqa_stems import learn_stems, stemmed
from tests.common.evaluation.metrics.fixtures import official


def test_four_hundred_questions_have_the_official_accuracy_each_and_by_type():
    cases = official("vqa")
    questions = [
        AnsweredQuestion(**(case | {"human_answers": tuple(case["human_answers"])}))
        for case in cases["questions"]
    ]
    each = [question_accuracy(item.answer, item.human_answers) for item in questions]
    assert len(each) == 400
    assert len({round(score, 6) for score in each}) == 5  # 0, 0.3, 0.6, 0.9 and 1 all occur
    assert [100 * score for score in each] == pytest.approx(cases["accuracy"], abs=1e-9)
    found = vqa_accuracy(questions)
    assert 100 * found.overall == pytest.approx(cases["overall"], abs=1e-9)
    for ours, theirs in (
        (found.per_answer_type, cases["per_answer_type"]),
        (found.per_question_type, cases["per_question_type"]),
    ):
        assert {name: 100 * share for name, share in ours.items()} == pytest.approx(theirs)


def test_answers_and_every_official_contraction_are_normalised_as_officially():
    expected = official("vqa")["normalised"]
    assert len(expected) > 150
    assert {answer: normalised(answer) for answer in expected} == expected


def test_where_all_people_agree_nothing_is_normalised():
    assert question_accuracy("two", ["2"] * 10) == 0.0
    assert question_accuracy("two", ["2"] * 9 + ["3"]) == 1.0


def test_stems_come_from_what_annotators_wrote_and_other_words_stay():
    stems = learn_stems(
        [
            ("Riding horses", "ride horse"),
            ("riding", "ride"),
            ("hot dogs", "hotdog"),
            ("leaves", "leaf"),
            ("leaves", "leave"),
            ("leaves", "leaf"),
        ]
    )
    assert stemmed("riding Horses ", stems) == "ride horse"
    assert stemmed("hot dogs", stems) == "hotdog"
    assert stemmed("horses riding", stems) == "horse ride"
    assert stemmed("leaves", stems) == "leaf"
    assert stemmed("swimming dogs", stems) == "swimming dogs"
    assert question_accuracy(stemmed("horses", stems), ["horse"] * 4 + ["cow"] * 6) == 1.0
