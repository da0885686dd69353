"""Writes a technical report: `report.html` alone, `report.md` with its pictures, and `report.json`,
which lists every figure with the file and key that it was read from, so that it can be checked."""

import json
import os
from collections.abc import Iterator
from pathlib import Path

from common.errors import UserError
from common.evaluation.technical_report.architecture import architecture
from common.evaluation.technical_report.benchmarks import benchmarks
from common.evaluation.technical_report.cost import cost
from common.evaluation.technical_report.data import data
from common.evaluation.technical_report.document import (
    Document,
    Origin,
    Picture,
    Shown,
    figures_of,
    files_of,
)
from common.evaluation.technical_report.examples import examples
from common.evaluation.technical_report.html import HtmlRenderer
from common.evaluation.technical_report.inputs import Inputs
from common.evaluation.technical_report.limitations import limitations
from common.evaluation.technical_report.markdown import markdown
from common.evaluation.technical_report.overview import overview
from common.evaluation.technical_report.planned import planned
from common.evaluation.technical_report.reproduction import reproduction
from common.evaluation.technical_report.safety import safety
from common.evaluation.technical_report.sources import computed
from common.evaluation.technical_report.training import training
from common.training.config_json import Json

HTML, MARKDOWN, FIGURES, PICTURES = "report.html", "report.md", "report.json", "pictures"


def write_technical_report(folder: Path, inputs: Inputs, *, command: str) -> Path:
    """Write all files; returns the path of `report.html`.

    Raises:
        UserError: a file of the inputs is damaged, or the folder cannot be written.
    """
    try:
        (folder / PICTURES).mkdir(parents=True, exist_ok=True)
        document = _document(inputs, pictures=folder / PICTURES, command=command)
        files = _files(document)
        labels = [_label(file, folder) for file in files]
        html = HtmlRenderer(files, labels).render(document)
        (folder / HTML).write_text(html, encoding="utf-8")
        text = markdown(document, folder=folder, files=files, labels=labels)
        (folder / MARKDOWN).write_text(text, encoding="utf-8")
        listed = json.dumps(_listed(document, folder), indent=1, ensure_ascii=False)
        (folder / FIGURES).write_text(listed + "\n", encoding="utf-8")
    except OSError as error:
        raise UserError(f"cannot write {folder}: {error}; name another --out") from error
    return folder / HTML


def verify(folder: Path) -> int:
    """Read every figure of a report again from its file; returns how many there are.

    Raises:
        UserError: a file is gone, or says something else now.
    """
    figures = json.loads((folder / FIGURES).read_text(encoding="utf-8"))["figures"]
    for figure in figures:
        origins = [
            Origin(file=folder / origin["file"], key=tuple(origin["key"]))
            for origin in figure["origins"]
        ]
        if not origins and not figure["citation"]:
            raise UserError(f"{folder / FIGURES}: {figure['text']} has no origin")
        if origins:
            now = computed(origins, rule=figure["rule"], factor=figure["factor"])
            if now != figure["value"]:
                where = f"{origins[0].file}: {origins[0]}"
                raise UserError(
                    f"{where} gives {now} now, the report says {figure['value']}; write it again"
                )
    return len(figures)


def _document(inputs: Inputs, *, pictures: Path, command: str) -> Document:
    chapters = (
        overview(inputs),
        architecture(inputs),
        data(inputs),
        training(inputs, pictures),
        benchmarks(inputs, pictures),
        examples(inputs, pictures),
        safety(inputs),
        limitations(inputs),
        cost(inputs),
        planned(inputs),
        reproduction(inputs, command=command),
    )
    names = [run.recipe for run in inputs.runs] or [model.kind for model in inputs.models]
    names = list(dict.fromkeys(names))
    return Document(
        title=": ".join(["Technical report", *([", ".join(names)] if names else [])]),
        subtitle=(
            "Every figure was read from a file, which it names; what no file holds is ",
            None,
            ".",
        ),
        chapters=tuple(chapter for chapter in chapters if chapter is not None),
    )


def _files(document: Document) -> list[Path]:
    """In the order in which the reader meets them."""
    blocks = [block for chapter in document.chapters for block in chapter.blocks]
    return list(dict.fromkeys(file for block in blocks for file in files_of(block)))


def _label(file: Path, folder: Path) -> str:
    """Its path, seen from the folder, without the way up."""
    parts = Path(os.path.relpath(file, folder)).parts
    return Path(*(part for part in parts if part != "..")).as_posix()


def _listed(document: Document, folder: Path) -> Json:
    figures = [
        {"chapter": chapter.title} | _figure(shown, folder)
        for chapter in document.chapters
        for block in chapter.blocks
        for shown in figures_of(block)
    ]
    return {"title": document.title, "figures": figures, "pictures": [*_pictures(document, folder)]}


def _figure(shown: Shown, folder: Path) -> dict[str, Json]:
    return {
        "text": shown.text,
        "value": shown.value,
        "rule": shown.rule,
        "factor": shown.factor,
        "origins": [_origin(origin, folder) for origin in shown.origins],
        "citation": shown.citation,
    }


def _pictures(document: Document, folder: Path) -> Iterator[Json]:
    for chapter in document.chapters:
        for block in chapter.blocks:
            if isinstance(block, Picture):
                origins = [_origin(origin, folder) for origin in block.origins]
                yield {"file": os.path.relpath(block.file, folder), "origins": origins}


def _origin(origin: Origin, folder: Path) -> dict[str, Json]:
    return {"file": os.path.relpath(origin.file, folder), "key": [*origin.key]}
