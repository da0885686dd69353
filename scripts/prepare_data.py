"""Makes data sets of shards, looks into them and filters them.

    python scripts/prepare_data.py ingest images photos data/photos --tokenizer flare_tiny
    python scripts/prepare_data.py index data/photos --tokenizer flare_tiny
    python scripts/prepare_data.py inspect data/photos --pictures photos.png --read
    python scripts/prepare_data.py filter data/photos data/clean --min-side 200 --copies
    python scripts/prepare_data.py embedded data/generated
    python scripts/prepare_data.py benchmarks data/benchmarks

docs/data.md explains them. Every command goes on where it was stopped.
"""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from textwrap import shorten
from typing import Annotated, Literal, TypeAlias

from rich.console import Console
from transformers import AutoTokenizer, PreTrainedTokenizerBase
from tyro.conf import FlagCreatePairsOff, Positional, subcommand

import flamingo.embedded_shards
import flare.embedded_shards
from common.checkpoint.pretrained import read_part
from common.data.commands.benchmarks import Benchmarks
from common.data.commands.filter import Filter, filter_samples
from common.data.commands.index import Index, index_folder
from common.data.commands.ingest import Ingest, ingest
from common.data.commands.progress import Progress, ShownProgress
from common.data.commands.tables import (
    facts_table,
    filter_table,
    index_table,
    ingest_table,
    read_table,
    tokens_table,
)
from common.data.embedded.benchmarks import write_benchmarks
from common.data.inspection import corpus_facts, read_all, some_documents, token_facts
from common.data.shards.corpus import open_shards
from common.data.shards.tokens import tokenizer_digest
from common.errors import UserError
from common.evaluation.data_plots import samples_picture
from common.training.options import parse_commands
from flamingo.corpora import EMBEDDED_VOCAB_SIZE
from flamingo.corpora import embedded_tokenizer as flamingo_tokenizer
from flamingo.recipes import flamingo_tiny_language
from flamingo.vision_pretraining import tiny_contrastive
from flare.corpora import embedded_tokenizer as flare_tokenizer
from flare.recipes import flare_tiny


@dataclass(frozen=True, kw_only=True)
class Inspect:
    """Show what is in an indexed data set. Faults found by reading are no error of this command."""

    # An indexed data set.
    root: Positional[Path]
    # Show the tokens that were counted for it: a folder, flare_tiny or flamingo_tiny.
    tokenizer: str | None = None
    # Tokens of the rows that are to be filled.
    row_tokens: int = 2048
    # Draw samples into this file.
    pictures: Path | None = None
    # Samples to draw.
    num: int = 12
    # Read every sample: decode its media, check its bytes.
    read: FlagCreatePairsOff[bool] = False

    def __post_init__(self) -> None:
        if self.num < 1 or self.row_tokens < 1:
            raise UserError("--num and --row-tokens must be at least 1")
        if self.pictures is not None and self.pictures.suffix != ".png":
            raise UserError(f"pictures go to a .png file, not to {self.pictures}")


@dataclass(frozen=True, kw_only=True)
class Embedded:
    """Write generated training documents as shards, a folder for each kind."""

    # Folder of the folders.
    out: Positional[Path]
    # Whose documents.
    model: Literal["flare", "flamingo"] = "flare"
    # Documents of each kind; of prose there are as many as there are.
    num: int = 20_000
    # Seed of the documents.
    seed: int = 0


