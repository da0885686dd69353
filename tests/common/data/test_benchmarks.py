"""Generated benchmarks are read by the readers of official files and are true of their media."""

from collections import Counter
from pathlib import Path

import pytest

from common.data.audio import read_audio
from common.data.embedded.benchmarks import write_benchmarks
from common.data.embedded.captions import full_caption
from common.data.embedded.scenes import COLOURS, SHAPES, scenes_in
from common.data.embedded.sound_captions import full_sound_caption
from common.data.embedded.sounds import KINDS, sounds_in
from common.data.images import read_image
from common.errors import UserError
from common.evaluation.benchmarks.captions import read_coco_captions, read_karpathy
from common.evaluation.benchmarks.image_classes import read_classified_images, read_templates
from common.evaluation.benchmarks.sounds import (
    read_audio_caps,
    read_audio_set,
    read_clotho,
    read_esc50,
)
from common.evaluation.benchmarks.vqa import answer_pairs, read_vqa
from common.evaluation.metrics.vqa import question_accuracy
from common.evaluation.metrics.vqa_stems import learn_stems

NUM = 12


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("made") / "benchmarks"
    write_benchmarks(folder, num=NUM, seed=3)
    return folder


def files(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


def test_equal_arguments_give_equal_files_and_a_finished_folder_is_left(
    folder: Path, tmp_path: Path
) -> None:
    write_benchmarks(tmp_path / "again", num=NUM, seed=3)
    assert files(tmp_path / "again") == files(folder)
    (folder / "coco" / "note").touch()
    write_benchmarks(folder, num=NUM, seed=3)
    assert (folder / "coco" / "note").exists()
    with pytest.raises(UserError, match="not empty; choose another"):
        write_benchmarks(folder, num=NUM, seed=4)
    with pytest.raises(UserError, match="--num 0 images"):
        write_benchmarks(tmp_path / "none", num=0, seed=3)


@pytest.mark.parametrize("year", ["train2014", "val2014"])
def test_all_kinds_of_questions_have_ten_answers_of_which_the_true_one_scores_fully(
    folder: Path, year: str
) -> None:
    scenes = scenes_of(folder, year)
    questions = read_vqa(
        folder / f"vqav2/v2_OpenEnded_mscoco_{year}_questions.json",
        folder / f"vqav2/v2_mscoco_{year}_annotations.json",
        images=folder / "coco" / year,
        image_name=f"COCO_{year}_{{:012d}}.jpg",
    )
    assert Counter(question.answer_type for question in questions) == {
        "other": NUM,
        "number": NUM,
        "yes/no": NUM,
    }
    for question in questions:
        scene = scenes[question.image_id]
        affirmed = question.text == f"Is there anything {scene.colour}?"
        true = {"other": scene.colour, "number": scene.count, "yes/no": "yes" if affirmed else "no"}
        assert len(question.answers) == 10
        assert question_accuracy(true[question.answer_type], question.answers) == 1
    assert len({question.answers for question in questions}) > NUM  # people do not always agree


def scenes_of(folder: Path, year: str) -> dict[int, object]:
    by_caption = {
        full_caption(scene): scene
        for split in ("train", "unseen_scenes")
        for scene in scenes_in(split)
    }
    captioned = read_coco_captions(
        folder / f"coco/annotations/captions_{year}.json", images=folder / "coco" / year
    )
    return {item.image_id: by_caption[item.captions[0]] for item in captioned}


def test_stems_of_ok_vqa_are_learned_from_plurals(folder: Path) -> None:
    questions = read_vqa(
        folder / "ok_vqa/OpenEnded_mscoco_val2014_questions.json",
        folder / "ok_vqa/mscoco_val2014_annotations.json",
        images=folder / "coco/val2014",
    )
    assert len(questions) == 2 * NUM
    stems = learn_stems(answer_pairs(questions))
    plurals = [word for word, stem in stems.items() if word != stem]
    assert plurals
    assert set(stems.values()) <= {*SHAPES, "left", "right", "top", "bottom"}


def test_captions_tell_scenes_that_training_never_has(folder: Path) -> None:
    images = folder / "coco"
    held_out = read_karpathy(images / "dataset_coco.json", images=images, splits=("test", "val"))
    trained = read_karpathy(images / "dataset_coco.json", images=images, splits=("train",))
    assert len(held_out) == len(trained) == NUM
    unseen = {full_caption(scene) for scene in scenes_in("unseen_scenes")}
    assert {item.captions[0] for item in held_out} <= unseen
    assert not {item.captions[0] for item in trained} & unseen
    item = held_out[0]
    colour = next(word for word in item.captions[0].split() if word in COLOURS)
    pixels = read_image(item.image).astype(int)
    distances = [abs(pixels - COLOURS[name]).sum(axis=2).min() for name in (colour, "green")]
    assert distances[0] < 60


def test_classes_of_images_and_sounds_are_named_in_words(folder: Path) -> None:
    classified = read_classified_images(
        folder / "imagenet/val", names=folder / "imagenet/LOC_synset_mapping.txt"
    )
    assert classified.names == SHAPES
    assert Counter(image.label for image in classified.images) == dict.fromkeys(range(6), NUM // 6)
    templates = read_templates(folder / "imagenet/templates.txt")
    assert templates[0] == "one small orange {} on the left"
    assert len(templates) == 16
    esc50 = read_esc50(folder / "esc50")
    assert esc50.names == KINDS
    assert len(esc50.sounds) == 2 * NUM
    assert len(read_esc50(folder / "esc50", folds=(5,)).sounds) == NUM
    for part, table in (("train", "balanced_train"), ("eval", "eval")):
        audio_set = read_audio_set(
            folder / f"audio_set/{table}_segments.csv",
            folder / "audio_set/class_labels_indices.csv",
            sounds=folder / "audio_set" / part,
        )
        assert [len(sound.labels) for sound in audio_set.sounds] == [3] * NUM
        assert not audio_set.missing


def test_captioned_sounds_are_whole(folder: Path) -> None:
    caps = read_audio_caps(folder / "audio_caps/test.csv", sounds=folder / "audio_caps/test")
    clotho = read_clotho(
        folder / "clotho/clotho_captions_evaluation.csv", sounds=folder / "clotho/evaluation"
    )
    unseen = {full_sound_caption(sound) for sound in sounds_in("unseen_sounds")}
    assert not caps.missing
    for sounds in (caps.sounds, clotho.sounds):
        assert [len(sound.captions) for sound in sounds] == [5] * NUM
        assert {sound.captions[0] for sound in sounds} <= unseen
        assert len(read_audio(sounds[0].sound).samples) >= 8_000
