"""The chain of filters over a data set of shards: rules for single samples, evaluation images,
captions that too many share, copies, captions that do not fit; what is left is copied byte for
byte. Everything measured is kept in `.filter` of the new folder, so a stopped run goes on."""

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from hashlib import blake2b
from pathlib import Path

import numpy as np
from tyro.conf import FlagCreatePairsOff, Positional

from common.data.commands.progress import Progress
from common.data.quality.blocks import write_text
from common.data.quality.contamination import (
    EvaluationImages,
    Match,
    images_of_folder,
    images_of_samples,
    load_images,
    save_images,
    without_evaluation_images,
)
from common.data.quality.duplicates import Copies, without_common_captions, without_copies
from common.data.quality.prose import Placeholder, ProseQuality, ProseRepetition
from common.data.quality.rules import CaptionName, CaptionWords, ImageShape, Rule, TextLength
from common.data.quality.similarity import (
    DualEncoder,
    load_dual_encoder,
    similarities,
    without_unlike,
)
from common.data.quality.survey import Reasons, Survey, survey
from common.data.quality.writing import Writer, count_reasons, write_kept
from common.data.shards.build import build_indices
from common.data.shards.corpus import ShardCorpus, open_shards
from common.data.shards.files import find_shards
from common.data.shards.writer import SAMPLES_PER_SHARD, ShardWriter, TextWriter
from common.data.text_decoding import decode_json
from common.errors import UserError

WORKING_FOLDER = ".filter"
MATCHES_FILE = "contamination.json"


@dataclass(frozen=True, kw_only=True)
class Filter:
    """Copy the samples of a data set that pass the filters that are asked for, and index them. The
    same command again goes on where it stopped."""

    # An indexed data set.
    root: Positional[Path]
    # Folder of the new one.
    out: Positional[Path]
    # Pixels of an image's shorter side, at least (COYO-700M: 200).
    min_side: int | None = None
    # Longer side over shorter, at most (COYO-700M: 3).
    max_aspect: float | None = None
    # Rules for captions: length, letters, repetition, file names and addresses.
    captions: FlagCreatePairsOff[bool] = False
    # Rules for running text: Gopher's and C4's.
    prose: FlagCreatePairsOff[bool] = False
    # Leave out equal and nearly equal images and texts, but the first of each.
    copies: FlagCreatePairsOff[bool] = False
    # Bits of 64 by which the hashes of images that count as one may differ.
    distance: int = 4
    # Leave out samples with these images: folders of images or of shards, or tables of hashes.
    evaluation_images: tuple[Path, ...] = ()
    # Leave out captions that more samples have (COYO-700M: 10).
    max_caption_count: int | None = None
    # Folder of a model such as CLIP; leaves out pairs with a cosine below the threshold.
    dual_encoder: Path | None = None
    # LAION-5B's for CLIP ViT-B/32; another model needs its own.
    threshold: float = 0.28
    # Pairs that the dual encoder takes at once.
    batch_size: int = 64
    # Where the dual encoder runs.
    device: str = "cpu"
    # Samples of a shard; 1 GB ends one, too.
    samples_per_shard: int = SAMPLES_PER_SHARD
    # Count tokens for it: a folder, flare_tiny or flamingo_tiny.
    tokenizer: str | None = None
    # Processes that read.
    num_workers: int = 1

    def __post_init__(self) -> None:
        if self.num_workers < 1 or self.batch_size < 1:
            raise UserError("--num-workers and --batch-size must be at least 1")


@dataclass(frozen=True, kw_only=True)
class FilterReport:
    """What became of the samples."""

    num_samples: int
    num_kept: int
    reasons: Mapping[str, int]
    matches: Sequence[Match]  # with evaluation images


def filter_samples(command: Filter, *, progress: Progress) -> FilterReport:
    """Write what passes.

    Raises:
        UserError: no filter is asked for, or the new folder holds anything else.
    """
    rules = _rules(command)
    wanted = (command.copies, command.evaluation_images, command.max_caption_count)
    if not any((rules, *wanted, command.dual_encoder)):
        raise UserError("no filter is asked for; give at least one, such as --copies")
    corpus = open_shards(command.root)
    are_lines = _are_lines(command.root)
    num_written = _claim(command, corpus)
    # Before everything is read, so that a wrong path is not found hours later.
    images = _evaluation_images(command) if command.evaluation_images else None
    folder, device = command.dual_encoder, command.device
    score = None if folder is None else load_dual_encoder(folder, device=device)
    found = survey(
        corpus,
        _working_folder(command, "survey", (corpus.digest, rules)),
        source_digest=corpus.digest,
        rules=rules,
        num_workers=command.num_workers,
        progress=partial(progress, "blocks read"),
    )
    reasons, matches = _chosen(
        command, corpus, found, images=images, score=score, progress=progress
    )
    with _opened(command, are_lines=are_lines) as write:
        write_kept(corpus, found, reasons, write=write, skip=num_written)
    counts = count_reasons(reasons)
    return FilterReport(
        num_samples=len(corpus),
        num_kept=len(corpus) - counts.total(),
        reasons=counts,
        matches=matches,
    )


