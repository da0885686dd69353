"""Writing datasets as shards: tars of samples whose members share a key, as WebDataset reads them,
and JSON lines of texts. A shard is written under a hidden name and appears whole; equal input gives
equal bytes. Media are stored as they come; this module neither encodes nor decodes them."""

import json
import os
import re
import tarfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from types import TracebackType
from typing import BinaryIO

from common.data.faults import BadSample
from common.data.shards.records import EXTENSIONS
from common.errors import UserError

SAMPLES_PER_SHARD = 10_000
BYTES_PER_SHARD = 1_000_000_000
END_OF_TAR = bytes(2 * tarfile.BLOCKSIZE)


@dataclass(frozen=True, kw_only=True)
class EncodedMedium:
    """An image or a recording as the bytes of a file."""

    data: bytes
    extension: str  # jpg, flac, ...: without a dot


class ShardWriter:
    """Tars `00000.tar`, `00001.tar`, ... of one folder; a context manager.

    Leaving it by an exception drops the unfinished shard and keeps the finished ones.

    Raises:
        UserError: the folder is not empty and `resume` is not set. Resuming goes on with the next
            number after the finished shards; what these hold is not to be written again.
    """

    def __init__(
        self,
        folder: Path,
        *,
        samples_per_shard: int = SAMPLES_PER_SHARD,
        bytes_per_shard: int = BYTES_PER_SHARD,
        resume: bool = False,
    ) -> None:
        limits = _Limits(samples=samples_per_shard, bytes=bytes_per_shard)
        self._shards = _Shards(folder, suffix=".tar", end=END_OF_TAR, limits=limits, resume=resume)
        self._last_key = ""

    def write(self, key: str, members: Mapping[str, bytes]) -> None:
        """One sample: extensions without the first dot and their bytes, `{"jpg": ..., "txt": ...}`.

        Raises:
            UserError: the key or an extension cannot be a member's name, or the key is the last
                sample's, with which a reader would join this one.
        """
        _check_key(key)
        if key == self._last_key:
            raise UserError(f"two samples in succession have the key {key!r}; make keys distinct")
        if not members:
            raise UserError(f"sample {key!r} has no members; leave it out")
        for extension in members:
            _check_extension(extension, key=key)
        self._shards.append(
            b"".join(_member(f"{key}.{extension}", data) for extension, data in members.items())
        )
        self._last_key = key

    def __enter__(self) -> "ShardWriter":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, _: BaseException | None, __: TracebackType | None
    ) -> None:
        self._shards.close(whole=kind is None)


class TextWriter:
    """JSON lines `00000.jsonl`, `00001.jsonl`, ... of one folder; otherwise like `ShardWriter`."""

    def __init__(
        self,
        folder: Path,
        *,
        samples_per_shard: int = SAMPLES_PER_SHARD,
        bytes_per_shard: int = BYTES_PER_SHARD,
        resume: bool = False,
    ) -> None:
        limits = _Limits(samples=samples_per_shard, bytes=bytes_per_shard)
        self._shards = _Shards(folder, suffix=".jsonl", end=b"", limits=limits, resume=resume)

    def write(self, key: str, text: str) -> None:
        """One line: `{"key": ..., "text": ...}`.

        Raises:
            BadSample: key or text holds half a surrogate pair, which no UTF-8 file can.
        """
        line = json.dumps({"key": key, "text": text}, ensure_ascii=False) + "\n"
        self._shards.append(_utf8(line, name=ascii(key)))

    def __enter__(self) -> "TextWriter":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, _: BaseException | None, __: TracebackType | None
    ) -> None:
        self._shards.close(whole=kind is None)


def safe_key(key: str) -> str:
    """A key for a tar from any name: `image_caption/train/0.5` -> `image_caption-train-0-5`."""
    return re.sub(r"[^\w-]+", "-", key)


def interleaved_members(
    parts: Sequence[str | EncodedMedium], *, caption: str | None = None
) -> dict[str, bytes]:
    """Members of an interleaved sample; media are named by their position.

    `[red.jpg, "a red circle"]` ->
    `{"json": {"texts": [null, "a red circle"], "images": ["0.jpg", null]}, "0.jpg": ...}`

    Raises:
        BadSample: a text holds half a surrogate pair, which no UTF-8 file can.
    """
    media = {
        f"{position}.{part.extension}": part.data
        for position, part in enumerate(parts)
        if isinstance(part, EncodedMedium)
    }
    names = iter(media)
    slots = [part if isinstance(part, str) else next(names) for part in parts]
    fields = [_field_of(part) for part in parts]
    record: dict[str, object] = {
        field: [slot if field == of else None for slot, of in zip(slots, fields, strict=True)]
        for field in ("texts", "images", "audios")
        if field != "audios" or "audios" in fields
    }
    if caption is not None:
        record["caption"] = caption
    text = json.dumps(record, ensure_ascii=False)
    return {"json": _utf8(text, name="a document"), **media}


