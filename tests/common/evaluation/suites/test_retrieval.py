"""Retrieval: an oracle finds all, others what counting by hand finds."""

import json
from itertools import combinations
from pathlib import Path

import pytest
import torch

from common.data.embedded.benchmarks import write_benchmarks
from common.errors import UserError
from common.evaluation.scores import Score, SuiteResult
from common.evaluation.suites.retrieval import RetrievalConfig, run_retrieval
from common.evaluation.work import Workplace
from flare.evaluated import EvaluatedFlare
from flare.recipes import flare_tiny
from flare.task import FlareTask
from tests.common.evaluation.suites.known_media import (
    confused,
    oracle,
    write_image,
    write_sound,
)
from tests.common.evaluation.threads import in_threads

CAPTIONS = {3: ("a 3", "one 3"), 7: ("only 7",), 1: ("a 1", "b 1", "c 1"), 9: ("a 9", "the 9")}
AT = (1, 2, 3)


def karpathy(folder: Path) -> RetrievalConfig:
    """Four images with one to three captions, of which two at most count."""
    images = [
        {
            "imgid": number,
            "filename": write_image(folder / f"{number}.png", number).name,
            "split": "test",
            "sentences": [{"raw": text} for text in texts],
        }
        for number, texts in CAPTIONS.items()
    ]
    (folder / "dataset.json").write_text(json.dumps({"images": images}))
    return RetrievalConfig(
        dataset="flickr30k",
        captions=folder / "dataset.json",
        media=folder,
        at=AT,
        captions_per_medium=2,
    )


def figures(scores: tuple[Score, ...], *, baseline: bool = False) -> dict[str, float]:
    return {s.metric: s.value for s in scores if ("baseline" in s.setting) is baseline}


def place(folder: Path, **options: object) -> Workplace:
    return Workplace(folder=folder / "work", batch_size=3, **options)


def test_an_oracle_finds_every_caption_and_every_image(tmp_path: Path) -> None:
    result = run_retrieval(karpathy(tmp_path), oracle(), place(tmp_path))
    found = [score for score in result.scores if not score.setting]
    assert {score.metric for score in found} == {
        f"R@{k} {way}" for k in AT for way in ("image to text", "text to image")
    }
    assert all((score.value, score.interval) == (100, (100, 100)) for score in found)
    assert {score.num for score in found} == {4, 7}
    assert all(s.is_hit and s.written in s.expected for s in result.samples)
    assert result.samples[1].expected == ("only 7",)


@pytest.mark.parametrize("seed", range(5))
def test_any_vectors_find_what_sorting_them_by_hand_finds(tmp_path: Path, seed: int) -> None:
    model = confused(seed)
    result = run_retrieval(karpathy(tmp_path), model, place(tmp_path))
    texts = [(number, text) for number, own in CAPTIONS.items() for text in own[:2]]
    media = {number: model.media(number) for number in CAPTIONS}
    hits = dict.fromkeys(figures(result.scores), 0.0)
    for number, vector in media.items():
        order = sorted(texts, key=lambda both: -float(model.text_vectors([both[1]])[0] @ vector))
        for k in AT:
            hits[f"R@{k} image to text"] += 100 / 4 * any(n == number for n, _ in order[:k])
    for number, text in texts:
        vector = model.text_vectors([text])[0]
        found = sorted(media, key=lambda other: -float(media[other] @ vector))
        for k in AT:
            hits[f"R@{k} text to image"] += 100 / 7 * (number in found[:k])
    assert figures(result.scores) == pytest.approx(hits)
    assert all(s.interval[0] <= s.value <= s.interval[1] for s in result.scores if s.interval)
    for sample in result.samples:
        assert sample.is_hit is (sample.written in sample.expected)


def test_chance_is_the_mean_over_all_orders(tmp_path: Path) -> None:
    result = run_retrieval(karpathy(tmp_path), oracle(), place(tmp_path))
    owners = [number for number, own in CAPTIONS.items() for _ in own[:2]]
    expected = {}
    for k in AT:
        drawn = list(combinations(owners, k))
        hits = sum(number in first for number in CAPTIONS for first in drawn)
        expected[f"R@{k} image to text"] = 100 * hits / (4 * len(drawn))
        expected[f"R@{k} text to image"] = 100 * k / 4
    assert figures(result.scores, baseline=True) == pytest.approx(expected)


def test_two_processes_and_a_limit_see_the_same_examples(tmp_path: Path) -> None:
    config = karpathy(tmp_path)

    def run(name: str, **options: object) -> SuiteResult:
        return run_retrieval(config, confused(2), place(tmp_path / name, **options))

    alone = run("one")
    both = in_threads(2, lambda ranks: run("two", processes=ranks))
    assert [result.scores for result in both] == [alone.scores] * 2
    limited = run("limited", limit=2)
    assert {score.num for score in limited.scores} == {2, 3}


def test_sounds_are_retrieved_too_and_those_without_a_file_are_counted(tmp_path: Path) -> None:
    for number in (4, 2, 5):
        write_sound(tmp_path / f"Yid{number}.wav", number)
    rows = [f"{i},id{n},30,sound {min(n, 4)}" for i, n in enumerate((4, 4, 2, 6, 5))]
    lines = ["audiocap_id,youtube_id,start_time,caption", *rows]
    (tmp_path / "test.csv").write_text("\n".join(lines) + "\n")
    config = RetrievalConfig(dataset="audiocaps", captions=tmp_path / "test.csv", media=tmp_path)
    result = run_retrieval(config, oracle(), place(tmp_path))
    found = figures(result.scores)
    # The caption of the sound 5 is also that of the sound 4.
    assert found["R@1 sound to text"] == pytest.approx(100 / 3)
    assert found["R@1 text to sound"] == 75
    missing, repeated = result.notes
    assert missing == "1 of 4 clips were missing"
    assert repeated.startswith("3 of 4 captions are also those of other media")


def test_what_cannot_be_evaluated_is_told_in_one_line(tmp_path: Path) -> None:
    class Deaf:
        text_vectors = oracle().text_vectors

    with pytest.raises(UserError, match="Deaf embeds no images"):
        run_retrieval(karpathy(tmp_path), Deaf(), place(tmp_path))
    with pytest.raises(UserError, match="name a split and a k"):
        RetrievalConfig(dataset="coco", captions=tmp_path, media=tmp_path, at=(0,))


@pytest.mark.slow
def test_a_flare_is_evaluated_on_official_files_batch_by_batch(tmp_path: Path) -> None:
    write_benchmarks(tmp_path / "data", num=8, seed=0)
    task = FlareTask(flare_tiny().task, steps=10)
    flare = EvaluatedFlare(task.build_model(), task.processor)
    coco = tmp_path / "data" / "coco"
    config = RetrievalConfig(
        dataset="coco-karpathy", captions=coco / "dataset_coco.json", media=coco
    )
    batched = run_retrieval(config, flare, place(tmp_path))
    whole = run_retrieval(config, flare, Workplace(folder=tmp_path / "whole", batch_size=999))
    assert figures(batched.scores) == figures(whole.scores)
    assert len(batched.samples) > 0
    assert torch.tensor([sample.media[0].shape for sample in batched.samples]).min() >= 3
