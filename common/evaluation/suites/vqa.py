"""Questions about images, answered in free words after some demonstrations: VQAv2 and OK-VQA by
the protocol of Flamingo and OpenFlamingo (`Question: ... Short answer:`, beams, a few tokens), with
the official accuracy."""

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from statistics import fmean
from typing import Annotated, Literal

import tyro

from common.data.prompts import question_prompt
from common.errors import UserError
from common.evaluation.benchmarks.items import Question
from common.evaluation.benchmarks.submissions import write_answers
from common.evaluation.benchmarks.vqa import answer_pairs, read_vqa
from common.evaluation.metrics.vqa import question_accuracy
from common.evaluation.metrics.vqa_stems import learn_stems, stemmed
from common.evaluation.models import Prompt, Writer
from common.evaluation.scores import Sample, Score, SuiteResult
from common.evaluation.shots.contamination import (
    Contamination,
    ContaminationConfig,
    find_contamination,
)
from common.evaluation.shots.exemplars import Exemplar, read_medium
from common.evaluation.shots.figures import (
    in_turn,
    interval_note,
    mean_scores,
    over_seeds,
    seeds_note,
)
from common.evaluation.shots.protocol import (
    Setting,
    ShotsConfig,
    few_shot,
    settings_of,
)
from common.evaluation.work import Workplace

METRIC = "VQA accuracy"
TITLES = {"vqav2": "VQAv2", "ok-vqa": "OK-VQA"}
NUM_SAMPLES = 8
HIT = 50.0  # per cent: two of ten people say the same, sometimes three


@dataclass(frozen=True, kw_only=True)
class VqaConfig:
    """Answers to questions about images: VQAv2 or OK-VQA."""

    # Whose official files these are.
    dataset: Literal["vqav2", "ok-vqa"]
    # v2_OpenEnded_mscoco_val2014_questions.json, or OpenEnded_mscoco_val2014_questions.json
    questions: Path
    # v2_mscoco_val2014_annotations.json, or mscoco_val2014_annotations.json; a test split has none:
    # its answers are written for submission and not scored.
    annotations: Path | None = None
    # val2014: COCO_val2014_000000000042.jpg is named like its folder
    images: Path
    # The questions of the training split, of which demonstrations are made.
    train_questions: Path | None = None
    # Their annotations, from which the stems of OK-VQA's answers are learnt, too.
    train_annotations: Path | None = None
    # train2014
    train_images: Path | None = None
    # Longest answer in tokens.
    max_new_tokens: int = 5
    # Answers that a beam search keeps; 1: greedy.
    beams: int = 3
    shots: Annotated[ShotsConfig, tyro.conf.arg(name="")] = field(default_factory=ShotsConfig)
    contamination: Annotated[ContaminationConfig, tyro.conf.arg(name="")] = field(
        default_factory=ContaminationConfig
    )

    def __post_init__(self) -> None:
        if min(self.max_new_tokens, self.beams) < 1:
            raise UserError(f"{self.max_new_tokens=} {self.beams=}: use at least 1")
        train = (self.train_questions, self.train_annotations, self.train_images)
        if any(train) and not all(train):
            raise UserError(
                "training data are --train-questions, --train-annotations and --train-images; "
                "name all three or none"
            )
        if self.dataset == "ok-vqa" and self.annotations and not all(train):
            raise UserError(
                "OK-VQA compares stems of answers, which are learnt from its training annotations; "
                "name --train-questions, --train-annotations and --train-images"
            )


def run_vqa(config: VqaConfig, model: Writer, work: Workplace) -> SuiteResult:
    """Ask every question in every setting; the answers also lie in `submissions`.

    Raises:
        UserError: a file is missing or malformed, or a setting asks for what was not named.
    """
    asked = read_vqa(
        config.questions, config.annotations, images=config.images, image_name=_name(config.images)
    )
    questions = work.evaluated(asked)
    train = _training_questions(config)
    asking = few_shot(
        config.shots,
        kind="image",
        queries=[_exemplar(question) for question in questions],
        pool=[_exemplar(question) for question in train],
        model=model,
        work=work,
    )
    seen = find_contamination(asking, config=config.contamination)
    stems = learn_stems(answer_pairs(train)) if config.dataset == "ok-vqa" else {}
    settings = settings_of(config.shots)
    shown = max((row for row in settings if not row.blind), key=lambda row: row.shots)
    scores, samples, notes = list[Score](), list[Sample](), _notes(config, seen, train)
    for setting in settings:
        if setting.blind and config.annotations is None:
            continue  # without a figure there is nothing to compare it with
        answers = [
            [_as_scored(text, stems) for text in texts]
            for texts in asking.ask(setting, partial(_write, model, config))
        ]
        _submit(answers, questions, setting=setting, work=work)
        if config.annotations is None:
            continue
        values = [_accuracies(questions, said) for said in answers]
        parts = _parts(questions, in_full=setting == shown)
        scores += mean_scores(
            METRIC, over_seeds(values), setting=setting, contaminated=seen.places, parts=parts
        )
        notes += seeds_note(METRIC, list(map(fmean, values)), setting=setting)
        if setting == shown:
            samples = _samples(questions, answers[0], values[0])
    return SuiteResult(
        name=TITLES[config.dataset],
        scores=tuple(scores),
        samples=tuple(samples),
        notes=tuple(notes),
    )