def _rules(command: Filter) -> list[Rule]:
    rules: list[Rule] = []
    if command.min_side is not None or command.max_aspect is not None:
        rules.append(
            ImageShape(min_side=command.min_side or 1, max_aspect=command.max_aspect or math.inf)
        )
    if command.captions:
        rules += [TextLength(), CaptionWords(), CaptionName()]
    if command.prose:
        rules += [ProseQuality(), ProseRepetition(), Placeholder()]
    return rules


def _chosen(
    command: Filter,
    corpus: ShardCorpus,
    found: Survey,
    *,
    images: EvaluationImages | None,
    score: DualEncoder | None,
    progress: Progress,
) -> tuple[Reasons, Sequence[Match]]:
    """The reasons of all filters, in their order, and matches with evaluation images."""
    reasons, matches = found.reasons, list[Match]()
    if images is not None:
        reasons, matches = without_evaluation_images(
            found, reasons, images=images, distance=command.distance
        )
        listed = json.dumps([vars(match) for match in matches], indent=1)
        write_text(command.out / MATCHES_FILE, listed)
    if command.max_caption_count is not None:
        reasons = without_common_captions(found, reasons, max_count=command.max_caption_count)
    if command.copies:
        reasons = without_copies(found, reasons, copies=Copies(distance=command.distance))
    if command.dual_encoder is not None and score is not None:
        claim = f"{corpus.digest} {command.dual_encoder.resolve()}"
        cosines = similarities(
            corpus,
            reasons,
            _working_folder(command, "similarities", claim),
            score=score,
            claim=claim,
            batch_size=command.batch_size,
            progress=partial(progress, "blocks compared"),
        )
        reasons = without_unlike(reasons, cosines, threshold=command.threshold)
    return reasons, matches


def _working_folder(command: Filter, name: str, belongs_to: object) -> Path:
    """A folder of its own for whatever decides what is in it, so that settings may be tried."""
    digest = blake2b(repr(belongs_to).encode(), digest_size=6).hexdigest()
    return command.out / WORKING_FOLDER / f"{name}-{digest}"


def _evaluation_images(command: Filter) -> EvaluationImages:
    """All of them, also as a table for the next data set."""
    tables = [_table(path) for path in command.evaluation_images]
    images = EvaluationImages(
        hashes=np.concatenate([table.hashes for table in tables]),
        names=tuple(name for table in tables for name in table.names),
        unhashed=tuple(name for table in tables for name in table.unhashed),
    )
    save_images(images, command.out / WORKING_FOLDER / "evaluation.npy")
    return images


def _table(path: Path) -> EvaluationImages:
    if not path.exists():
        raise UserError(f"evaluation images {path} do not exist; check the path")
    if path.is_file():
        return load_images(path)
    is_sharded = (path / "index.json").exists() or any(path.rglob("*.tar"))
    return images_of_samples(open_shards(path)) if is_sharded else images_of_folder(path)


def _claim(command: Filter, corpus: ShardCorpus) -> int:
    """How many samples an earlier run of the same command has written.

    Raises:
        UserError: the folder holds anything else.
    """
    out, others = command.out, ("root", "out", "tokenizer", "num_workers", "batch_size", "device")
    settings = {name: str(value) for name, value in vars(command).items() if name not in others}
    claim = json.dumps({"source": corpus.digest, "settings": settings}, indent=1)
    path = out / WORKING_FOLDER / "claim.json"
    is_ours = path.exists()
    is_begun = any(out.glob("*.tar")) or any(out.glob("*.jsonl"))
    if is_ours and is_begun and path.read_text(encoding="utf-8") == claim:
        return build_indices(out).num_samples
    if is_begun or (out.exists() and not is_ours and (not out.is_dir() or any(out.iterdir()))):
        raise UserError(f"{out} is not empty; choose another folder, or the command that began it")
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, claim)
    return 0


def _are_lines(root: Path) -> bool:
    """
    Raises:
        UserError: there are tars and JSON lines.
    """
    suffixes = {Path(file).suffix for file in find_shards(root)}
    if len(suffixes) > 1:
        raise UserError(f"{root} holds tars and JSON lines; filter the folders of either apart")
    return suffixes == {".jsonl"}


@contextmanager
def _opened(command: Filter, *, are_lines: bool) -> Iterator[Writer]:
    """What writes samples in the form of their source; a line keeps its key and text only."""
    folder, size = command.out, command.samples_per_shard
    if are_lines:
        with TextWriter(folder, samples_per_shard=size, resume=True) as texts:
            yield lambda key, members: texts.write(key, _text_of(members["json"], name=key))
    else:
        with ShardWriter(folder, samples_per_shard=size, resume=True) as writer:
            yield writer.write


def _text_of(line: bytes, *, name: str) -> str:
    return str(decode_json(line, name=name)["text"])