Command: TypeAlias = (
    Annotated[Index, subcommand("index")]
    | Annotated[Inspect, subcommand("inspect")]
    | Annotated[Ingest, subcommand("ingest")]
    | Annotated[Filter, subcommand("filter")]
    | Annotated[Embedded, subcommand("embedded")]
    | Annotated[Benchmarks, subcommand("benchmarks")]
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command; exit status 2 for a user's mistake."""
    console = Console(width=None if sys.stdout.isatty() else 120)
    try:
        command = _parsed(sys.argv[1:] if arguments is None else arguments)
        if command is not None:
            with ShownProgress(console) as progress:
                _run(command, _Show(console=console, progress=progress))
    except UserError as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    return 0


def _parsed(words: Sequence[str]) -> Command | None:
    """The command, or None when help was printed."""
    command: Command | None = parse_commands(
        Command, list(words) or ["--help"], description=__doc__, program=Path(__file__).name
    )
    return command


@dataclass(frozen=True, kw_only=True)
class _Show:
    """Where commands tell what they do and have found."""

    console: Console
    progress: Progress


def _run(command: Command, show: _Show) -> None:
    match command:
        case Index():
            _index(command, command.root, show)
        case Inspect():
            _inspect(command, show)
        case Ingest():
            _ingest(command, show)
        case Filter():
            _filter(command, show)
        case Embedded():
            _embedded(command, show)
        case Benchmarks():
            write_benchmarks(command.out, num=command.num, seed=command.seed)
            show.console.print(f"benchmarks: {command.out}", markup=False, soft_wrap=True)


def _index(command: Index | Ingest | Filter, root: Path, show: _Show) -> None:
    folder = index_folder(
        root,
        tokenizer=tokenizer_named(command.tokenizer),
        num_workers=command.num_workers,
        progress=show.progress,
    )
    show.console.print(index_table(folder))


def _inspect(command: Inspect, show: _Show) -> None:
    root = command.root
    facts = corpus_facts(root)
    show.console.print(facts_table(facts))
    tokenizer = tokenizer_named(command.tokenizer)
    if tokenizer is not None:
        tokens = token_facts(root, tokenizer=tokenizer, row_tokens=command.row_tokens)
        show.console.print(tokens_table(tokens, row_tokens=command.row_tokens))
    for text in facts.texts:
        show.console.print(shorten(text, 300), markup=False, highlight=False)
    corpus = open_shards(root)
    if command.pictures is not None:
        samples_picture(some_documents(corpus, command.num), command.pictures)
        show.console.print(f"pictures: {command.pictures}", markup=False, soft_wrap=True)
    if command.read:
        show.console.print(read_table(read_all(corpus, progress=partial(show.progress, "samples"))))


def _ingest(command: Ingest, show: _Show) -> None:
    tokenizer_named(command.tokenizer)  # A wrong one shall not be found at the end.
    report = ingest(command, progress=show.progress)
    show.console.print(ingest_table(report))
    if not report.written:
        reason = next(iter(report.examples.values()), "the sources are empty")
        raise UserError(f"no sample could be written; the first fault: {reason}")
    _index(command, command.out, show)


def _filter(command: Filter, show: _Show) -> None:
    tokenizer_named(command.tokenizer)  # A wrong one shall not be found at the end.
    report = filter_samples(command, progress=show.progress)
    show.console.print(filter_table(report))
    if not report.num_kept:
        raise UserError(f"nothing of {command.root} passes the filters; ask for less")
    _index(command, command.out, show)


def _embedded(command: Embedded, show: _Show) -> None:
    out, num, seed = command.out, command.num, command.seed
    if num < 1:
        raise UserError(f"--num {num} documents are nothing to write; use at least 1")
    if command.model == "flare":
        tokenizer, size = flare_tokenizer(), flare_tiny().task.family_size
        for kind in flare.embedded_shards.STORED:
            written = flare.embedded_shards.write_generated(
                out / kind, kind, num=num, seed=seed, family_size=size, tokenizer=tokenizer
            )
            show.console.print(f"{kind}: {written:,} documents", highlight=False)
        return
    tokenizer, stage = flamingo_tokenizer(EMBEDDED_VOCAB_SIZE), tiny_contrastive()
    for stored in flamingo.embedded_shards.STORED:
        written = flamingo.embedded_shards.write_generated(
            out / stored,
            stored,
            num=num,
            seed=seed,
            family_size=stage.family_size,
            digit_share=stage.digit_share,
            prose_share=flamingo_tiny_language().task.prose_share,
            tokenizer=tokenizer,
        )
        show.console.print(f"{stored}: {written:,} documents", highlight=False)


def tokenizer_named(name: str | None) -> PreTrainedTokenizerBase | None:
    """The tokenizer of a tiny model, or that of a folder; control tokens that models add to it do
    not change the tokens of a text.

    Raises:
        UserError: there is no such folder, or no fast tokenizer in it.
    """
    if name is None:
        return None
    if name == "flare_tiny":
        return flare_tokenizer()
    if name == "flamingo_tiny":
        return flamingo_tokenizer(EMBEDDED_VOCAB_SIZE)
    folder = Path(name)
    if not folder.is_dir():
        raise UserError(
            f"tokenizer {folder} is no folder; give one, or flare_tiny or flamingo_tiny"
        )
    if not (folder / "tokenizer.json").is_file():
        raise UserError(f"folder {folder} holds no tokenizer; it needs a tokenizer.json")
    tokenizer = read_part(AutoTokenizer, folder, what="tokenizer")
    tokenizer_digest(tokenizer)  # Says so if it is of the slow kind.
    return tokenizer


if __name__ == "__main__":
    sys.exit(main())
