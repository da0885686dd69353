"""The classes suite over generated files of the official form, with weights that are known."""

from collections import defaultdict
from dataclasses import replace
from pathlib import Path

import pytest

from common.data.embedded.benchmarks import write_benchmarks
from common.data.images import read_image
from common.errors import UserError
from common.evaluation.benchmarks.image_classes import read_classified_images
from common.evaluation.intervals import wilson_interval
from common.evaluation.models import Prompt
from common.evaluation.scores import SuiteResult
from common.evaluation.shots.protocol import ShotsConfig
from common.evaluation.suites.classes import ClassesConfig, orders, run_classes
from common.evaluation.work import Workplace
from tests.common.evaluation.shots.writers import Answering, save, scene, shown

SHOTS = ShotsConfig(shots=(0, 3), seeds=(0,))


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("files") / "benchmarks"
    write_benchmarks(folder, num=10, seed=0)
    return folder


def images(files: Path) -> ClassesConfig:
    folder = files / "imagenet"
    return ClassesConfig(
        dataset="images",
        folder=folder / "val",
        train_folder=folder / "train",
        names=folder / "LOC_synset_mapping.txt",
        shots=SHOTS,
    )


def run(config: ClassesConfig, model: Answering, folder: Path) -> SuiteResult:
    return run_classes(config, model, Workplace(folder=folder, batch_size=4))


def silent(prompt: Prompt) -> str:
    raise AssertionError("nothing is written")


def test_the_likeliest_name_counts_and_a_blind_oracle_falls_to_the_first(
    files: Path, tmp_path: Path
) -> None:
    config = images(files)
    found = read_classified_images(config.folder, names=config.names)
    known = {read_image(item.image).tobytes(): found.names[item.label] for item in found.images}

    def weigh(prompt: Prompt, answer: str) -> float:
        return -1.0 if shown(prompt) and known[shown(prompt)[-1]] == answer else -2.0

    result = run(config, Answering(answer=silent, weigh=weigh), tmp_path)
    first = sum(item.label == 0 for item in found.images)
    low, high = wilson_interval(first, len(found.images))
    assert {(score.shots, score.blind): score.value for score in result.scores} == {
        (0, False): 100,
        (3, False): 100,
        (0, True): 100 * first / len(found.images),
        (3, True): 100 * first / len(found.images),
    }
    blind = [score for score in result.scores if score.blind]
    assert all(score.interval == (100 * low, 100 * high) for score in blind)
    assert {score.num for score in result.scores} == {len(found.images)}


def test_log_probabilities_are_meaned_over_the_orders_of_the_demonstrations(
    files: Path, tmp_path: Path
) -> None:
    """A class weighs most in one order, another one on the mean."""
    config = replace(images(files), shots=replace(SHOTS, shots=(3,), blind=False))
    names = read_classified_images(config.folder, names=config.names).names
    seen: defaultdict[bytes, list[tuple[bytes, ...]]] = defaultdict(list)

    def weigh(prompt: Prompt, answer: str) -> float:
        *examples, query = shown(prompt)
        ways = seen[query]
        if answer == names[0]:
            ways.append(tuple(examples))
        if answer == names[2]:
            return -3.0
        return -1.0 if answer == names[len(ways) % 2] else -9.0

    config = replace(config, permutations=4)
    run(config, Answering(answer=silent, weigh=weigh), tmp_path)
    assert all(len(set(ways)) == len(ways) == 4 for ways in seen.values())
    assert all(len({frozenset(way) for way in ways}) == 1 for ways in seen.values())
    (path,) = (tmp_path / "answers" / "3-shot_random_seed-0").iterdir()
    assert path.read_text().count('"answer": 2}') == len(seen)


def test_long_names_may_be_weighed_per_character(files: Path, tmp_path: Path) -> None:
    config = replace(images(files), shots=replace(SHOTS, shots=(0,), blind=False))
    names = read_classified_images(config.folder, names=config.names).names
    longest = max(range(len(names)), key=lambda place: len(names[place]))
    shortest = min(range(len(names)), key=lambda place: len(names[place]))

    def answers(folder: Path, *, per_character: bool) -> set[int]:
        own = replace(config, per_character=per_character)
        model = Answering(answer=silent, weigh=lambda _, name: -5.0 - len(name))
        result = run(own, model, folder)
        return {names.index(sample.written) for sample in result.samples}

    assert answers(tmp_path / "sums", per_character=False) == {shortest}
    assert answers(tmp_path / "means", per_character=True) == {longest}


def test_orders_are_all_there_are_or_different_ones_beginning_with_the_given() -> None:
    assert orders(0, num=6) == [()]
    assert orders(2, num=6) == [(0, 1), (1, 0)]
    assert len(set(orders(3, num=6))) == 6
    some = orders(8, num=6)
    assert some[0] == tuple(range(8))
    assert len(set(some)) == 6
    assert all(sorted(order) == list(range(8)) for order in some)


def test_folds_of_esc50_are_shown_sounds_of_the_other_folds(files: Path, tmp_path: Path) -> None:
    config = ClassesConfig(
        dataset="esc50",
        folder=files / "esc50",
        esc50_folds=(2, 4),
        shots=replace(SHOTS, shots=(2,)),
    )
    model = Answering(answer=silent)
    result = run(config, model, tmp_path)
    assert result.name.startswith("ESC-50")
    assert {len(turn.media) for prompt in model.asked for turn in prompt} == {0, 1}
    with pytest.raises(UserError, match="leave one"):
        replace(config, esc50_folds=(1, 2, 3, 4, 5))
    with pytest.raises(UserError, match="each once"):
        replace(config, esc50_folds=(6,))
    with pytest.raises(UserError, match="leave out --train-folder"):
        replace(config, train_folder=files)


def test_folders_of_different_classes_are_refused(files: Path, tmp_path: Path) -> None:
    other = save(scene(0), tmp_path / "train" / "n00000009" / "0.png").parents[1]
    config = replace(images(files), names=None, train_folder=other)
    with pytest.raises(UserError, match="different classes"):
        run(config, Answering(answer=silent), tmp_path)
