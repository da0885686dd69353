"""Folders of classified images as ImageNet's validation tree is unpacked, one folder a class, with
the classes' names and the templates of prompts that zero-shot classification fills."""

from collections.abc import Sequence
from pathlib import Path

from common.errors import UserError
from common.evaluation.benchmarks.files import read_lines
from common.evaluation.benchmarks.items import ClassifiedImages, LabelledImage

IMAGE_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp", ".bmp"})
GAP = "{}"  # of a template


def read_classified_images(folder: Path, *, names: Path | None = None) -> ClassifiedImages:
    """Classes in the order of their folders' names.

    Args:
        names: lines `n01440764 tench, Tinca tinca` as in ImageNet's `LOC_synset_mapping.txt`, of
            which the first synonym counts; None: folders are named like their classes.

    Raises:
        UserError: a folder or file does not exist, a class has no name or no image.
    """
    if not folder.is_dir():
        raise UserError(f"folder of classes {folder} does not exist; check the path")
    classes = sorted(path for path in folder.iterdir() if path.is_dir())
    if not classes:
        raise UserError(f"{folder} has no folder of a class; name the one that holds them")
    known = None if names is None else _read_names(names)
    images = [
        LabelledImage(image=image, label=label)
        for label, path in enumerate(classes)
        for image in _images_in(path)
    ]
    return ClassifiedImages(
        names=tuple(_name(path.name, known, origin=names) for path in classes),
        images=tuple(images),
    )


def read_templates(path: Path) -> tuple[str, ...]:
    """Templates, one a line: `a photo of a {}.`

    Raises:
        UserError: the file does not exist, is empty, or a line has no gap.
    """
    lines = _lines(path)
    for number, line in enumerate(lines, 1):
        if line.count(GAP) != 1:
            raise UserError(f"{path} template {number} {line!r} needs one {GAP}; correct it")
    if not lines:
        raise UserError(f"{path} holds no template; write one a line, as 'a photo of a {GAP}.'")
    return tuple(lines)


def prompts(name: str, templates: Sequence[str]) -> tuple[str, ...]:
    """`"tench", ["a photo of a {}."] -> ("a photo of a tench.",)`"""
    return tuple(template.replace(GAP, name) for template in templates)


def _read_names(path: Path) -> dict[str, str]:
    names = {}
    for number, line in enumerate(_lines(path), 1):
        folder, _, synonyms = line.partition(" ")
        if not synonyms.strip():
            raise UserError(f"{path} line {number} {line!r} names no class; correct it")
        names[folder] = synonyms.split(",")[0].strip()
    return names


def _lines(path: Path) -> list[str]:
    return [line.strip() for line in read_lines(path) if line.strip()]


def _images_in(folder: Path) -> list[Path]:
    images = sorted(path for path in folder.iterdir() if path.suffix.lower() in IMAGE_SUFFIXES)
    if not images:
        raise UserError(f"class {folder} has no image; remove the folder or fill it")
    return images


def _name(folder: str, known: dict[str, str] | None, *, origin: Path | None) -> str:
    if known is None:
        return folder.replace("_", " ")
    if folder not in known:
        raise UserError(f"{origin} has no name for class {folder}; add a line '{folder} name'")
    return known[folder]
