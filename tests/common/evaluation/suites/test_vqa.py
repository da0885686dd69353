"""The VQA suite over generated files of the official form, with writers whose accuracy is known."""

import json
from collections import Counter
from dataclasses import replace
from pathlib import Path

import PIL.Image
import pytest

from common.data.embedded.benchmarks import write_benchmarks
from common.data.images import read_image
from common.errors import UserError
from common.evaluation.benchmarks.items import Question
from common.evaluation.benchmarks.submissions import read_answers
from common.evaluation.benchmarks.vqa import read_vqa
from common.evaluation.metrics.vqa import question_accuracy
from common.evaluation.models import Prompt
from common.evaluation.scores import SuiteResult
from common.evaluation.shots.contamination import ContaminationConfig
from common.evaluation.shots.protocol import ShotsConfig
from common.evaluation.suites.vqa import VqaConfig, run_vqa, short_answer
from common.evaluation.work import Workplace
from common.training.processes import Processes
from flamingo.evaluated import EvaluatedFlamingo
from tests.common.evaluation.shots.writers import Answering, shown
from tests.common.evaluation.threads import in_threads
from tests.flamingo import tiny

SHOTS = ShotsConfig(shots=(0, 3), seeds=(0, 1))


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("files") / "benchmarks"
    write_benchmarks(folder, num=4, seed=0)
    return folder


def config(files: Path, *, dataset: str = "vqav2") -> VqaConfig:
    own = files / dataset.replace("-", "_")
    prefix = "v2_" if dataset == "vqav2" else ""
    return VqaConfig(
        dataset=dataset,
        questions=own / f"{prefix}OpenEnded_mscoco_val2014_questions.json",
        annotations=own / f"{prefix}mscoco_val2014_annotations.json",
        images=files / "coco" / "val2014",
        train_questions=own / f"{prefix}OpenEnded_mscoco_train2014_questions.json",
        train_annotations=own / f"{prefix}mscoco_train2014_annotations.json",
        train_images=files / "coco" / "train2014",
        shots=SHOTS,
    )


def asked(config: VqaConfig) -> tuple[Question, ...]:
    return read_vqa(config.questions, config.annotations, images=config.images)


def most_said(question: Question) -> str:
    return Counter(question.written_answers).most_common(1)[0][0]


def oracle(config: VqaConfig, *, calls_left: int = 1_000_000) -> Answering:
    """Knows every image and question by heart, talks on, and is lost without an image."""
    known = {
        (read_image(question.image).tobytes(), f"Question: {question.text} Short answer:"): question
        for question in asked(config)
    }

    def answer(prompt: Prompt) -> str:
        if not shown(prompt):
            return " nothing\n"
        question = known[shown(prompt)[-1], prompt[-1].text]
        return f" {most_said(question)}\nQuestion: and now?"

    return Answering(answer=answer, calls_left=calls_left)


def run(
    config: VqaConfig, folder: Path, *, model: object = None, processes: Processes | None = None
) -> SuiteResult:
    work = Workplace(folder=folder, batch_size=4, processes=processes or Processes())
    return run_vqa(config, model or oracle(config), work)


def test_an_oracle_is_always_right_and_knows_nothing_when_blind(
    files: Path, tmp_path: Path
) -> None:
    vqa = config(files)
    result = run(vqa, tmp_path)
    total = {(score.shots, score.blind): score for score in result.scores if not score.part}
    assert {key: score.value for key, score in total.items()} == {
        (0, False): 100,
        (0, True): 0,
        (3, False): 100,
        (3, True): 0,
    }
    assert {score.num for score in total.values()} == {len(asked(vqa))}
    types = {score.part["answer type"] for score in result.scores if "answer type" in score.part}
    assert types == {"yes/no", "number", "other"}
    submitted = read_answers(tmp_path / "submissions" / "3-shot_random_seed-1.json")
    assert submitted == {question.question_id: most_said(question) for question in asked(vqa)}
    assert all(sample.is_hit and len(sample.media) == 1 for sample in result.samples)


def test_a_demonstration_is_a_training_question_with_its_first_answer(
    files: Path, tmp_path: Path
) -> None:
    vqa, writer = config(files), oracle(config(files))
    run(vqa, tmp_path, model=writer)
    assert vqa.train_questions is not None
    assert vqa.train_images is not None
    train = read_vqa(
        vqa.train_questions,
        vqa.train_annotations,
        images=vqa.train_images,
        image_name="COCO_train2014_{:012d}.jpg",
    )
    pairs = {(f"Question: {item.text} Short answer:", item.answers[0]) for item in train}
    few = [prompt for prompt in writer.asked if len(prompt) == 4]
    assert len(few) == 4 * len(asked(vqa))  # of two seeds, blind or not
    assert all((turn.text, turn.answer) in pairs for prompt in few for turn in prompt[:-1])
    assert {len(prompt) for prompt in writer.asked} == {3, 4}


