"""Sources of a published format into one folder of shards, source by source. A ledger beside the
shards, `.ingested.jsonl`, says which sources are finished and which shards are theirs; a run that
was stopped removes what its last source had begun and goes on with it."""

import json
import os
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache, partial
from pathlib import Path
from typing import Literal

from tyro.conf import Positional

from common.data.commands.progress import Progress
from common.data.ingest.interleaved import ingest_interleaved
from common.data.ingest.media import MediaFinder, MediaStore, read_addresses
from common.data.ingest.mmc4 import MIN_SIMILARITY, ingest_mmc4
from common.data.ingest.obelics import ingest_obelics
from common.data.ingest.pairs import (
    ingest_audio_folder,
    ingest_coco,
    ingest_csv,
    ingest_image_folder,
    ingest_json_lines,
)
from common.data.ingest.pieces import MAX_CHARACTERS
from common.data.ingest.report import IngestReport
from common.data.ingest.text import ingest_text
from common.data.shards.files import SUFFIXES, write_atomically
from common.data.shards.writer import SAMPLES_PER_SHARD, ShardWriter, TextWriter
from common.errors import UserError

LEDGER = ".ingested.jsonl"
SourceKind = Literal[
    "obelics", "mmc4", "interleaved", "images", "sounds", "csv", "json-lines", "coco", "text"
]


@dataclass(frozen=True, kw_only=True)
class Ingest:
    """Turn files of a published format into shards, and index them. The same command again goes on
    where it stopped; more sources may be added."""

    # What the sources are: folders of pairs (images, sounds), or files.
    kind: Positional[SourceKind]
    # Files or folders, each finished for itself, and last the folder of the shards.
    paths: Positional[tuple[Path, ...]]
    # Folder of the media that the sources name: files, or tars of them. Default: the source's own.
    media: Path | None = None
    # Table of web addresses and files below the media folder: csv, jsonl or parquet.
    addresses: Path | None = None
    # Its column of addresses.
    address_field: str = "url"
    # Its column of files.
    file_field: str = "file"
    # Column or field of csv and json-lines that names the medium.
    medium_field: str = "image"
    # Column or field that holds the text.
    text_field: str = "text"
    # Of mmc4: least similarity of an image to the sentence that it goes before.
    min_similarity: float = MIN_SIMILARITY
    # Of text: longer ones are divided.
    max_characters: int = MAX_CHARACTERS
    # Samples of a shard; 1 GB ends one, too.
    samples_per_shard: int = SAMPLES_PER_SHARD
    # Count tokens for it: a folder, flare_tiny or flamingo_tiny.
    tokenizer: str | None = None
    # Processes that index.
    num_workers: int = 1

    def __post_init__(self) -> None:
        if len(self.paths) < 2:
            raise UserError("give at least one source, and after it the folder of the shards")

    @property
    def sources(self) -> Sequence[Path]:
        return self.paths[:-1]

    @property
    def out(self) -> Path:
        return self.paths[-1]


def ingest(command: Ingest, *, progress: Progress) -> IngestReport:
    """Write the shards of all sources that are not finished; the report is of all.

    Raises:
        UserError: a source does not exist or has another form, or the folder holds anything else.
    """
    for source in command.sources:
        if not source.exists():
            raise UserError(f"source {source} does not exist; check the path")
    ledger = _open_ledger(command.out, _settings(command))
    media_in = cache(partial(_media_in, command=command))
    for number, source in enumerate(command.sources, start=1):
        if _name(source) not in ledger.reports:
            ledger.finish(_name(source), _ingest_one(command, source, media_in=media_in))
        progress("sources", number, len(command.sources))
    names = dict.fromkeys(map(_name, command.sources))
    return sum((ledger.reports[name] for name in names), IngestReport())


def _ingest_one(
    command: Ingest, source: Path, *, media_in: Callable[[Path], MediaFinder]
) -> IngestReport:
    size = command.samples_per_shard
    if command.kind == "text":
        with TextWriter(command.out, samples_per_shard=size, resume=True) as texts:
            return ingest_text(
                source,
                texts,
                text_field=command.text_field,
                max_characters=command.max_characters,
            )
    with ShardWriter(command.out, samples_per_shard=size, resume=True) as writer:
        if command.kind == "images":
            return ingest_image_folder(source, writer)
        if command.kind == "sounds":
            return ingest_audio_folder(source, writer)
        return _with_media(command, source, writer, find=media_in(command.media or source.parent))


