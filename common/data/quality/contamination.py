"""Training images that occur in an evaluation set, found by perceptual hash: what is measured on
those would be memory. A table of the evaluation's hashes is a pair of files, `NAME.npy` with the
hashes and `NAME.json` with the items' names."""

import json
from collections.abc import Iterable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from jaxtyping import UInt64

from common.data.document import Image
from common.data.images import decode_image
from common.data.quality.blocks import write_text
from common.data.quality.hamming import near_pairs
from common.data.quality.hashing import HASHED_SIDE, perceptual_hash
from common.data.quality.sample import SampleSource, read_sample
from common.data.quality.survey import Reasons, Survey
from common.data.shards.files import write_atomically
from common.data.shards.index import STORAGE_ERRORS
from common.data.shards.records import EXTENSIONS
from common.errors import UserError


@dataclass(frozen=True, kw_only=True, eq=False)
class EvaluationImages:
    """Hashes and names of evaluation images; some names are `unhashed`, too even to be compared."""

    hashes: UInt64[np.ndarray, " m"]
    names: tuple[str, ...]
    unhashed: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True, order=True)
class Match:
    """A training sample that shows an evaluation image."""

    key: str
    item: str
    distance: int  # bits


def images_of_folder(folder: Path) -> EvaluationImages:
    """Of all image files in a folder, at any depth, by their relative paths.

    Raises:
        UserError: there are none, or one is damaged.
    """
    paths = sorted(path for path in folder.rglob("*") if _is_image(path))
    if not paths:
        raise UserError(f"{folder} holds no images; check the path")
    return _hashed(
        (
            str(path.relative_to(folder)),
            decode_image(path.read_bytes(), name=str(path), least_side=HASHED_SIDE),
        )
        for path in paths
    )


def images_of_samples(source: SampleSource) -> EvaluationImages:
    """Of all images of a corpus, by the keys of their samples.

    Raises:
        UserError: there are none, or one is damaged.
    """
    samples = (read_sample(source, index, least_side=HASHED_SIDE) for index in range(len(source)))
    return _hashed((sample.document.key, image) for sample in samples for image in sample.images)


def save_images(images: EvaluationImages, path: Path) -> None:
    """Writes `path`, a `.npy` file, and the names beside it.

    Raises:
        UserError: the file system refuses.
    """
    names = json.dumps({"names": images.names, "unhashed": images.unhashed}, indent=1)
    write_text(path.with_suffix(".json"), names)
    write_atomically(path, partial(np.save, arr=images.hashes))


def load_images(path: Path) -> EvaluationImages:
    """
    Raises:
        UserError: one of the two files is missing or damaged.
    """
    try:
        hashes = np.load(path, allow_pickle=False)
        entry = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))
        names, unhashed = tuple(entry["names"]), tuple(entry["unhashed"])
    except STORAGE_ERRORS as error:
        raise UserError(f"{path} and its .json are no hash table; build them again") from error
    if hashes.dtype != np.uint64 or hashes.shape != (len(names),):
        raise UserError(f"{path} does not fit its .json; build both again")
    return EvaluationImages(hashes=hashes, names=names, unhashed=unhashed)


def without_evaluation_images(
    survey: Survey, reasons: Reasons, *, images: EvaluationImages, distance: int
) -> tuple[Reasons, list[Match]]:
    """The reasons with `evaluation_image` added for every sample with an image at most `distance`
    bits from one of the evaluation's, and which these are.

    Raises:
        UserError: the distance is out of range.
    """
    reasons, matches = reasons.copy(), []
    for place, item in near_pairs(survey.images, images.hashes, distance=distance):
        sample = survey.image_samples[place]
        apart = int(np.bitwise_count(survey.images[place] ^ images.hashes[item]))
        matches.append(Match(key=str(survey.keys[sample]), item=images.names[item], distance=apart))
        reasons[sample] = reasons[sample] or "evaluation_image"
    return reasons, sorted(matches)


def _hashed(named: Iterable[tuple[str, Image]]) -> EvaluationImages:
    hashes, names, unhashed = [], [], []
    for name, image in named:
        bits = perceptual_hash(image)
        if bits is None:
            unhashed.append(name)
        else:
            hashes.append(bits)
            names.append(name)
    return EvaluationImages(
        hashes=np.array(hashes, dtype=np.uint64), names=tuple(names), unhashed=tuple(unhashed)
    )


def _is_image(path: Path) -> bool:
    return path.suffix.lower().lstrip(".") in EXTENSIONS["image"] and path.is_file()
