"""The report links only what lies beside it, and says the same as its numbers for machines."""

import json
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import PIL.Image
import pytest

from common.data.document import Image
from common.evaluation.few_shot import FewShotConfig, FewShotEvaluation, evaluate_few_shot
from common.evaluation.plots import attention_picture
from common.evaluation.report import (
    FEW_SHOT_HEADINGS,
    few_shot_json,
    few_shot_rows,
    few_shot_section,
    generations_section,
    pictures_section,
    settings_section,
    some_answers,
    table,
    write_report,
)


def always_red(documents: Sequence[Sequence[str | Image]], *, max_new_tokens: int) -> list[str]:
    return [" red" for _ in documents]


@pytest.fixture(scope="module")
def evaluation() -> FewShotEvaluation:
    config = FewShotConfig(
        splits=("unseen_pairs", "digits"), shots=(0, 2), control_shots=(2,), num_episodes=30
    )
    return evaluate_few_shot(always_red, config=config)


def test_every_link_of_the_report_is_a_picture_in_its_folder(
    evaluation: FewShotEvaluation, tmp_path: Path
) -> None:
    answers = some_answers(evaluation, split="unseen_pairs", shots=2, num=3)
    gates = tmp_path / "plots" / "gates.png"
    attention_picture([np.zeros((5, 7, 3), np.uint8)], ["red"], np.ones((1, 1)), path=gates)
    report = write_report(
        tmp_path,
        title="A run",
        sections=[
            few_shot_section(evaluation, tmp_path),
            generations_section(answers, tmp_path),
            pictures_section("Training", {"gates": gates}, tmp_path),
            settings_section(commands=["make quickstart"], settings={"seed": 3}),
        ],
        results={"few_shot": few_shot_json(evaluation)},
    )
    links = re.findall(r"!\[.*?\]\((.*?)\)", report.read_text())
    assert links[0] == "shots.png"
    assert links[-1] == "plots/gates.png"
    assert len(links) == 1 + 3 + 1
    assert all(PIL.Image.open(tmp_path / link).width > 100 for link in links)


def test_numbers_for_machines_are_those_of_the_table(
    evaluation: FewShotEvaluation, tmp_path: Path
) -> None:
    write_report(
        tmp_path, title="A run", sections=[], results={"few_shot": few_shot_json(evaluation)}
    )
    read = json.loads((tmp_path / "results.json").read_text())["few_shot"]
    rows = few_shot_rows(evaluation)
    assert len(read) == len(rows) == 2 * (2 + 1 + 1 + 1)
    for machine, human in zip(read, rows, strict=True):
        assert f"{100 * machine['correct'] / machine['num']:.1f} %" == human[3]
        assert machine["interval_95"][0] <= machine["accuracy"] <= machine["interval_95"][1]


def test_a_sample_of_answers_shows_failures_too(evaluation: FewShotEvaluation) -> None:
    verdicts = [
        answer.is_correct
        for answer in some_answers(evaluation, split="unseen_pairs", shots=2, num=3)
    ]
    assert len(verdicts) == 3
    assert not all(verdicts)


def test_a_table_has_a_rule_below_its_headings() -> None:
    assert table(("a", "b"), [("1", "2")]) == "| a | b |\n| --- | --- |\n| 1 | 2 |"
    assert len(FEW_SHOT_HEADINGS) == 7


def test_attention_that_does_not_fit_its_words_is_refused(tmp_path: Path) -> None:
    images = [np.zeros((5, 7, 3), np.uint8)] * 2
    with pytest.raises(ValueError, match="3 words x 2 images"):
        attention_picture(images, ["a", "b", "c"], np.ones((2, 3)), path=tmp_path / "x.png")


def test_more_words_than_a_row_holds_make_the_picture_taller(tmp_path: Path) -> None:
    images = [np.full((8, 6, 3), 90, np.uint8)] * 2
    heights = []
    for num_words in (8, 9):
        mass = np.full((num_words, 2), 0.5)
        mass[0] = 0  # sees no image
        heat_maps = np.random.default_rng(0).random((num_words, 4, 3))
        path = tmp_path / f"{num_words}.png"
        attention_picture(images, ["word"] * num_words, mass, path=path, heat_maps=heat_maps)
        heights.append(PIL.Image.open(path).height)
    assert heights[1] - heights[0] > 150