def _with_media(
    command: Ingest, source: Path, writer: ShardWriter, *, find: MediaFinder
) -> IngestReport:
    """Of a file that names its media."""
    medium, text = command.medium_field, command.text_field
    match command.kind:
        case "obelics":
            return ingest_obelics(source, writer, find=find)
        case "mmc4":
            least = command.min_similarity
            return ingest_mmc4(source, writer, find=find, min_similarity=least)
        case "interleaved":
            return ingest_interleaved(source, writer, find=find)
        case "csv":
            return ingest_csv(source, writer, find=find, medium_column=medium, text_column=text)
        case "json-lines":
            return ingest_json_lines(
                source, writer, find=find, medium_field=medium, text_field=text
            )
        case _:
            return ingest_coco(source, writer, find=find)


def _media_in(folder: Path, *, command: Ingest) -> MediaFinder:
    addresses = None
    if command.addresses is not None:
        addresses = read_addresses(
            command.addresses, address_field=command.address_field, file_field=command.file_field
        )
    return MediaStore(folder, addresses=addresses)


def _name(source: Path) -> str:
    return str(source.resolve())


def _settings(command: Ingest) -> dict[str, object]:
    """What the samples depend on, beside the sources."""
    others = ("paths", "tokenizer", "num_workers")
    values = {name: value for name, value in vars(command).items() if name not in others}
    return {n: str(v.resolve()) if isinstance(v, Path) else v for n, v in values.items()}


@dataclass(kw_only=True)
class _Ledger:
    """The finished sources of a folder, by name, and their shards."""

    folder: Path
    settings: Mapping[str, object]
    reports: dict[str, IngestReport] = field(default_factory=dict)
    shards: set[str] = field(default_factory=set)
    lines: list[str] = field(default_factory=list)  # of the file, when it was opened

    def finish(self, source: str, report: IngestReport) -> None:
        """Note a source; every shard that is of no other is its own. One of which nothing could be
        written is read again the next time: what it lacks may be there then."""
        self.reports[source] = report
        if not report.written:
            return
        shards = sorted(_shards_in(self.folder) - self.shards)
        entry = {"source": source, "shards": shards, "report": vars(report)}
        with (self.folder / LEDGER).open("a", encoding="utf-8") as file:
            file.write(json.dumps(entry) + "\n")
            file.flush()
            os.fsync(file.fileno())
        self.shards.update(shards)

    def begin(self) -> None:
        """Remove shards of a source that was not finished."""
        for name in _shards_in(self.folder) - self.shards:
            (self.folder / name).unlink()
        lines = self.lines if self.reports else [json.dumps({"settings": self.settings}) + "\n"]
        write_atomically(self.folder / LEDGER, lambda file: file.write("".join(lines).encode()))


def _open_ledger(folder: Path, settings: Mapping[str, object]) -> _Ledger:
    if folder.exists() and not folder.is_dir():
        raise UserError(f"{folder} is a file; name a folder for the shards")
    ledger, path = _Ledger(folder=folder, settings=settings), folder / LEDGER
    folder.mkdir(parents=True, exist_ok=True)
    if path.exists():
        _read_ledger(path, ledger)
    elif any(not found.name.startswith(".") for found in folder.iterdir()):
        raise UserError(f"folder {folder} is not empty; choose another one")
    ledger.begin()
    return ledger


def _read_ledger(path: Path, ledger: _Ledger) -> None:
    # A line that a crash cut short ends in no newline; its source is ingested again.
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
    ledger.lines = [line for line in lines if line.endswith("\n")]
    header, *entries = map(json.loads, ledger.lines)
    if entries and header["settings"] != ledger.settings:
        differing = [n for n, value in ledger.settings.items() if header["settings"][n] != value]
        raise UserError(
            f"{ledger.folder} was ingested with another {differing[0]}; repeat that, or choose "
            "another folder"
        )
    for entry in entries:
        report = entry["report"]
        report["faults"], report["left_out"] = (
            Counter(report["faults"]),
            Counter(report["left_out"]),
        )
        ledger.reports[entry["source"]] = IngestReport(**report)
        ledger.shards.update(entry["shards"])


def _shards_in(folder: Path) -> set[str]:
    """Those that a writer numbered; other files are not ours to touch."""
    return {p.name for p in folder.iterdir() if p.suffix in SUFFIXES and p.stem.isdecimal()}
