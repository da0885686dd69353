"""Folders of classes, and the tables of recordings, are read as they are published."""

from pathlib import Path

import pytest

from common.errors import UserError
from common.evaluation.benchmarks.image_classes import (
    prompts,
    read_classified_images,
    read_templates,
)
from common.evaluation.benchmarks.sounds import (
    read_audio_caps,
    read_audio_set,
    read_clotho,
    read_esc50,
)


def write(path: Path, *lines: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def test_classes_are_numbered_by_folder_and_named_by_their_first_synonym(tmp_path: Path):
    for name in ("n02/b.JPEG", "n01/a.JPEG", "n02/c.png", "n02/notes.txt"):
        write(tmp_path / "val" / name)
    names = write(tmp_path / "mapping.txt", "n01 tench, Tinca tinca", "n02 great white shark")
    found = read_classified_images(tmp_path / "val", names=names)
    assert found.names == ("tench", "great white shark")
    assert [(item.image.name, item.label) for item in found.images] == [
        ("a.JPEG", 0),
        ("b.JPEG", 1),
        ("c.png", 1),
    ]
    assert read_classified_images(tmp_path / "val").names == ("n01", "n02")
    with pytest.raises(UserError, match="no name for class n02"):
        read_classified_images(tmp_path / "val", names=write(names, "n01 tench"))
    (tmp_path / "val" / "n03").mkdir()
    with pytest.raises(UserError, match="n03 has no image"):
        read_classified_images(tmp_path / "val")


def test_templates_have_one_gap_each(tmp_path: Path):
    templates = read_templates(write(tmp_path / "t.txt", "a photo of a {}.", "", "art of the {}."))
    assert prompts("tench", templates) == ("a photo of a tench.", "art of the tench.")
    with pytest.raises(UserError, match=r"template 1 'a photo' needs one \{\}"):
        read_templates(write(tmp_path / "t.txt", "a photo"))


ESC_HEADER = "filename,fold,target,category,esc10,src_file,take"


def test_esc50_is_read_by_folds(tmp_path: Path):
    rows = [
        "1-a.wav,1,0,dog,True,1,A",
        "2-b.wav,2,1,sea_waves,False,2,A",
        "2-c.wav,2,0,dog,True,3,B",
    ]
    table = write(tmp_path / "meta" / "esc50.csv", ESC_HEADER, *rows)
    for row in rows:
        write(tmp_path / "audio" / row.split(",")[0])
    found = read_esc50(tmp_path, folds=(2,))
    assert found.names == ("dog", "sea waves")
    assert [(sound.key, sound.labels) for sound in found.sounds] == [("2-b", (1,)), ("2-c", (0,))]
    with pytest.raises(UserError, match=r"no clip of fold 3; name folds of \[1, 2\]"):
        read_esc50(tmp_path)
    write(table, ESC_HEADER, "1-a.wav,one,0,dog,True,1,A")
    with pytest.raises(UserError, match="row 1: 'one' is no whole number"):
        read_esc50(tmp_path)
    write(table, ESC_HEADER, "9-z.wav,1,0,dog,True,1,A")
    with pytest.raises(UserError, match=r"row 1 names .*9-z\.wav, which does not exist"):
        read_esc50(tmp_path)


def test_audio_set_keeps_several_labels_and_lists_clips_without_a_file(tmp_path: Path):
    classes = write(
        tmp_path / "class_labels_indices.csv",
        "index,mid,display_name",
        "0,/m/09x0r,Speech",
        '1,/m/05zppz,"Male speech, man speaking"',
        "2,/m/0bt9lr,Dog",
    )
    header = ("# Segments csv created", "# YTID, start_seconds, end_seconds, positive_labels")
    segments = write(
        tmp_path / "eval_segments.csv",
        *header,
        '--4gq, 0.000, 10.000, "/m/0bt9lr,/m/09x0r"',
        'Zgone, 30.000, 40.000, "/m/09x0r"',
        'abc, 30.000, 40.000, "/m/05zppz"',
    )
    write(tmp_path / "sounds" / "Y--4gq.wav")
    write(tmp_path / "sounds" / "abc_30.flac")
    found = read_audio_set(segments, classes, sounds=tmp_path / "sounds")
    assert found.names[1] == "Male speech, man speaking"
    assert [(sound.key, sound.labels) for sound in found.sounds] == [
        ("--4gq", (0, 2)),
        ("abc", (1,)),
    ]
    assert found.missing == ("Zgone",)
    write(segments, *header, 'abc, 30.000, 40.000, "/m/none"')
    with pytest.raises(UserError, match="line 3: label '/m/none'"):
        read_audio_set(segments, classes, sounds=tmp_path / "sounds")
    write(segments, *header, "abc, 30.000, 40.000")
    with pytest.raises(UserError, match="line 3 has 3 columns"):
        read_audio_set(segments, classes, sounds=tmp_path / "sounds")


def test_audio_caps_gathers_captions_of_a_clip_and_clotho_has_five(tmp_path: Path):
    for name in ("abc.wav", "rain.wav"):
        write(tmp_path / "sounds" / name)
    table = write(
        tmp_path / "test.csv",
        "audiocap_id,youtube_id,start_time,caption",
        "1,abc,30,A dog barks",
        "2,gone,0,Wind",
        '3,abc,30,"A dog, barking"',
    )
    found = read_audio_caps(table, sounds=tmp_path / "sounds")
    assert [sound.captions for sound in found.sounds] == [("A dog barks", "A dog, barking")]
    assert found.missing == ("gone",)
    columns = [f"caption_{n}" for n in range(1, 6)]
    clotho = write(tmp_path / "clotho.csv", ",".join(["file_name", *columns]), "rain.wav,a,b,c,d,e")
    (sound,) = read_clotho(clotho, sounds=tmp_path / "sounds").sounds
    assert (sound.sound.name, sound.captions) == ("rain.wav", ("a", "b", "c", "d", "e"))
    with pytest.raises(UserError, match="no column 'caption_5'"):
        read_clotho(
            write(clotho, ",".join(["file_name", *columns[:4]])), sounds=tmp_path / "sounds"
        )
