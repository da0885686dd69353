"""Indexing a data set, with the tokens of its texts."""

from dataclasses import dataclass
from functools import partial
from pathlib import Path

from transformers import PreTrainedTokenizerBase
from tyro.conf import Positional

from common.data.commands.progress import Progress
from common.data.inspection import count_tokens
from common.data.shards.build import IndexReport, build_indices
from common.data.shards.files import find_shards


@dataclass(frozen=True, kw_only=True)
class Index:
    """Index the shards of a folder that are new or have changed; keep the others' indices."""

    # Folder of tars or JSON lines.
    root: Positional[Path]
    # Count tokens for it: a folder, flare_tiny or flamingo_tiny.
    tokenizer: str | None = None
    # Processes, each with a shard.
    num_workers: int = 1


@dataclass(frozen=True, kw_only=True)
class IndexedFolder:
    """What a folder holds once it is indexed."""

    report: IndexReport
    num_bytes: int
    num_tokens: int | None  # of texts


def index_folder(
    root: Path,
    *,
    tokenizer: PreTrainedTokenizerBase | None,
    num_workers: int,
    progress: Progress,
) -> IndexedFolder:
    """Index what is missing or stale, and count tokens likewise.

    Raises:
        UserError: there are no shards, or the folder cannot be written.
    """
    report = build_indices(
        root, tokenizer=tokenizer, num_workers=num_workers, progress=partial(progress, "shards")
    )
    return IndexedFolder(
        report=report,
        num_bytes=sum(find_shards(root).values()),
        num_tokens=None if tokenizer is None else int(count_tokens(root, tokenizer).sum()),
    )
