"""Indexing a dataset: every shard is read once, what can be known without decoding is checked and
written beside it. A shard whose index is there and right is left alone, so that an interrupted
run goes on where it was."""

import pickle
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from glob import escape
from pathlib import Path

from transformers import PreTrainedTokenizerBase

from common.data.faults import BadSample
from common.data.processes import in_processes
from common.data.shards.files import ShardFile, find_shards
from common.data.shards.index import load_index
from common.data.shards.inspection import index_shard
from common.data.shards.manifest import (
    ShardEntry,
    all_rejected,
    corpus_digest,
    entry_of,
    write_manifest,
)
from common.data.shards.shard import Shard, index_path
from common.data.shards.tokens import (
    count_extents,
    dataset_tokens_path,
    join_extents,
    load_extents,
    save_extents,
    shard_tokens_path,
    tokenizer_digest,
)

Progress = Callable[[int, int], None]  # finished shards, all shards


@dataclass(frozen=True, kw_only=True)
class IndexReport:
    """What an indexing run did and found."""

    num_indexed: int  # shards; the others' indices were there
    num_kept: int
    num_samples: int  # usable, of all shards
    rejected: Mapping[str, int]  # samples that are not, by cause
    damaged: Mapping[str, str]  # shards that could not be read to their end, and why


def build_indices(
    root: Path,
    *,
    tokenizer: PreTrainedTokenizerBase | None = None,
    num_workers: int | None = None,
    progress: Progress | None = None,
) -> IndexReport:
    """Index what has no index or another one, count tokens likewise, and write `index.json`.

    `num_workers` processes work on a shard each; by default this one does everything.

    Raises:
        UserError: there are no shards, the folder cannot be written, or a process was killed.
    """
    sizes = find_shards(root)
    digest = None if tokenizer is None else tokenizer_digest(tokenizer)
    entries: dict[str, ShardEntry] = {}
    num_indexed = 0
    pickled = pickle.dumps(tokenizer)
    prepared = in_processes(
        _prepare_in_worker,
        [(root, file, num_bytes, pickled) for file, num_bytes in sizes.items()],
        num_workers=num_workers or 1,
        doing=f"indexing {root}",
    )
    for entry, is_new in prepared:
        entries[entry.file] = entry
        num_indexed += is_new
        if progress is not None:
            progress(len(entries), len(sizes))
    in_order = [entries[file] for file in sizes]
    if digest is not None:
        _join(root, in_order, tokenizer=digest)
    write_manifest(root, in_order)
    return IndexReport(
        num_indexed=num_indexed,
        num_kept=len(sizes) - num_indexed,
        num_samples=sum(entry.num_samples for entry in in_order),
        rejected=all_rejected(in_order),
        damaged={entry.file: entry.damage for entry in in_order if entry.damage is not None},
    )


def _prepare_in_worker(
    root: Path, file: str, num_bytes: int, pickled: bytes
) -> tuple[ShardEntry, bool]:
    return _prepare(root, file, num_bytes, _unpickled(pickled))


@lru_cache(maxsize=1)
def _unpickled(pickled: bytes) -> PreTrainedTokenizerBase | None:
    """The tokenizer, made once in each process."""
    return pickle.loads(pickled)


def _prepare(
    root: Path, file: str, num_bytes: int, tokenizer: PreTrainedTokenizerBase | None
) -> tuple[ShardEntry, bool]:
    """The entry of a shard, and whether it was indexed anew."""
    path = root / file
    index = load_index(index_path(path))
    is_new = index is None or index.fingerprint != _fingerprint(path)
    if index is None or is_new:
        for extents in path.parent.glob(f"{escape(path.name)}.tokens-*.npy"):
            extents.unlink()
        index = index_shard(path, name=file)
        index.save(index_path(path))
    if tokenizer is not None:
        extents = shard_tokens_path(path, tokenizer_digest(tokenizer))
        if load_extents(extents, size=len(index)) is None:
            shard = Shard(file, file=ShardFile(path), index=index)
            save_extents(extents, count_extents(shard, tokenizer))
    return entry_of(file, num_bytes=num_bytes, index=index), is_new


def _fingerprint(path: Path) -> str | None:
    try:
        return ShardFile(path).fingerprint()
    except BadSample:
        return None


def _join(root: Path, entries: list[ShardEntry], *, tokenizer: str) -> None:
    """The extents of all shards in one file, in place of those of earlier contents."""
    path = dataset_tokens_path(root, tokenizer=tokenizer, corpus=corpus_digest(entries))
    pieces = (shard_tokens_path(root / entry.file, tokenizer) for entry in entries)
    join_extents(path, pieces, size=sum(entry.num_samples for entry in entries))
    for other in root.glob(f"index.tokens-{tokenizer}-*.npy"):
        if other != path:
            other.unlink()
