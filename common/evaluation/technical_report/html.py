"""A document as one HTML file that asks for nothing: style inline, pictures as data, no script.
Every figure says where it comes from when it is pointed at, and every table below itself."""

import re
from base64 import b64encode
from collections.abc import Sequence
from html import escape
from pathlib import Path

from common.evaluation.technical_report.document import (
    NOT_MEASURED,
    Block,
    Bullets,
    Card,
    Chapter,
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
from common.evaluation.technical_report.style import STYLE

MIME = {".svg": "image/svg+xml", ".png": "image/png"}
ADDRESS = re.compile(r"https?://[^\s,;()]+[^\s,;().]")
CODE = re.compile(r"`([^`]+)`")
MANY_COLUMNS, FEW_COLUMNS = 8, 3  # a table is set smaller, or not as wide as the page
FEW_ROWS = 16  # that stay on one page


class HtmlRenderer:
    """Numbers chapters, tables, pictures and files while it renders."""

    def __init__(self, files: Sequence[Path], labels: Sequence[str]) -> None:
        self.files, self.labels = files, labels
        self.tables = self.pictures = 0

    def render(self, document: Document) -> str:
        """The whole file."""
        chapters = list(enumerate(document.chapters, 1))
        contents = "".join(
            f'<li><a href="#chapter-{n}"><span>{n}</span>{escape(chapter.title)}</a></li>'
            for n, chapter in chapters
        )
        body = "".join(self._chapter(chapter, n) for n, chapter in chapters)
        title = escape(document.title)
        return (
            f'<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
            f'<meta name="viewport" content="width=device-width, initial-scale=1">\n'
            f"<title>{title}</title>\n<style>\n{STYLE}</style>\n</head>\n<body>\n"
            f"<header><h1>{title}</h1><p>{self._inline(document.subtitle)}</p></header>\n"
            f"<nav><ol>{contents}</ol></nav>\n<main>\n{body}{self._file_list(len(chapters) + 1)}"
            f"</main>\n</body>\n</html>\n"
        )

    def _chapter(self, chapter: Chapter, place: int) -> str:
        blocks = "".join(self._block(block) for block in chapter.blocks)
        title = f"<h2><span>{place}</span>{escape(chapter.title)}</h2>"
        return f'<section id="chapter-{place}">\n{title}\n{blocks}</section>\n'

    def _block(self, block: Block) -> str:
        match block:
            case Heading(text):
                return f"<h3>{escape(text)}</h3>\n"
            case Paragraph(parts):
                return f"<p>{self._inline(parts)}{self._marks(block)}</p>\n"
            case Bullets(items):
                lines = "".join(f"<li>{self._inline(item)}</li>" for item in items)
                marks = self._marks(block)
                last = f'<p class="files">{marks}</p>' if marks else ""
                return f"<ul>{lines}</ul>{last}\n"
            case Table():
                return self._table(block)
            case Picture():
                return self._picture(block)
            case Sheet():
                return self._sheet(block)

    def _inline(self, parts: Sequence[Inline]) -> str:
        return "".join(map(self._part, parts))

    def _part(self, part: Inline) -> str:
        part = NOT_MEASURED if part is None else part
        if isinstance(part, Missing):
            return f'<span class="missing">{part.text}</span>'
        if isinstance(part, Code):
            return f"<code>{escape(part.text)}</code>"
        if isinstance(part, Shown):
            kind = "published" if part.citation else "figure"
            told = escape(part.citation or self._origin(part), quote=True)
            return f'<span class="{kind}" title="{told}">{escape(part.text)}</span>'
        return _linked(part)

    def _origin(self, figure: Shown) -> str:
        first = figure.origins[0]
        label = self.labels[self.files.index(first.file)]
        told = " > ".join([label, *map(str, first.key)])
        more = len(figure.origins) - 1
        others = f" and {more} more places" if more else ""
        return f"{told}{others}{'' if figure.rule == 'value' else f' ({figure.rule})'}"

    def _table(self, table: Table) -> str:
        self.tables += 1
        head = "".join(
            f'<th class="{self._column(table, n)}" scope="col">{escape(heading)}</th>'
            for n, heading in enumerate(table.headings)
        )
        rows = "".join(
            f'<tr class="{"own" if n in table.emphasised else "other"}">{cells}</tr>\n'
            for n, cells in enumerate(self._cells(table, row) for row in table.rows)
        )
        columns = len(table.headings)
        size = "small" if columns >= MANY_COLUMNS else "narrow" if columns <= FEW_COLUMNS else ""
        length = " short" if len(table.rows) <= FEW_ROWS else ""
        notes = "".join(f'<p class="note">{_linked(note)}</p>' for note in table.notes)
        caption = f"<b>Table {self.tables}.</b> {escape(table.caption)}{self._marks(table)}"
        return (
            f'<figure class="table{length}"><figcaption>{caption}</figcaption><div>'
            f'<table class="{size}">'
            f"<thead><tr>{head}</tr></thead><tbody>\n{rows}</tbody></table></div>{notes}</figure>\n"
        )

    def _cells(self, table: Table, row: Sequence[Inline]) -> str:
        return "".join(
            f'<td class="{self._column(table, n)}">{self._part(cell)}</td>'
            for n, cell in enumerate(row)
        )

    def _column(self, table: Table, place: int) -> str:
        return "word" if place in table.words else "number"

    def _picture(self, picture: Picture) -> str:
        self.pictures += 1
        caption = f"<b>Figure {self.pictures}.</b> {escape(picture.caption)}{self._marks(picture)}"
        return (
            f'<figure><img src="{_embedded(picture.file)}" alt="{escape(picture.caption)}">'
            f"<figcaption>{caption}</figcaption></figure>\n"
        )

    def _sheet(self, sheet: Sheet) -> str:
        self.pictures += 1
        caption = f"<b>Figure {self.pictures}.</b> {escape(sheet.caption)}{self._marks(sheet)}"
        cards = "".join(map(_card, sheet.cards))
        return (
            f'<figure><div class="sheet">{cards}</div><figcaption>{caption}</figcaption></figure>\n'
        )

    def _marks(self, block: Block) -> str:
        """Numbers of the files behind a block."""
        numbers = sorted(self.files.index(file) + 1 for file in files_of(block))
        links = ", ".join(f'<a href="#file-{n}">{n}</a>' for n in numbers)
        return f' <span class="marks">[{links}]</span>' if numbers else ""

    def _file_list(self, place: int) -> str:
        items = "".join(
            f'<li id="file-{n}"><code>{escape(label)}</code></li>'
            for n, label in enumerate(self.labels, 1)
        )
        return (
            f'<section id="chapter-{place}"><h2><span>{place}</span>Files</h2>'
            "<p>Numbers in brackets name the files below. The key of each figure within its file "
            "is shown when it is pointed at, and listed in <code>report.json</code>.</p>"
            f'<ol class="file-list">{items}</ol></section>\n'
        )


def _card(card: Card) -> str:
    kind = "picture" if card.is_photo else "drawing"
    image = "" if card.file is None else f'<img class="{kind}" src="{_embedded(card.file)}" alt="">'
    verdict = "hit" if card.is_hit else "miss"
    expected = "" if card.is_hit else f"<p>expected: {escape(card.expected)}</p>"
    return (
        f'<div class="card">{image}<p class="asked">{escape(card.asked)}</p>'
        f'<p class="{verdict}">{escape(card.written)}</p>{expected}</div>'
    )


def _embedded(file: Path) -> str:
    return f"data:{MIME[file.suffix]};base64,{b64encode(file.read_bytes()).decode()}"


def _linked(text: str) -> str:
    """With its addresses as links, which nothing follows by itself, and what is typed as code."""
    found = CODE.sub(r"<code>\1</code>", escape(text, quote=False))
    return ADDRESS.sub(lambda match: f'<a href="{match[0]}">{match[0]}</a>', found)