def short_answer(written: str) -> str:
    """What counts of what a model wrote, as OpenFlamingo cuts it: not the next line, nor the next
    question or answer, nor what follows a comma: `" two, I think\nQuestion: ..." -> "two"`."""
    return re.split(r"Question|Answer|Short|, |\n", written.strip(), maxsplit=1)[0].strip()


def _training_questions(config: VqaConfig) -> tuple[Question, ...]:
    questions, images = config.train_questions, config.train_images
    if questions is None or images is None:
        return ()
    annotations = config.train_annotations
    return read_vqa(questions, annotations, images=images, image_name=_name(images))


def _name(images: Path) -> str:
    """COCO's images are named like the folder in which they are published."""
    return f"COCO_{images.resolve().name}_{{:012d}}.jpg"


def _exemplar(question: Question) -> Exemplar:
    return Exemplar(
        key=str(question.question_id),
        medium=question.image,
        medium_id=str(question.image_id),
        text=question_prompt(question.text.strip()),
        # As OpenFlamingo: the first person's, of OK-VQA as a stem. A test question has none.
        answer=question.answers[0] if question.answers else "",
    )


def _notes(config: VqaConfig, seen: Contamination, train: Sequence[Question]) -> list[str]:
    if config.annotations is None:
        return [*seen.notes, "No annotations were named: the answers lie in submissions, unscored."]
    notes = [*seen.notes, interval_note("questions")]
    if config.dataset == "ok-vqa":
        notes.append(
            f"Answers are compared as stems, learnt from those to {len(train)} training questions; "
            "a word that occurs in none of them stays as it is."
        )
    return notes


def _write(model: Writer, config: VqaConfig, prompts: Sequence[Prompt]) -> list[str]:
    return model.write(prompts, max_new_tokens=config.max_new_tokens, num_beams=config.beams)


def _as_scored(written: str, stems: Mapping[str, str]) -> str:
    answer = short_answer(written)
    return stemmed(answer, stems) if stems else answer


def _submit(
    answers: Sequence[Sequence[str]],
    questions: Sequence[Question],
    *,
    setting: Setting,
    work: Workplace,
) -> None:
    if setting.blind or not work.processes.is_main:
        return
    for seed, said in zip(setting.seeds, answers, strict=True):
        numbers = (question.question_id for question in questions)
        path = work.folder / "submissions" / f"{setting.name(seed)}.json"
        write_answers(dict(zip(numbers, said, strict=True)), path)


def _accuracies(questions: Sequence[Question], answers: Sequence[str]) -> list[float]:
    return [
        100 * question_accuracy(answer, question.answers)
        for question, answer in zip(questions, answers, strict=True)
    ]


def _parts(questions: Sequence[Question], *, in_full: bool) -> dict[str, list[str]]:
    """VQAv2 sorts its questions into 65 types: one setting's are enough to read."""
    parts = {"answer type": [question.answer_type for question in questions]}
    if in_full:
        parts["question type"] = [question.question_type for question in questions]
    return parts


def _samples(
    questions: Sequence[Question], answers: Sequence[str], values: Sequence[float]
) -> list[Sample]:
    is_hit = [value >= HIT for value in values]
    return [
        Sample(
            media=(read_medium(questions[place].image, kind="image"),),
            asked=questions[place].text,
            written=answers[place],
            expected=tuple(dict(Counter(questions[place].answers).most_common())),
            is_hit=is_hit[place],
        )
        for place in in_turn(is_hit, num=NUM_SAMPLES)
    ]
