"""Accuracy of answers to visual questions (VQAv2, and OK-VQA in the same format), equal to the
official evaluation: of ten human answers every nine are asked whether three of them say the same,
`min(1, matches / 3)`, meaned over the ten subsets. Answers are normalised only where people
disagree, as officially; `vqa_stems` adds what OK-VQA needs."""

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

from common.evaluation.metrics.vqa_answers import in_one_line, normalised

MATCHES_FOR_FULL_MARKS = 3


@dataclass(frozen=True, kw_only=True)
class AnsweredQuestion:
    """What was answered, what people answer, and how the data set sorts the question."""

    answer: str
    human_answers: tuple[str, ...]
    answer_type: str = ""
    question_type: str = ""


@dataclass(frozen=True, kw_only=True)
class VqaAccuracy:
    """Shares between 0 and 1; officially they are printed as percentages."""

    overall: float
    per_answer_type: Mapping[str, float]
    per_question_type: Mapping[str, float]


def vqa_accuracy(questions: Sequence[AnsweredQuestion]) -> VqaAccuracy:
    """Mean over all questions, and over those of each type.

    Raises:
        ValueError: there is no question, or one with fewer than two human answers.
    """
    scores = [question_accuracy(item.answer, item.human_answers) for item in questions]
    return VqaAccuracy(
        overall=fmean(scores),
        per_answer_type=_means(questions, scores, lambda item: item.answer_type),
        per_question_type=_means(questions, scores, lambda item: item.question_type),
    )


def question_accuracy(answer: str, human_answers: Sequence[str]) -> float:
    """Of one question.

    Raises:
        ValueError: there are fewer than two human answers.
    """
    if len(human_answers) < 2:
        raise ValueError(f"{len(human_answers)=}: leaving one out takes two")
    given = in_one_line(answer)
    humans = [in_one_line(human) for human in human_answers]
    if len(set(humans)) > 1:
        given = normalised(given)
        humans = [normalised(human) for human in humans]
    agree = [human == given for human in humans]
    matches = sum(agree)
    return fmean(min(1.0, (matches - own) / MATCHES_FOR_FULL_MARKS) for own in agree)


def _means(
    questions: Sequence[AnsweredQuestion],
    scores: Sequence[float],
    kind: Callable[[AnsweredQuestion], str],
) -> dict[str, float]:
    groups: defaultdict[str, list[float]] = defaultdict(list)
    for question, score in zip(questions, scores, strict=True):
        groups[kind(question)].append(score)
    return {name: fmean(group) for name, group in groups.items()}
