"""The index of one shard: where the members of every usable sample lie, what kind of record it is
and how large, as numpy arrays in `NAME.index.npz` beside the shard. Indices of samples count the
usable ones; the rest are counted by cause."""

import json
import lzma
import struct
import tokenize
import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from hashlib import blake2b
from pathlib import Path
from typing import BinaryIO, NamedTuple

import numpy as np
from jaxtyping import Shaped

from common.data.faults import Cause
from common.data.shards.files import write_atomically
from common.data.shards.records import KINDS, Kind

VERSION = 1
SAMPLE = np.dtype(
    [
        ("key_end", "<i8"),  # in the bytes of all keys
        ("member_end", "<i8"),  # in the array of members
        ("kind", "u1"),  # place in KINDS
        ("width", "<i4"),  # of the first image as stored, 0 without one
        ("height", "<i4"),
        ("seconds", "<f4"),  # of all clips
        ("num_texts", "<i4"),
        ("num_images", "<i4"),
        ("num_clips", "<i4"),
    ]
)
MEMBER = np.dtype([("offset", "<i8"), ("size", "<i8"), ("crc32", "<u4"), ("extension", "<u4")])
# What numpy raises on a damaged file: zipfile's and the packers' own among it.
STORAGE_ERRORS = (
    OSError,
    ValueError,
    LookupError,
    TypeError,
    EOFError,
    RuntimeError,
    ArithmeticError,
    MemoryError,
    SyntaxError,
    struct.error,
    tokenize.TokenError,
    zipfile.BadZipFile,
    zlib.error,
    lzma.LZMAError,
)


class Span(NamedTuple):
    """Where the bytes of a member lie, and their CRC-32."""

    offset: int
    size: int
    crc32: int


@dataclass(frozen=True, kw_only=True)
class Summary:
    """What the headers of a sample tell."""

    kind: Kind
    num_texts: int
    num_images: int
    num_clips: int
    width: int = 0
    height: int = 0
    seconds: float = 0.0


@dataclass(frozen=True, kw_only=True, eq=False)
class ShardIndex:
    """All usable samples of a shard, in the shard's order."""

    samples: Shaped[np.ndarray, " samples"]  # of type SAMPLE
    members: Shaped[np.ndarray, " members"]  # of type MEMBER
    keys: bytes
    extensions: tuple[str, ...]
    fingerprint: str  # of the shard
    rejected: Mapping[Cause, int]
    damage: str | None  # why the shard could not be read to its end

    def __len__(self) -> int:
        return len(self.samples)

    @property
    def digest(self) -> str:
        """Equal for equal usable content."""
        digest = blake2b(digest_size=16)
        for piece in (self.samples.tobytes(), self.members.tobytes(), self.keys):
            digest.update(len(piece).to_bytes(8, "little") + piece)
        digest.update(json.dumps(self.extensions).encode())
        return digest.hexdigest()

    def key(self, index: int) -> str:
        """Name of a sample, unique in the shard."""
        return self.keys[self._key_borders[index] : self._key_borders[index + 1]].decode()

    def spans(self, index: int) -> dict[str, Span]:
        """The members of a sample by extension, in the shard's order."""
        borders = self._member_borders
        rows = self.members[borders[index] : borders[index + 1]].tolist()
        return {self.extensions[number]: Span(*span) for *span, number in rows}

    def save(self, path: Path) -> None:
        """Write the file whole.

        Raises:
            UserError: the file system refuses.
        """
        header = {
            "version": VERSION,
            "fingerprint": self.fingerprint,
            "extensions": self.extensions,
            "rejected": dict(self.rejected),
            "damage": self.damage,
        }

        def write(file: BinaryIO) -> None:
            np.savez(
                file,
                header=np.frombuffer(json.dumps(header).encode(), np.uint8),
                samples=self.samples,
                members=self.members,
                keys=np.frombuffer(self.keys, np.uint8),
            )

        write_atomically(path, write)

    # Lists, since single elements of arrays are slow.
    @cached_property
    def _key_borders(self) -> list[int]:
        return [0, *self.samples["key_end"].tolist()]

    @cached_property
    def _member_borders(self) -> list[int]:
        return [0, *self.samples["member_end"].tolist()]


def load_index(path: Path) -> ShardIndex | None:
    """The index of a file, None if it is missing, damaged or of another version."""
    try:
        with np.load(path, allow_pickle=False) as file:
            header = json.loads(file["header"].tobytes())
            if header["version"] != VERSION:
                return None
            index = ShardIndex(
                samples=file["samples"].astype(SAMPLE, copy=False),
                members=file["members"].astype(MEMBER, copy=False),
                keys=file["keys"].tobytes(),
                extensions=tuple(header["extensions"]),
                fingerprint=header["fingerprint"],
                rejected=header["rejected"],
                damage=header["damage"],
            )
            return index if _is_consistent(index) else None
    except STORAGE_ERRORS:
        return None


def _is_consistent(index: ShardIndex) -> bool:
    """Whether every place that the index names is there: someone else may have written the file."""
    samples, members = index.samples, index.members
    if samples.ndim != 1 or members.ndim != 1:
        return False
    index.keys.decode()  # raises ValueError
    ends = ((samples["key_end"], len(index.keys)), (samples["member_end"], len(members)))
    for places, last in ends:
        # From 0 on and upwards, and the last one at the end.
        steps = np.diff(places, prepend=0)
        if (steps < 0).any() or (places[-1] if len(places) else 0) != last:
            return False
    return bool(
        (samples["kind"] < len(KINDS)).all()
        and (members["extension"] < len(index.extensions)).all()
        and (members["offset"] >= 0).all()
        and (members["size"] >= 0).all()
        and all(isinstance(name, str) for name in index.extensions)
    )


@dataclass(kw_only=True)
class IndexDraft:
    """An index to which samples are added one by one."""

    samples: list[tuple[object, ...]] = field(default_factory=list)
    members: list[tuple[int, ...]] = field(default_factory=list)
    keys: bytearray = field(default_factory=bytearray)
    extensions: dict[str, int] = field(default_factory=dict)

    def add(self, key: str, spans: Mapping[str, Span], summary: Summary) -> None:
        """One usable sample."""
        for extension, span in spans.items():
            number = self.extensions.setdefault(extension, len(self.extensions))
            self.members.append((*span, number))
        self.keys += key.encode()
        sizes = (summary.width, summary.height, summary.seconds)
        counts = (summary.num_texts, summary.num_images, summary.num_clips)
        ends = (len(self.keys), len(self.members))
        self.samples.append((*ends, KINDS.index(summary.kind), *sizes, *counts))

    def finished(
        self, *, fingerprint: str, rejected: Mapping[Cause, int], damage: str | None
    ) -> ShardIndex:
        """The index of all samples that were added."""
        return ShardIndex(
            samples=np.array(self.samples, SAMPLE),
            members=np.array(self.members, MEMBER),
            keys=bytes(self.keys),
            extensions=tuple(self.extensions),
            fingerprint=fingerprint,
            rejected=dict(rejected),
            damage=damage,
        )
