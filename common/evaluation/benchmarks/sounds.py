"""Classified recordings (ESC-50, AudioSet) and captioned ones (AudioCaps, Clotho). Clips of
AudioSet and AudioCaps come from a video site and vanish there: those without a file are listed as
missing, never dropped in silence."""

import csv
from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path

from common.errors import UserError
from common.evaluation.benchmarks.files import (
    media_finder,
    read_lines,
    read_rows,
    unique,
    whole_number,
)
from common.evaluation.benchmarks.items import (
    CaptionedSound,
    ClassifiedSounds,
    DescribedSounds,
    LabelledSound,
)

ESC50_FOLDS = (1, 2, 3, 4, 5)
CLOTHO_CAPTIONS = tuple(f"caption_{number}" for number in range(1, 6))
SOUND_SUFFIXES = (".wav", ".flac", ".mp3", ".m4a", ".ogg")


def read_esc50(folder: Path, *, folds: Sequence[int] = ESC50_FOLDS) -> ClassifiedSounds:
    """The clips of some folds from `meta/esc50.csv` and `audio`.

    Raises:
        UserError: a file does not exist or is malformed, or a fold has no clip.
    """
    table = folder / "meta" / "esc50.csv"
    find = media_finder(folder / "audio")
    names: dict[int, str] = {}
    sounds = []
    seen = set()
    for place, row in read_rows(table, columns=("filename", "fold", "target", "category")):
        label = whole_number(row["target"], place=place)
        fold = whole_number(row["fold"], place=place)
        if names.setdefault(label, row["category"]) != row["category"]:
            raise UserError(f"{place}: class {label} is {names[label]!r} above; correct the table")
        seen.add(fold)
        if fold in folds:
            path = find(row["filename"], place)
            sounds.append(LabelledSound(key=path.stem, sound=path, labels=(label,)))
    if absent := set(folds) - seen:
        raise UserError(f"{table} has no clip of fold {min(absent)}; name folds of {sorted(seen)}")
    if sorted(names) != list(range(len(names))):
        raise UserError(f"{table} does not number its classes from 0 on; get the official file")
    return ClassifiedSounds(
        names=tuple(names[label].replace("_", " ") for label in sorted(names)),
        sounds=tuple(sounds),
    )


def read_audio_set(segments: Path, classes: Path, *, sounds: Path) -> ClassifiedSounds:
    """`eval_segments.csv` with `class_labels_indices.csv`; a file is named like its clip's id.

    Raises:
        UserError: a file does not exist or is malformed, or no clip has a file.
    """
    names, labels = _audio_set_classes(classes)
    find = _clip_finder(sounds)
    found: list[LabelledSound] = []
    missing: list[str] = []
    for place, row in _segments(segments):
        own = [label.strip() for label in row[3].split(",")]
        if unknown := [label for label in own if label not in labels]:
            raise UserError(f"{place}: label {unknown[0]!r} is not in {classes}; name files of one")
        path = find(row[0], row[1])
        if path is None:
            missing.append(row[0])
            continue
        places = tuple(sorted(labels[label] for label in own))
        found.append(LabelledSound(key=row[0], sound=path, labels=places))
    if not found:
        raise UserError(f"{sounds} has no file of a clip that {segments} lists; check the folder")
    return ClassifiedSounds(names=names, sounds=tuple(found), missing=tuple(missing))


def read_audio_caps(table: Path, *, sounds: Path) -> DescribedSounds:
    """AudioCaps' csv, one caption a row; those of one clip belong together.

    Raises:
        UserError: a file does not exist or is malformed, or no clip has a file.
    """
    captions: defaultdict[tuple[str, str], list[str]] = defaultdict(list)
    for place, row in read_rows(table, columns=("youtube_id", "start_time", "caption")):
        if not row["youtube_id"].strip():
            raise UserError(f"{place} has no youtube_id; correct the row")
        captions[row["youtube_id"], row["start_time"]].append(row["caption"])
    find = _clip_finder(sounds)
    paths = {clip: find(*clip) for clip in captions}
    found = [
        CaptionedSound(key=clip[0], sound=path, captions=tuple(captions[clip]))
        for clip, path in paths.items()
        if path is not None
    ]
    if not found:
        raise UserError(f"{sounds} has no file of a clip that {table} lists; check the folder")
    missing = tuple(clip[0] for clip, path in paths.items() if path is None)
    return DescribedSounds(sounds=tuple(found), missing=missing)


def read_clotho(table: Path, *, sounds: Path) -> DescribedSounds:
    """Clotho's csv, a clip and its five captions a row.

    Raises:
        UserError: a file does not exist or is malformed.
    """
    find = media_finder(sounds)
    found = [
        CaptionedSound(
            key=row["file_name"],
            sound=find(row["file_name"], place),
            captions=tuple(row[column] for column in CLOTHO_CAPTIONS),
        )
        for place, row in read_rows(table, columns=("file_name", *CLOTHO_CAPTIONS))
    ]
    unique((sound.key for sound in found), place=str(table))
    return DescribedSounds(sounds=tuple(found))


def _audio_set_classes(path: Path) -> tuple[tuple[str, ...], dict[str, int]]:
    """Display names in order, and the places of the labels that segments use."""
    names: list[str] = []
    labels: dict[str, int] = {}
    for place, row in read_rows(path, columns=("index", "mid", "display_name")):
        if whole_number(row["index"], place=place) != len(names):
            raise UserError(f"{place}: index {row['index']} should be {len(names)}; correct it")
        labels[row["mid"]] = len(names)
        names.append(row["display_name"])
    return tuple(names), labels


def _segments(path: Path) -> list[tuple[str, list[str]]]:
    """Rows of id, start, end and labels; the lines above them are comments."""
    rows = []
    for number, line in enumerate(read_lines(path), 1):
        if line.startswith("#") or not line.strip():
            continue
        row = next(csv.reader([line], skipinitialspace=True))
        if len(row) != 4:
            raise UserError(f"{path} line {number} has {len(row)} columns, not 4; correct it")
        rows.append((f"{path} line {number}", row))
    return rows


def _clip_finder(folder: Path) -> Callable[[str, str], Path | None]:
    """By id and start in seconds: `id.wav`, `Yid.wav` or `id_30.wav`, in that order."""
    if not folder.is_dir():
        raise UserError(f"folder of media {folder} does not exist; check the path")
    files = {path.stem: path for path in sorted(folder.iterdir()) if path.suffix in SOUND_SUFFIXES}

    def find(key: str, start: str) -> Path | None:
        second = start.strip().split(".")[0]
        names = (key, f"Y{key}", f"{key}_{second}")
        return next((files[name] for name in names if name in files), None)

    return find
