"""Captions are read from COCO's, Karpathy's and Flickr30k's own files."""

import json
from pathlib import Path

import pytest

from common.errors import UserError
from common.evaluation.benchmarks.captions import (
    read_coco_captions,
    read_flickr_table,
    read_karpathy,
)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "val2014").mkdir()
    for name in ("9.jpg", "4.jpg", "5.jpg", "val2014/7.jpg"):
        (tmp_path / name).touch()
    return tmp_path


def write(path: Path, content: object) -> Path:
    path.write_text(json.dumps(content), encoding="utf-8")
    return path


def test_coco_captions_gather_at_their_images_and_bare_images_are_left_out(folder: Path):
    content = {
        "images": [{"id": n, "file_name": f"{n}.jpg"} for n in (9, 4, 5)],
        "annotations": [
            {"id": 1, "image_id": 4, "caption": "a cat"},
            {"id": 2, "image_id": 9, "caption": "a dog"},
            {"id": 3, "image_id": 4, "caption": "one cat"},
        ],
    }
    path = write(folder / "captions_val2014.json", content)
    first, second = read_coco_captions(path, images=folder)
    assert (first.image_id, first.image, first.captions) == (9, folder / "9.jpg", ("a dog",))
    assert (second.image_id, second.captions) == (4, ("a cat", "one cat"))
    content["annotations"].append({"id": 4, "image_id": 6, "caption": "a cow"})
    with pytest.raises(UserError, match="captions image 6"):
        read_coco_captions(write(path, content), images=folder)


def test_karpathy_splits_keep_the_numbers_of_coco_and_its_folders(folder: Path):
    sentences = [{"raw": "A dog.", "tokens": ["a", "dog"]}, {"raw": "Dog!", "tokens": ["dog"]}]
    coco = {"filepath": "val2014", "filename": "7.jpg", "cocoid": 77, "imgid": 0}
    flickr = {"filename": "4.jpg", "imgid": 3}
    images = [
        coco | {"split": "test", "sentences": sentences},
        flickr | {"split": "val", "sentences": sentences[:1]},
    ]
    path = write(folder / "dataset.json", {"images": images, "dataset": "coco"})
    (found,) = read_karpathy(path, images=folder, splits=["test"])
    assert (found.image_id, found.image) == (77, folder / "val2014" / "7.jpg")
    assert found.captions == ("A dog.", "Dog!")
    both = read_karpathy(path, images=folder, splits=["val", "test"])
    assert [item.image_id for item in both] == [77, 3]
    with pytest.raises(UserError, match="no image of split 'train'"):
        read_karpathy(path, images=folder, splits=["train"])


def test_the_flickr_table_may_hold_its_own_mark_in_a_comment(folder: Path):
    table = folder / "results.csv"
    lines = ["image_name| comment_number| comment", "9.jpg| 0| A dog | runs .", "4.jpg| 0| A cat ."]
    table.write_text("\n".join([*lines, "9.jpg| 1| One dog ."]), encoding="utf-8")
    first, second = read_flickr_table(table, images=folder)
    assert (first.image_id, first.captions) == (0, ("A dog | runs .", "One dog ."))
    assert (second.image_id, second.image) == (1, folder / "4.jpg")
    table.write_text("\n".join([*lines, "4.jpg   4   a cat"]), encoding="utf-8")
    with pytest.raises(UserError, match="line 4 has 1 columns"):
        read_flickr_table(table, images=folder)