def test_an_interrupted_run_goes_on_with_two_ranks_to_the_same_result(
    files: Path, tmp_path: Path
) -> None:
    vqa = replace(config(files), shots=replace(SHOTS, demonstrations=("random",)))
    straight = oracle(vqa)
    expected = run(vqa, tmp_path / "straight", model=straight)
    stopped = oracle(vqa, calls_left=7)
    with pytest.raises(RuntimeError, match="stopped"):
        run(vqa, tmp_path / "cut", model=stopped)
    rest = [oracle(vqa), oracle(vqa)]

    def go_on(processes: Processes) -> SuiteResult:
        return run(vqa, tmp_path / "cut", model=rest[processes.rank], processes=processes)

    for found in in_threads(2, go_on):
        assert (found.scores, found.notes) == (expected.scores, expected.notes)
    counts = [len(writer.asked) for writer in (stopped, *rest)]
    assert sum(counts) == len(straight.asked)
    assert min(counts) > 0
    cut, whole = tmp_path / "cut" / "submissions", tmp_path / "straight" / "submissions"
    for path in whole.iterdir():
        assert (cut / path.name).read_bytes() == path.read_bytes()


def test_answers_to_ok_vqa_are_compared_as_stems_learnt_from_the_training_split(
    files: Path, tmp_path: Path
) -> None:
    vqa = config(files, dataset="ok-vqa")
    said = {question: most_said(question) for question in asked(vqa)}
    unstemmed = [question_accuracy(word, question.answers) for question, word in said.items()]
    assert min(unstemmed) == 0  # the plurals
    result = run(vqa, tmp_path)
    assert result.name == "OK-VQA"
    assert {score.value for score in result.scores if not score.blind} == {100}
    lone = {"train_questions": None, "train_annotations": None, "train_images": None}
    with pytest.raises(UserError, match="learnt from its training annotations"):
        replace(vqa, **lone)


def test_a_test_split_is_answered_for_submission_and_not_scored(
    files: Path, tmp_path: Path
) -> None:
    vqa, writer = replace(config(files), annotations=None), oracle(config(files))
    result = run(vqa, tmp_path, model=writer)
    assert result.scores == result.samples == ()
    assert "unscored" in result.notes[-1]
    assert all(shown(prompt) for prompt in writer.asked)
    assert len(list((tmp_path / "submissions").iterdir())) == 4


def test_questions_about_a_seen_image_are_also_left_out(files: Path, tmp_path: Path) -> None:
    vqa = config(files)
    seen = asked(vqa)[0]
    training = tmp_path / "training"
    training.mkdir()
    PIL.Image.open(seen.image).save(training / "again.png")
    result = run(
        replace(vqa, contamination=ContaminationConfig(training_folders=(training,))), tmp_path
    )
    clean = [score.num for score in result.scores if score.part == {"examples": "uncontaminated"}]
    about = sum(question.image_id == seen.image_id for question in asked(vqa))
    assert clean == [len(asked(vqa)) - about] * 4
    assert any(seen.image.name in note for note in result.notes)


@pytest.mark.parametrize(
    ("written", "answer"),
    [
        (" red\nQuestion: what", "red"),
        ("two, I think", "two"),
        ("red Question: is it", "red"),
        ("yes Short answer: no", "yes"),
        ("1,000", "1,000"),
        ("\n on the left ", "on the left"),
        ("Answer: red", ""),
    ],
)
def test_an_answer_ends_where_openflamingo_cuts_it(written: str, answer: str) -> None:
    assert short_answer(written) == answer


def test_half_of_a_training_set_is_refused(files: Path) -> None:
    with pytest.raises(UserError, match="name all three or none"):
        replace(config(files), train_images=None)
    with pytest.raises(UserError, match="at least 1"):
        replace(config(files), beams=0)


@pytest.mark.slow
def test_a_flamingo_answers_with_rices_and_again_without_being_asked(
    files: Path, tmp_path: Path
) -> None:
    shots = ShotsConfig(shots=(0, 2), demonstrations=("rices",))
    vqa = replace(config(files), shots=shots, max_new_tokens=2)
    model = EvaluatedFlamingo(tiny.model(vocab_size=300), tiny.processor())
    result = run(vqa, tmp_path, model=model)
    assert [score.setting for score in result.scores if not score.part] == [
        {"demonstrations": "rices"}
    ] * 4
    silent = Answering(answer=lambda prompt: "", calls_left=0)
    silent.image_vectors = model.image_vectors
    assert run(vqa, tmp_path, model=silent).scores == result.scores
    answers = (tmp_path / "answers" / "2-shot_rices" / "rank-0.jsonl").read_text().splitlines()
    assert [json.loads(line)["key"] for line in answers] == [
        str(question.question_id) for question in asked(vqa)
    ]
