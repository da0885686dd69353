"""The captions suite over generated files of the official form, with writers of known captions."""

import json
from dataclasses import replace
from pathlib import Path
from statistics import fmean

import pytest

from common.data.embedded.benchmarks import write_benchmarks
from common.data.images import read_image
from common.errors import UserError
from common.evaluation.benchmarks.captioned import read_captioned
from common.evaluation.benchmarks.submissions import read_captions
from common.evaluation.metrics.bleu import bleu
from common.evaluation.metrics.caption_tokens import tokenised
from common.evaluation.metrics.cider import cider_d
from common.evaluation.metrics.rouge import rouge_l
from common.evaluation.models import Prompt
from common.evaluation.scores import SuiteResult
from common.evaluation.shots.protocol import ShotsConfig
from common.evaluation.suites.captions import CaptionsConfig, one_caption, run_captions
from common.evaluation.work import Workplace
from tests.common.evaluation.shots.writers import Answering, shown

SHOTS = ShotsConfig(shots=(0, 2), seeds=(0, 1))


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("files") / "benchmarks"
    write_benchmarks(folder, num=5, seed=0)
    return folder


def karpathy(files: Path) -> CaptionsConfig:
    return CaptionsConfig(
        dataset="coco-karpathy",
        captions=files / "coco" / "dataset_coco.json",
        media=files / "coco",
        shots=SHOTS,
    )


def run(config: CaptionsConfig, model: Answering, folder: Path) -> SuiteResult:
    return run_captions(config, model, Workplace(folder=folder, batch_size=2))


def copying() -> Answering:
    """Says what was said of the last example."""
    return Answering(answer=lambda prompt: f' "{prompt[-2].answer}"\nOutput: and so on')


def test_figures_are_those_of_the_metrics_meaned_over_the_seeds(
    files: Path, tmp_path: Path
) -> None:
    config = karpathy(files)
    result = run(config, copying(), tmp_path)
    media = read_captioned(
        "coco-karpathy", config.captions, media=config.media, splits=("test",)
    ).media
    references = [[tokenised(caption) for caption in medium.captions] for medium in media]
    submitted = [
        read_captions(tmp_path / "submissions" / f"2-shot_random_seed-{seed}.json")
        for seed in (0, 1)
    ]
    assert submitted[0] != submitted[1]
    written = [[tokenised(said[int(medium.key)]) for medium in media] for said in submitted]
    expected = {
        "CIDEr-D": fmean(cider_d(said, references) for said in written),
        "ROUGE-L": fmean(rouge_l(said, references) for said in written),
    } | {
        f"BLEU-{size}": fmean(bleu(said, references)[size - 1] for said in written)
        for size in range(1, 5)
    }
    found = {s.metric: s for s in result.scores if (s.shots, s.blind) == (2, False)}
    assert {name: score.value / 100 for name, score in found.items()} == pytest.approx(expected)
    assert {name for name, score in found.items() if score.interval} == {"CIDEr-D", "ROUGE-L"}
    # Copying needs no image: the blind figures of this writer are the same.
    blind = {s.metric: s.value for s in result.scores if (s.shots, s.blind) == (2, True)}
    assert blind == pytest.approx({name: score.value for name, score in found.items()})


def test_an_oracle_of_images_outdoes_its_blind_self_and_is_shown_what_it_missed(
    files: Path, tmp_path: Path
) -> None:
    config = karpathy(files)
    media = read_captioned(
        "coco-karpathy", config.captions, media=config.media, splits=("test",)
    ).media
    known = {read_image(medium.path).tobytes(): medium.captions[1] for medium in media}
    known[read_image(media[0].path).tobytes()] = "xyzzy"

    def answer(prompt: Prompt) -> str:
        return known[shown(prompt)[-1]] if shown(prompt) else ""

    result = run(config, Answering(answer=answer), tmp_path)
    rouge = {
        (score.shots, score.blind): score.value
        for score in result.scores
        if score.metric == "ROUGE-L"
    }
    assert rouge[0, False] == rouge[2, False] == pytest.approx(100 * (len(media) - 1) / len(media))
    assert rouge[0, True] == rouge[2, True] == 0
    assert next(sample.written for sample in result.samples if not sample.is_hit) == "xyzzy"
    assert {sample.is_hit for sample in result.samples} == {True, False}


@pytest.mark.parametrize(
    ("dataset", "evaluated", "train"),
    [
        ("clotho", "clotho_captions_evaluation.csv evaluation", "clotho_captions_development.csv"),
        ("audiocaps", "test.csv test", "train.csv"),
    ],
)
def test_sounds_are_captioned_after_sounds(
    files: Path, tmp_path: Path, dataset: str, evaluated: str, train: str
) -> None:
    folder = files / {"clotho": "clotho", "audiocaps": "audio_caps"}[dataset]
    table, clips = evaluated.split()
    config = CaptionsConfig(
        dataset=dataset,
        captions=folder / table,
        media=folder / clips,
        train_captions=folder / train,
        train_media=folder / {"clotho": "development", "audiocaps": "train"}[dataset],
        shots=replace(SHOTS, shots=(2,), seeds=(0,)),
    )
    writer = copying()
    result = run(config, writer, tmp_path)
    media = [len(turn.media) for prompt in writer.asked for turn in prompt]
    assert media == [1] * 3 * 5 + [0] * 3 * 5
    assert all(not shown(prompt) for prompt in writer.asked)  # no image
    assert {score.num for score in result.scores} == {5}
    assert not (tmp_path / "submissions").exists()


def test_cocos_own_annotations_have_no_demonstrations_unless_they_are_named(
    files: Path, tmp_path: Path
) -> None:
    folder = files / "coco"
    own = replace(
        karpathy(files),
        dataset="coco",
        captions=folder / "annotations" / "captions_val2014.json",
        media=folder / "val2014",
    )
    with pytest.raises(UserError, match="drawn from training data"):
        run(own, copying(), tmp_path)
    named = replace(
        own,
        train_captions=folder / "annotations" / "captions_train2014.json",
        train_media=folder / "train2014",
    )
    assert run(named, copying(), tmp_path).scores


def test_a_missing_clip_is_told_and_a_medium_without_a_caption_refused(
    files: Path, tmp_path: Path
) -> None:
    config = karpathy(files)
    content = json.loads(config.captions.read_text())
    for image in content["images"]:
        image["sentences"] = []
    bare = tmp_path / "bare.json"
    bare.write_text(json.dumps(content))
    with pytest.raises(UserError, match="has no caption"):
        run(replace(config, captions=bare), copying(), tmp_path)
    with pytest.raises(UserError, match=r"jar|java"):
        run(replace(config, meteor_jar=tmp_path / "absent.jar"), copying(), tmp_path)


def test_a_caption_ends_with_its_line_and_has_no_quotation_marks() -> None:
    assert one_caption(' "a red bar"\nOutput: a dog') == "a red bar"
    assert one_caption("a bar Output: a dog") == "a bar"
    assert one_caption("\n") == ""
