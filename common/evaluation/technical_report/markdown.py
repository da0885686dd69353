"""A document as Markdown, with its pictures beside it and numbers of the files behind each part."""

import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from common.evaluation.report import table
from common.evaluation.technical_report.document import (
    NOT_MEASURED,
    Block,
    Bullets,
    Card,
    Code,
    Document,
    Heading,
    Inline,
    Missing,
    Paragraph,
    Picture,
    Sheet,
    Shown,
    Table,
    files_of,
)

SHEET = ("medium", "asked", "written", "", "expected")


def markdown(
    document: Document, *, folder: Path, files: Sequence[Path], labels: Sequence[str]
) -> str:
    """The text of `report.md`, to lie in the folder."""
    parts = [f"# {document.title}", _inline(document.subtitle)]
    for number, chapter in enumerate(document.chapters, 1):
        parts.append(f"## {number} {chapter.title}")
        parts += [text for block in chapter.blocks for text in _block(block, folder, files)]
    parts.append(f"## {len(document.chapters) + 1} Files")
    parts.append("Keys of all figures within these files are in `report.json`.")
    parts.append("\n".join(f"{n}. `{label}`" for n, label in enumerate(labels, 1)))
    return "\n\n".join(part for part in parts if part) + "\n"


def _block(block: Block, folder: Path, files: Sequence[Path]) -> Iterator[str]:
    numbers = sorted(files.index(file) + 1 for file in files_of(block))
    marks = f" [{', '.join(map(str, numbers))}]" if numbers else ""
    match block:
        case Heading(text):
            yield f"### {text}"
        case Paragraph(parts):
            yield _inline(parts) + marks
        case Bullets(items):
            yield "\n".join(f"- {_inline(item)}" for item in items)
        case Table():
            yield f"**{block.caption}**{marks}"
            yield table(block.headings, [[_cell(cell) for cell in row] for row in block.rows])
            yield from block.notes
        case Picture():
            path = Path(os.path.relpath(block.file, folder)).as_posix()
            yield f"![{block.caption}]({path})"
            yield f"{block.caption}{marks}"
        case Sheet():
            yield f"**{block.caption}**{marks}"
            yield table(SHEET, [_card(card, folder) for card in block.cards])


def _card(card: Card, folder: Path) -> list[str]:
    path = "" if card.file is None else Path(os.path.relpath(card.file, folder)).as_posix()
    verdict = "right" if card.is_hit else "wrong"
    words = [card.asked, card.written, verdict, card.expected]
    return [f"![{card.written}]({path})" if path else "", *map(_cell, words)]


def _inline(parts: Sequence[Inline]) -> str:
    return "".join(map(_part, parts))


def _cell(part: Inline) -> str:
    return _part(part).replace("|", "\\|").replace("\n", " ")


def _part(part: Inline) -> str:
    part = NOT_MEASURED if part is None else part
    if isinstance(part, Missing):
        return f"*{part.text}*"
    if isinstance(part, Code):
        return f"`{part.text}`"
    return part.text if isinstance(part, Shown) else part