@dataclass(frozen=True, kw_only=True)
class _Limits:
    """Of one shard; a sample that is too large gets a shard of its own."""

    samples: int
    bytes: int

    def __post_init__(self) -> None:
        if self.samples < 1 or self.bytes < 1:
            raise UserError("a shard must hold at least one sample and one byte; raise its limits")


class _Shards:
    """The numbered files of a folder, of which the last one is being written."""

    def __init__(
        self, folder: Path, *, suffix: str, end: bytes, limits: _Limits, resume: bool
    ) -> None:
        _make_folder(folder, resume=resume)
        numbers = [int(p.stem) for p in folder.glob(f"*{suffix}") if re.fullmatch(r"\d+", p.stem)]
        self._path = folder / f"{max(numbers, default=-1) + 1:05d}{suffix}"
        self._end = end
        self._limits = limits
        self._stream: BinaryIO | None = None
        self._num_samples = self._num_bytes = 0

    def append(self, sample: bytes) -> None:
        is_full = (
            self._num_samples == self._limits.samples
            or self._num_bytes + len(sample) > self._limits.bytes
        )
        if self._stream is not None and is_full:
            self.close(whole=True)
        if self._stream is None:
            self._stream = self._unfinished.open("wb")
            self._num_samples = self._num_bytes = 0
        self._stream.write(sample)
        self._num_samples += 1
        self._num_bytes += len(sample)

    def close(self, *, whole: bool) -> None:
        if self._stream is None:
            return
        with self._stream as stream:
            if whole:
                stream.write(self._end)
                stream.flush()
                os.fsync(stream.fileno())
        self._stream = None
        if not whole:
            self._unfinished.unlink()
            return
        os.replace(self._unfinished, self._path)
        _sync_folder(self._path.parent)
        self._path = self._path.with_name(f"{int(self._path.stem) + 1:05d}{self._path.suffix}")

    @property
    def _unfinished(self) -> Path:
        return self._path.with_name(f".{self._path.name}.unfinished")


def _make_folder(folder: Path, *, resume: bool) -> None:
    if folder.exists() and not folder.is_dir():
        raise UserError(f"{folder} is a file; name a folder for the shards")
    folder.mkdir(parents=True, exist_ok=True)
    # Hidden files are shards that a crash left unfinished; they are written anew.
    if not resume and any(not path.name.startswith(".") for path in folder.iterdir()):
        raise UserError(f"folder {folder} is not empty; choose another one or resume")


def _sync_folder(folder: Path) -> None:
    """Make a new name survive a power failure."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _check_key(key: str) -> None:
    path = PurePosixPath(key)
    if not path.name or path.is_absolute() or path.as_posix() != key or ".." in path.parts:
        raise UserError(f"key {key!r} is no relative path; use one like 'train/000017'")
    if "." in path.name or not key.isprintable():
        raise UserError(f"key {key!r} has a dot or a control character in its name; use '-'")


def _check_extension(extension: str, *, key: str) -> None:
    if not re.fullmatch(r"\w+(\.\w+)*", extension):
        raise UserError(f"sample {key!r} has the extension {extension!r}; use one like 'jpg'")


def _member(name: str, data: bytes) -> bytes:
    """Header, content and padding; times and owners stay zero, so that bytes are reproducible."""
    header = tarfile.TarInfo(name)
    header.size = len(data)
    return header.tobuf(tarfile.PAX_FORMAT) + data + bytes(-len(data) % tarfile.BLOCKSIZE)


def _field_of(part: str | EncodedMedium) -> str:
    if isinstance(part, str):
        return "texts"
    return "images" if part.extension in EXTENSIONS["image"] else "audios"


def _utf8(text: str, *, name: str) -> bytes:
    try:
        return text.encode()
    except UnicodeEncodeError as error:
        raise BadSample(
            "text_encoding", f"text of {name} holds half a surrogate pair; correct it"
        ) from error
