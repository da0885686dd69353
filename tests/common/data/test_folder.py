"""Reading the user's files: what works, and one clear line for each mistake."""

import json
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
import soundfile

from common.data.folder import read_audio_pairs, read_interleaved, read_pairs
from common.errors import UserError


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "sub").mkdir()
    for number, name in enumerate(("a.png", "sub/b.jpg")):
        PIL.Image.new("RGB", (5, 7), (40 * number, 0, 0)).save(tmp_path / name)
    return tmp_path


def write_lines(path: Path, *entries: object) -> Path:
    path.write_text("\n".join(json.dumps(entry, ensure_ascii=False) for entry in entries) + "\n")
    return path


def test_images_are_paired_with_the_texts_beside_them(folder: Path) -> None:
    (folder / "a.txt").write_text("a black card\n")
    (folder / "sub/b.txt").write_text("ein roter Käfer", encoding="utf-8")
    records = read_pairs(folder)
    assert [record.key for record in records] == ["a.png", "sub/b.jpg"]
    assert [record.load().caption for record in records] == ["a black card", "ein roter Käfer"]
    assert records[0].load().parts[0].shape == (7, 5, 3)


def test_pairs_are_read_from_captions_jsonl(folder: Path) -> None:
    entry = {"image": "sub/b.jpg", "text": "one line\u2028separator"}
    write_lines(folder / "captions.jsonl", entry, {"image": "a.png", "text": "x"})
    records = read_pairs(folder)
    assert [record.key for record in records] == ["captions.jsonl:1", "captions.jsonl:2"]
    assert records[0].text == "one line\u2028separator"
    assert records[0].image == folder / "sub/b.jpg"


def test_sounds_are_paired_with_the_texts_beside_them(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    for name in ("b.flac", "sub/a.WAV"):
        soundfile.write(tmp_path / name, np.full(800, 0.5), 8_000, format=name[-4:].strip("."))
    (tmp_path / "b.txt").write_text("a hum\n")
    (tmp_path / "sub/a.txt").write_text("another hum")
    (tmp_path / "picture.png").write_bytes(b"not looked at")
    records = read_audio_pairs(tmp_path)
    assert [(record.key, record.text) for record in records] == [
        ("b.flac", "a hum"),
        ("sub/a.WAV", "another hum"),
    ]
    assert len(records[0].load().parts[0].samples) == 1600


def test_sounds_are_read_from_captions_jsonl_and_decoded_later(tmp_path: Path) -> None:
    (tmp_path / "a.wav").write_bytes(b"no sound")
    write_lines(tmp_path / "captions.jsonl", {"audio": "a.wav", "text": " a hum "})
    (record,) = read_audio_pairs(tmp_path)
    assert (record.key, record.text) == ("captions.jsonl:1", "a hum")
    with pytest.raises(UserError, match=r"cannot decode sound .*a\.wav"):
        record.load()


def test_mistakes_in_a_folder_of_sounds_speak_of_sounds(tmp_path: Path) -> None:
    assert "sound folder" in refusal(read_audio_pairs, tmp_path / "nowhere")
    assert "holds no sounds; put a.wav beside a.txt" in refusal(read_audio_pairs, tmp_path)
    soundfile.write(tmp_path / "a.wav", np.zeros(9), 8_000)
    assert "a.wav has no caption; write it to a.txt" in refusal(read_audio_pairs, tmp_path)
    write_lines(tmp_path / "captions.jsonl", {"image": "a.wav", "text": "x"})
    assert 'no audio or no text; write it as {"audio": "a.wav"' in refusal(
        read_audio_pairs, tmp_path
    )


def test_interleaved_documents_keep_the_order_of_their_parts(folder: Path) -> None:
    entry = {"texts": ["Look:", None, "a card"], "images": [None, "a.png", None]}
    path = write_lines(folder / "documents.jsonl", entry)
    (record,) = read_interleaved(path)
    first, image, last = record.load().parts
    assert (record.key, first, last) == ("documents.jsonl:1", "Look:", "a card")
    assert isinstance(image, np.ndarray)


def test_reading_decodes_no_image(folder: Path) -> None:
    (folder / "sub/b.jpg").write_bytes(b"no image")
    write_lines(folder / "captions.jsonl", {"image": "sub/b.jpg", "text": "broken"})
    (record,) = read_pairs(folder)
    with pytest.raises(UserError, match=r"cannot decode image .*b\.jpg"):
        record.load()


def refusal(action: object, path: Path) -> str:
    with pytest.raises(UserError) as caught:
        action(path)
    message = str(caught.value)
    assert "\n" not in message
    return message


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    assert refusal(read_pairs, tmp_path / "nowhere").endswith(
        "nowhere does not exist; check the path"
    )


def test_an_empty_folder_is_told_what_to_put_in(tmp_path: Path) -> None:
    assert "holds no images; put a.jpg beside a.txt" in refusal(read_pairs, tmp_path)


def test_an_image_without_text_is_named_with_the_missing_file(folder: Path) -> None:
    assert "a.png has no caption; write it to a.txt" in refusal(read_pairs, folder)


def test_an_empty_caption_file_is_named(folder: Path) -> None:
    (folder / "a.txt").write_text(" \n")
    assert "a.txt is empty" in refusal(read_pairs, folder)


def test_a_caption_that_is_not_utf8_is_named(folder: Path) -> None:
    (folder / "a.txt").write_bytes(b"K\xe4fer")
    assert "a.txt is not UTF-8" in refusal(read_pairs, folder)


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ('{"image": "a.png",', "captions.jsonl line 2 is not valid JSON"),
        ('["a.png"]', "captions.jsonl line 2 is not a JSON object"),
        ('{"image": "a.png"}', "captions.jsonl line 2 has no image or no text"),
        ('{"image": "a.png", "text": " "}', "captions.jsonl line 2 has no image or no text"),
        ('{"image": "z.png", "text": "z"}', "z.png, which does not exist; correct the path"),
    ],
)
def test_a_bad_line_of_captions_is_named(folder: Path, line: str, expected: str) -> None:
    (folder / "captions.jsonl").write_text('{"image": "a.png", "text": "good"}\n' + line)
    assert expected in refusal(read_pairs, folder)


def test_an_empty_captions_file_is_named(folder: Path) -> None:
    (folder / "captions.jsonl").write_text("\n")
    assert "captions.jsonl is empty" in refusal(read_pairs, folder)


@pytest.mark.parametrize(
    ("entry", "expected"),
    [
        ({"texts": ["x"]}, "line 1 needs lists texts and images of equal length"),
        ({"texts": ["x"], "images": []}, "line 1 needs lists texts and images of equal length"),
        ({"texts": [], "images": []}, "line 1 is a document without parts"),
        ({"texts": [None], "images": [None]}, "line 1 position 0 must be a string in one list"),
        ({"texts": ["x"], "images": ["a.png"]}, "line 1 position 0 must be a string in one list"),
        ({"texts": [None], "images": ["z.png"]}, "line 1 position 0 names image"),
    ],
)
def test_a_bad_interleaved_line_is_named(folder: Path, entry: object, expected: str) -> None:
    path = write_lines(folder / "documents.jsonl", entry)
    assert expected in refusal(read_interleaved, path)


def test_a_missing_interleaved_file_is_named(tmp_path: Path) -> None:
    assert "nowhere.jsonl does not exist" in refusal(read_interleaved, tmp_path / "nowhere.jsonl")
