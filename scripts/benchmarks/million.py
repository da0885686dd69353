"""The index of a million image pairs whose shards are holes: opening it, and the extents of samples
in random order."""

import time
from pathlib import Path

import numpy as np
from transformers import PreTrainedTokenizerBase

from common.data.shards.corpus import ShardCorpus, open_shards
from common.data.shards.index import MEMBER, SAMPLE, ShardIndex
from common.data.shards.manifest import corpus_digest, entry_of, write_manifest
from common.data.shards.records import KINDS
from common.data.shards.shard import index_path
from common.data.shards.tokens import (
    dataset_tokens_path,
    join_extents,
    save_extents,
    shard_tokens_path,
    tokenizer_digest,
)
from scripts.benchmarks.timing import Row, alternating

NUM_SHARDS, NUM_SAMPLES = 100, 10_000
SAMPLE_BYTES = 2048
KEY_LENGTH = 9
NUM_EXTENTS = 100_000
REPEATS = 7


def figures(root: Path, tokenizer: PreTrainedTokenizerBase) -> list[Row]:
    """Rows for opening, for extents, and for the memory that both take."""
    _write(root, tokenizer_digest(tokenizer))
    total = NUM_SHARDS * NUM_SAMPLES
    order = np.random.default_rng(0).integers(total, size=NUM_EXTENTS).tolist()
    before = _resident_bytes()
    opened: list[ShardCorpus] = []

    def extents() -> None:
        for index in order:
            opened[-1].extent(index)

    (opening,) = alternating(
        [lambda: opened.append(open_shards(root, tokenizer=tokenizer))],
        repeats=1,
        clock=time.process_time,
    )
    (first,) = alternating([extents], repeats=1, clock=time.process_time)
    grown = _resident_bytes() - before
    assert len(opened[0]) == total
    assert all(opened[0].extent(index).tokens == index for index in order[:1000])
    (later,) = alternating([extents], repeats=REPEATS, clock=time.process_time)
    nothing = {"plain": "", "ratio": "", "wanted": ""}
    return [
        {"figure": "open a million samples, s", "ours": round(opening, 3), **nothing},
        {"figure": "100,000 extents, first time, s", "ours": round(first, 3), **nothing},
        {"figure": "100,000 extents, later, s", "ours": round(later, 3), **nothing},
        {"figure": "memory of both, MB", "ours": round(grown / 1e6, 1), **nothing},
    ]


def _write(root: Path, tokenizer: str) -> None:
    root.mkdir()
    entries = []
    for shard in range(NUM_SHARDS):
        path = root / f"{shard:05d}.tar"
        with path.open("wb") as file:
            file.truncate(NUM_SAMPLES * SAMPLE_BYTES)
        index = _index(shard)
        index.save(index_path(path))
        tokens = np.arange(shard * NUM_SAMPLES, (shard + 1) * NUM_SAMPLES)[:, None]
        # Tokens are the sample's number; one text, one image, no clip.
        save_extents(
            shard_tokens_path(path, tokenizer),
            np.concatenate([tokens, tokens * 0 + (1, 1, 0)], axis=1).astype(np.int32),
        )
        entries.append(entry_of(path.name, num_bytes=path.stat().st_size, index=index))
    write_manifest(root, entries)
    join_extents(
        dataset_tokens_path(root, tokenizer=tokenizer, corpus=corpus_digest(entries)),
        (shard_tokens_path(root / entry.file, tokenizer) for entry in entries),
        size=NUM_SHARDS * NUM_SAMPLES,
    )


def _index(shard: int) -> ShardIndex:
    """Pairs of a jpg and a txt."""
    numbers = np.arange(NUM_SAMPLES)
    samples = np.zeros(NUM_SAMPLES, SAMPLE)
    samples["key_end"], samples["member_end"] = KEY_LENGTH * (numbers + 1), 2 * (numbers + 1)
    samples["kind"], samples["width"], samples["height"] = KINDS.index("image"), 7, 5
    samples["num_texts"] = samples["num_images"] = 1
    members = np.zeros(2 * NUM_SAMPLES, MEMBER)
    members["extension"] = np.tile([0, 1], NUM_SAMPLES)
    members["size"] = np.tile([900, 90], NUM_SAMPLES)
    members["offset"] = np.repeat(numbers * SAMPLE_BYTES, 2) + np.tile([0, 1024], NUM_SAMPLES)
    return ShardIndex(
        samples=samples,
        members=members,
        keys="".join(f"{shard:05d}{number:04d}" for number in numbers).encode(),
        extensions=("jpg", "txt"),
        fingerprint="",
        rejected={},
        damage=None,
    )


def _resident_bytes() -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    kilobytes = next(line.split()[1] for line in lines if line.startswith("VmRSS"))
    return 1024 * int(kilobytes)
