"""What a report is made of, before it is rendered: chapters of paragraphs, lists, tables, pictures
and listings. A figure is never plain text: it knows the file and key that it was read from."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

from common.training.config_json import Json

Key: TypeAlias = tuple[str | int, ...]


@dataclass(frozen=True, kw_only=True)
class Origin:
    """A place in a file: of JSON the path to a value, of weights a component's name."""

    file: Path
    key: Key

    def __str__(self) -> str:
        return " > ".join([self.file.name, *map(str, self.key)])


@dataclass(frozen=True, kw_only=True)
class Shown:
    """A figure as the reader sees it, and how it follows from files or who published it."""

    text: str
    value: Json
    rule: str = "value"  # a name in `rules.RULES`, applied to what lies at the origins
    factor: int | float | None = None  # of a number: 100 shows a share in per cent
    origins: tuple[Origin, ...] = ()
    citation: str = ""  # of a published figure, instead of origins


@dataclass(frozen=True)
class Code:
    """Words as they are typed."""

    text: str


@dataclass(frozen=True)
class Missing:
    """What no file holds."""

    text: str


NOT_MEASURED, NOT_RECORDED = Missing("not measured"), Missing("not recorded")
Inline: TypeAlias = str | Shown | Code | Missing | None  # None: not measured


@dataclass(frozen=True)
class Paragraph:
    """Running text with figures in it."""

    parts: tuple[Inline, ...]


@dataclass(frozen=True)
class Bullets:
    """A list of short statements."""

    items: tuple[tuple[Inline, ...], ...]


@dataclass(frozen=True, kw_only=True)
class Table:
    """Rows of cells under headings; the first column names, the others are figures."""

    headings: tuple[str, ...]
    rows: tuple[tuple[Inline, ...], ...]
    caption: str
    words: tuple[int, ...] = (0,)  # columns of words, aligned to the left
    notes: tuple[str, ...] = ()
    emphasised: tuple[int, ...] = ()  # rows of this report among rows of others


@dataclass(frozen=True, kw_only=True)
class Picture:
    """A picture that lies in the report's folder."""

    file: Path
    caption: str
    origins: tuple[Origin, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Card:
    """An example: a picture of its medium that lies in the report's folder, and words."""

    file: Path | None
    is_photo: bool  # its pixels are to be seen; else a drawing
    asked: str
    written: str
    expected: str
    is_hit: bool


@dataclass(frozen=True, kw_only=True)
class Sheet:
    """Examples side by side."""

    cards: tuple[Card, ...]
    caption: str
    origins: tuple[Origin, ...]


@dataclass(frozen=True)
class Heading:
    """Of a section within a chapter."""

    text: str


Block: TypeAlias = Paragraph | Bullets | Table | Picture | Sheet | Heading


@dataclass(frozen=True, kw_only=True)
class Chapter:
    """A numbered part of the report."""

    title: str
    blocks: tuple[Block, ...]


@dataclass(frozen=True, kw_only=True)
class Document:
    """The whole report."""

    title: str
    subtitle: tuple[Inline, ...]
    chapters: tuple[Chapter, ...]


def paragraph(*parts: Inline) -> Paragraph:
    """`paragraph("It saw ", tokens, " tokens.")`"""
    return Paragraph(parts)


def figures_of(block: Block) -> Iterator[Shown]:
    """Every figure that a block shows, in reading order."""
    parts: Sequence[Inline] = ()
    if isinstance(block, Paragraph):
        parts = block.parts
    elif isinstance(block, Bullets):
        parts = [part for item in block.items for part in item]
    elif isinstance(block, Table):
        parts = [cell for row in block.rows for cell in row]
    yield from (part for part in parts if isinstance(part, Shown))


def files_of(block: Block) -> list[Path]:
    """The files behind a block, each once."""
    origins = [origin for shown in figures_of(block) for origin in shown.origins]
    if isinstance(block, Picture | Sheet):
        origins = [*block.origins]
    return list(dict.fromkeys(origin.file for origin in origins))
