"""The user's own data as plain files: a folder of image-text or sound-text pairs, or a JSON-lines
file of interleaved documents in OBELICS' form of two parallel lists. Reading checks everything but
pixels and samples; media are decoded when asked for."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from common.data.audio import read_audio
from common.data.document import Document
from common.data.images import read_image
from common.errors import UserError

IMAGE_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff"})
AUDIO_SUFFIXES = frozenset({".wav", ".flac", ".ogg", ".mp3"})
CAPTIONS_FILE = "captions.jsonl"
INTERLEAVED_EXAMPLE = '{"texts": [null, "a red circle"], "images": ["a.jpg", null]}'


@dataclass(frozen=True, kw_only=True)
class PairRecord:
    """An image file and its text; the key is stable under additions to the folder."""

    key: str
    image: Path
    text: str
    num_images = 1
    num_clips = 0

    @property
    def texts(self) -> list[str]:
        return [self.text]

    def load(self) -> Document:
        """Decode the image."""
        return Document(key=self.key, parts=(read_image(self.image), self.text), caption=self.text)


@dataclass(frozen=True, kw_only=True)
class AudioRecord:
    """A sound file and its text; the key is stable under additions to the folder."""

    key: str
    audio: Path
    text: str
    num_images = 0
    num_clips = 1

    @property
    def texts(self) -> list[str]:
        return [self.text]

    def load(self) -> Document:
        """Decode the sound."""
        return Document(key=self.key, parts=(read_audio(self.audio), self.text), caption=self.text)


@dataclass(frozen=True, kw_only=True)
class InterleavedRecord:
    """Texts and image files in reading order."""

    key: str
    parts: tuple[str | Path, ...]
    num_clips = 0

    @property
    def texts(self) -> list[str]:
        return [part for part in self.parts if isinstance(part, str)]

    @property
    def num_images(self) -> int:
        return len(self.parts) - len(self.texts)

    def load(self) -> Document:
        """Decode the images."""
        parts = (read_image(part) if isinstance(part, Path) else part for part in self.parts)
        return Document(key=self.key, parts=tuple(parts))


def read_pairs(folder: Path) -> list[PairRecord]:
    """The pairs of a folder: `a.jpg` beside `a.txt` at any depth, or all lines of `captions.jsonl`.

    Raises:
        UserError: anything is missing, empty or malformed; names the file, the line and the remedy.
    """
    return [PairRecord(key=k, image=p, text=t) for k, p, t in _captioned(folder, IMAGES)]


def read_audio_pairs(folder: Path) -> list[AudioRecord]:
    """The pairs of a folder: `a.wav` beside `a.txt` at any depth, or all lines of `captions.jsonl`.

    Raises:
        UserError: anything is missing, empty or malformed; names the file, the line and the remedy.
    """
    return [AudioRecord(key=k, audio=p, text=t) for k, p, t in _captioned(folder, SOUNDS)]


def read_interleaved(path: Path) -> list[InterleavedRecord]:
    """The documents of a JSON-lines file; image paths are relative to the file.

    Raises:
        UserError: anything is missing, empty or malformed; names the file, the line and the remedy.
    """
    records = []
    for number, entry in _json_lines(path):
        where = f"{path} line {number}"
        parts = _parts(entry, folder=path.parent, where=where)
        records.append(InterleavedRecord(key=f"{path.name}:{number}", parts=parts))
    return records


@dataclass(frozen=True, kw_only=True)
class _Medium:
    """What a folder of pairs holds: its name in text and in `captions.jsonl`, its file names."""

    word: str
    field: str
    suffixes: frozenset[str]
    file: str
    caption: str

    @property
    def example(self) -> str:
        return json.dumps({self.field: self.file, "text": self.caption})


IMAGES = _Medium(
    word="image", field="image", suffixes=IMAGE_SUFFIXES, file="a.jpg", caption="a red circle"
)
SOUNDS = _Medium(
    word="sound", field="audio", suffixes=AUDIO_SUFFIXES, file="a.wav", caption="a low buzz"
)


def _captioned(folder: Path, medium: _Medium) -> list[tuple[str, Path, str]]:
    """Key, file and caption of every pair."""
    if not folder.is_dir():
        raise UserError(f"{medium.word} folder {folder} does not exist; check the path")
    captions = folder / CAPTIONS_FILE
    if captions.exists():
        return _pairs_by_line(captions, medium)
    return _pairs_by_name(folder, medium)


def _pairs_by_line(path: Path, medium: _Medium) -> list[tuple[str, Path, str]]:
    records = []
    for number, entry in _json_lines(path):
        where = f"{path} line {number}"
        name, text = entry.get(medium.field), entry.get("text")
        if not isinstance(name, str) or not isinstance(text, str) or not text.strip():
            raise UserError(
                f"{where} has no {medium.field} or no text; write it as {medium.example}"
            )
        file = _existing(path.parent / name, what=medium.word, where=where)
        records.append((f"{path.name}:{number}", file, text.strip()))
    return records


def _pairs_by_name(folder: Path, medium: _Medium) -> list[tuple[str, Path, str]]:
    files = sorted(path for path in folder.rglob("*") if path.suffix.lower() in medium.suffixes)
    if not files:
        raise UserError(
            f"folder {folder} holds no {medium.word}s; put {medium.file} beside a.txt in it, or a "
            f"{CAPTIONS_FILE}"
        )
    return [(f.relative_to(folder).as_posix(), f, _caption_of(f, medium)) for f in files]


def _caption_of(file: Path, medium: _Medium) -> str:
    path = file.with_suffix(".txt")
    if not path.exists():
        raise UserError(f"{medium.word} {file} has no caption; write it to {path.name} beside it")
    text = _read_text(path).strip()
    if not text:
        raise UserError(f"caption file {path} is empty; write the caption or remove the pair")
    return text


def _json_lines(path: Path) -> Iterator[tuple[int, dict[str, object]]]:
    """Numbered objects of a JSON-lines file; blank lines are allowed, an empty file is not."""
    if not path.is_file():
        raise UserError(f"data file {path} does not exist; check the path")
    # Only newlines end a line: splitlines() would also split at separators inside strings.
    lines = [
        (number, line)
        for number, line in enumerate(_read_text(path).split("\n"), start=1)
        if line.strip()
    ]
    if not lines:
        raise UserError(f"data file {path} is empty; write one JSON object per line")
    for number, line in lines:
        yield number, _json_object(line, where=f"{path} line {number}")


def _json_object(line: str, *, where: str) -> dict[str, object]:
    try:
        entry = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{where} is not valid JSON ({error}); correct the line") from error
    if not isinstance(entry, dict):
        raise UserError(f"{where} is not a JSON object; write one {{...}} per line")
    return entry


def _parts(entry: dict[str, object], *, folder: Path, where: str) -> tuple[str | Path, ...]:
    texts, images = entry.get("texts"), entry.get("images")
    if not isinstance(texts, list) or not isinstance(images, list) or len(texts) != len(images):
        raise UserError(
            f"{where} needs lists texts and images of equal length, like {INTERLEAVED_EXAMPLE}"
        )
    if not texts:
        raise UserError(f"{where} is a document without parts; fill it or remove the line")
    return tuple(
        _part(text, image, folder=folder, where=f"{where} position {position}")
        for position, (text, image) in enumerate(zip(texts, images, strict=True))
    )


def _part(text: object, image: object, *, folder: Path, where: str) -> str | Path:
    if isinstance(text, str) and image is None:
        return text
    if isinstance(image, str) and text is None:
        return _existing(folder / image, what="image", where=where)
    raise UserError(f"{where} must be a string in one list and null in the other")


def _existing(path: Path, *, what: str, where: str) -> Path:
    if not path.is_file():
        raise UserError(f"{where} names {what} {path}, which does not exist; correct the path")
    return path


def _read_text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not UTF-8 text; convert it to UTF-8") from error
