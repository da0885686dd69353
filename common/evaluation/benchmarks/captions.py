"""Captions of COCO and Flickr30k: COCO's own annotations, the splits of Karpathy
(`dataset_coco.json`, `dataset_flickr30k.json`), and Flickr30k's table `results.csv`."""

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from common.errors import UserError
from common.evaluation.benchmarks.files import (
    Entry,
    media_finder,
    read_lines,
    read_object,
    unique,
)
from common.evaluation.benchmarks.items import CaptionedImage

Split = Literal["train", "restval", "val", "test"]


def read_coco_captions(annotations: Path, *, images: Path) -> tuple[CaptionedImage, ...]:
    """COCO's `captions_val2014.json`: every image that has a caption, in the order of the file.

    Raises:
        UserError: the file or an image does not exist or is malformed.
    """
    content = read_object(annotations)
    listed = content.entries("images")
    unique((entry.number("id") for entry in listed), place=f"{annotations} images")
    captions: defaultdict[int, list[str]] = defaultdict(list)
    for entry in content.entries("annotations"):
        captions[entry.number("image_id")].append(entry.text("caption"))
    if unlisted := captions.keys() - {entry.number("id") for entry in listed}:
        raise UserError(f"{annotations} captions image {min(unlisted)}, which is not listed there")
    find = media_finder(images)
    return tuple(
        CaptionedImage(
            image_id=entry.number("id"),
            image=find(entry.text("file_name"), entry.place),
            captions=tuple(captions[entry.number("id")]),
        )
        for entry in listed
        if entry.number("id") in captions
    )


def read_karpathy(
    dataset: Path, *, images: Path, splits: Sequence[Split]
) -> tuple[CaptionedImage, ...]:
    """The images of some splits; Flickr30k's are numbered as in the file, COCO's as by COCO.

    Raises:
        UserError: the file or an image does not exist or is malformed, or a split is empty.
    """
    entries = read_object(dataset).entries("images")
    if absent := set(splits) - {entry.text("split") for entry in entries}:
        raise UserError(f"{dataset} has no image of split {min(absent)!r}; name another")
    find = media_finder(images)
    chosen = [entry for entry in entries if entry.text("split") in splits]
    unique(map(_karpathy_id, chosen), place=str(dataset))
    return tuple(
        CaptionedImage(
            image_id=_karpathy_id(entry),
            image=find(_karpathy_name(entry), entry.place),
            captions=tuple(sentence.text("raw") for sentence in entry.entries("sentences")),
        )
        for entry in chosen
    )


def read_flickr_table(table: Path, *, images: Path) -> tuple[CaptionedImage, ...]:
    """Flickr30k's `results.csv`, columns parted by `|`; images are numbered in its order.

    Raises:
        UserError: the file or an image does not exist or is malformed.
    """
    captions: defaultdict[str, list[str]] = defaultdict(list)
    places: dict[str, str] = {}
    for number, line in enumerate(read_lines(table)[1:], 2):
        # Comments may hold the mark of columns themselves.
        columns = [column.strip() for column in line.split("|", maxsplit=2)]
        if len(columns) < 3:
            raise UserError(f"{table} line {number} has {len(columns)} columns, not 3; correct it")
        captions[columns[0]].append(columns[2])
        places.setdefault(columns[0], f"{table} line {number}")
    find = media_finder(images)
    return tuple(
        CaptionedImage(image_id=number, image=find(name, places[name]), captions=tuple(own))
        for number, (name, own) in enumerate(captions.items())
    )


def _karpathy_id(entry: Entry) -> int:
    return entry.number("cocoid" if "cocoid" in entry.values else "imgid")


def _karpathy_name(entry: Entry) -> str:
    """COCO's images lie in a folder per original split."""
    folder = entry.text("filepath") if "filepath" in entry.values else "."
    return str(Path(folder) / entry.text("filename"))
