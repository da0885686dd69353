"""What filters look at: one sample as it is stored and as it is read. The corpus is asked for very
little, so that shards on disk and lists in memory serve alike."""

import io
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol, TypeAlias, runtime_checkable

import numpy as np
import PIL.Image
from jaxtyping import UInt8

from common.data.document import Document
from common.data.faults import BadSample
from common.data.shards.records import EXTENSIONS

# In a list sizes differ, where the names of `Image`'s axes would say that they are equal.
Picture: TypeAlias = UInt8[np.ndarray, "_ _ _"]


@runtime_checkable
class SampleSource(Protocol):
    """Samples by number, as encoded members and as a document."""

    def __len__(self) -> int: ...

    def members(self, index: int) -> dict[str, bytes]:
        """Extension, like `jpg` or `0.jpg`, to the encoded bytes."""
        ...

    def read(self, index: int, *, least_side: int | None = None) -> Document:
        """The decoded sample; its images may be scaled down to this short side.

        Raises:
            BadSample: it cannot be used.
        """
        ...


@dataclass(frozen=True, kw_only=True, eq=False)
class Sample:
    """One sample; the document's images may be smaller than the stored ones."""

    document: Document
    members: Mapping[str, bytes]

    @property
    def text(self) -> str:
        """The caption, or all texts, each a paragraph."""
        if self.document.caption is not None:
            return self.document.caption
        return "\n\n".join(part for part in self.document.parts if isinstance(part, str))

    @property
    def images(self) -> list[Picture]:
        return [part for part in self.document.parts if isinstance(part, np.ndarray)]

    @property
    def encoded_images(self) -> list[bytes]:
        return self._encoded(EXTENSIONS["image"])

    @property
    def encoded_media(self) -> list[bytes]:
        return self._encoded(EXTENSIONS["image"] + EXTENSIONS["audio"])

    def _encoded(self, extensions: tuple[str, ...]) -> list[bytes]:
        names = sorted(self.members)
        return [self.members[name] for name in names if name.rsplit(".", 1)[-1] in extensions]


def read_sample(source: SampleSource, index: int, *, least_side: int) -> Sample:
    """
    Raises:
        BadSample: it cannot be used.
    """
    document = source.read(index, least_side=least_side)
    return Sample(document=document, members=source.members(index))


def image_size(data: bytes, *, name: str) -> tuple[int, int]:
    """Width and height by the header alone.

    Raises:
        BadSample: the header is damaged.
    """
    try:
        with PIL.Image.open(io.BytesIO(data)) as image:
            return image.size
    except (OSError, SyntaxError, ValueError) as error:
        raise BadSample("image_corrupt", f"cannot read an image of {name}: {error}") from error
