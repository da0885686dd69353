"""The benchmarks of captioned media by their names, their official files read into one form."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from common.evaluation.benchmarks.captions import (
    Split,
    read_coco_captions,
    read_flickr_table,
    read_karpathy,
)
from common.evaluation.benchmarks.items import CaptionedImage, DescribedSounds
from common.evaluation.benchmarks.sounds import read_audio_caps, read_clotho
from common.evaluation.shots.exemplars import MediumKind

CaptionedDataset = Literal["coco", "coco-karpathy", "flickr30k", "audiocaps", "clotho"]
TITLES: Mapping[CaptionedDataset, str] = {
    "coco": "COCO",
    "coco-karpathy": "COCO (Karpathy)",
    "flickr30k": "Flickr30k",
    "audiocaps": "AudioCaps",
    "clotho": "Clotho",
}
SOUNDS: Mapping[str, Callable[..., DescribedSounds]] = {
    "audiocaps": read_audio_caps,
    "clotho": read_clotho,
}


@dataclass(frozen=True, kw_only=True)
class CaptionedMedium:
    """An image or a recording, and what people say of it."""

    key: str
    path: Path
    captions: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class CaptionedMedia:
    """Those of one benchmark, and the keys of clips that are listed but have no file."""

    kind: MediumKind
    media: tuple[CaptionedMedium, ...]
    missing: tuple[str, ...] = ()


def read_captioned(
    dataset: CaptionedDataset, captions: Path, *, media: Path, splits: Sequence[Split]
) -> CaptionedMedia:
    """The captioned media of an official file; `splits` are those of Karpathy's files.

    Raises:
        UserError: a file does not exist or is malformed.
    """
    if dataset in SOUNDS:
        found = SOUNDS[dataset](captions, sounds=media)
        clips = (
            CaptionedMedium(key=f"{place}_{sound.key}", path=sound.sound, captions=sound.captions)
            for place, sound in enumerate(found.sounds)
        )
        return CaptionedMedia(kind="sound", media=tuple(clips), missing=found.missing)
    if dataset == "coco":
        return _images(read_coco_captions(captions, images=media))
    if dataset == "flickr30k" and captions.suffix == ".csv":
        return _images(read_flickr_table(captions, images=media))
    return _images(read_karpathy(captions, images=media, splits=splits))


def _images(images: Iterable[CaptionedImage]) -> CaptionedMedia:
    media = (
        CaptionedMedium(key=str(image.image_id), path=image.image, captions=image.captions)
        for image in images
    )
    return CaptionedMedia(kind="image", media=tuple(media))
