"""Zero-shot classes of sounds: accuracy per fold, and the mean average precision of many labels."""

from itertools import permutations
from pathlib import Path

import numpy as np
import pytest

from common.errors import UserError
from common.evaluation.metrics.average_precision import average_precision, mean_average_precision
from common.evaluation.suites.sound_classes import SoundClassesConfig, run_sound_classes
from common.evaluation.work import Workplace
from tests.common.evaluation.suites.known_media import confused, oracle, write_sound

# Fold, class and number of each clip: one in the second fold sounds like another class.
CLIPS = ((1, 0, 0), (1, 1, 1), (2, 0, 1), (2, 2, 2), (3, 1, 1), (4, 1, 1), (5, 2, 2))
# Labels of AudioSet's clips by their numbers; the class 3 has none.
LABELS = {5: (0, 2), 6: (1,), 7: (0, 1), 8: (2,)}


def esc50(folder: Path) -> SoundClassesConfig:
    rows = ["filename,fold,target,category"]
    for place, (fold, target, number) in enumerate(CLIPS):
        name = f"{fold}-{place}-A-{target}.wav"
        write_sound(folder / "audio" / name, number)
        rows.append(f"{name},{fold},{target},kind_{target}")
    (folder / "meta").mkdir()
    (folder / "meta" / "esc50.csv").write_text("\n".join(rows) + "\n")
    return SoundClassesConfig(dataset="esc50", sounds=folder)


def audioset(folder: Path) -> SoundClassesConfig:
    names = [f"{place},/m/{place},kind {place}" for place in range(4)]
    (folder / "classes.csv").write_text("\n".join(["index,mid,display_name", *names]) + "\n")
    rows = ["# YTID, start_seconds, end_seconds, positive_labels"]
    for number, own in LABELS.items():
        labels = ",".join(f"/m/{label}" for label in own)
        rows.append(f'id{number}, 30.000, 40.000, "{labels}"')
        write_sound(folder / "clips" / f"id{number}.wav", number)
    rows.append('gone, 30.000, 40.000, "/m/0"')
    (folder / "eval.csv").write_text("\n".join(rows) + "\n")
    return SoundClassesConfig(
        dataset="audioset",
        sounds=folder / "clips",
        segments=folder / "eval.csv",
        classes=folder / "classes.csv",
    )


def place(folder: Path, **options: object) -> Workplace:
    return Workplace(folder=folder / "work", batch_size=2, **options)


def test_accuracy_is_counted_in_all_per_fold_and_per_class(tmp_path: Path) -> None:
    result = run_sound_classes(esc50(tmp_path), oracle(), place(tmp_path))
    whole, chance, *parts = result.scores
    assert (whole.metric, whole.value, whole.num) == ("accuracy", pytest.approx(600 / 7), 7)
    assert (chance.value, chance.setting) == (pytest.approx(100 / 3), {"baseline": "chance"})
    shares = {next(iter(score.part.items())): round(score.value) for score in parts}
    assert shares == {
        ("fold", "1"): 100,
        ("fold", "2"): 50,
        ("fold", "3"): 100,
        ("fold", "4"): 100,
        ("fold", "5"): 100,
        ("class", "kind 0"): 50,
        ("class", "kind 1"): 100,
        ("class", "kind 2"): 100,
    }
    assert [s.written for s in result.samples if not s.is_hit] == ["kind 1"]
    limited = run_sound_classes(esc50(tmp_path / "l"), oracle(), place(tmp_path / "l", limit=1))
    assert [score.num for score in limited.scores if "fold" in score.part] == [1]


def test_every_class_ranks_all_clips_and_chance_is_the_mean_over_orders(tmp_path: Path) -> None:
    model = confused(4)
    result = run_sound_classes(audioset(tmp_path), model, place(tmp_path))
    clips = np.stack([model.media(number).numpy() for number in LABELS])
    prompts = [f"this is a sound of kind {label}." for label in range(4)]
    scores = clips @ model.text_vectors(prompts).numpy().T
    labels = np.array([[label in own for label in range(4)] for own in LABELS.values()])
    found, chance, *classes = result.scores
    assert found.metric == chance.metric == "mAP"
    assert found.value == pytest.approx(100 * mean_average_precision(scores, labels))
    assert [score.part["class"] for score in classes] == ["kind 0", "kind 1", "kind 2"]
    orders = [np.array(order, dtype=float) for order in permutations(range(4))]
    means = [np.mean([average_precision(o, labels[:, k]) for o in orders]) for k in range(3)]
    assert chance.value == pytest.approx(100 * np.mean(means))
    assert result.notes[1] == "1 of 5 clips were missing"
    assert {s.is_hit for s in result.samples} == {s.written in s.expected for s in result.samples}


def test_tables_that_do_not_belong_to_the_data_set_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="audioset needs --segments and --classes"):
        SoundClassesConfig(dataset="audioset", sounds=tmp_path)
    with pytest.raises(UserError, match="esc50 takes no segments"):
        SoundClassesConfig(dataset="esc50", sounds=tmp_path, classes=tmp_path)
