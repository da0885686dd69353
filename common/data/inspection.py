"""What is in a data set of shards, as data: counts, sizes and lengths from its index, some of its
texts, the tokens counted for it, and, if everything is to be read, what cannot be."""

import contextlib
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Int, Shaped
from transformers import PreTrainedTokenizerBase

from common.data.document import Document
from common.data.faults import BadSample
from common.data.packing import PackState, Room, Size, pack
from common.data.shards.corpus import ShardCorpus, open_shards
from common.data.shards.files import ShardFile
from common.data.shards.index import ShardIndex, load_index
from common.data.shards.manifest import ShardEntry, all_rejected, read_manifest, stale
from common.data.shards.records import KINDS
from common.data.shards.shard import Shard, index_path
from common.data.shards.tokens import dataset_tokens_path, load_extents, tokenizer_digest

TEXTS_READ = 1000  # samples whose texts are measured, spread over the data set
ROWS_PACKED = 256


@dataclass(frozen=True, kw_only=True)
class Spread:
    """Of numbers: the least, 5 %, the median, 95 %, the greatest."""

    least: float
    low: float
    median: float
    high: float
    greatest: float


@dataclass(frozen=True, kw_only=True)
class CorpusFacts:
    """A data set by its index; a spread is None where there is nothing to measure."""

    num_shards: int
    num_bytes: int
    num_samples: int
    kinds: Mapping[str, int]  # samples: image, audio, interleaved, text
    parts: Mapping[str, int]  # texts, images, clips
    short_side: Spread | None  # pixels, of each sample's first image
    long_side: Spread | None
    seconds: Spread | None  # of all clips of a sample
    hours: float  # of sound
    characters: Spread | None  # of all texts of a sample, of at most `TEXTS_READ` samples
    texts: Sequence[str]
    rejected: Mapping[str, int]
    damaged: Mapping[str, str]  # shards that could not be read to their end, and why


@dataclass(frozen=True, kw_only=True)
class TokenFacts:
    """Tokens of all texts, and how they fill rows; control tokens and media are not counted."""

    num_tokens: int
    per_sample: Spread
    num_rows: int  # that all samples fill, longer ones cut
    fill: float  # share of the rows' tokens, measured on some rows
    num_longer: int  # samples longer than a row


@dataclass(frozen=True, kw_only=True)
class ReadReport:
    """What reading every sample found."""

    num_samples: int
    faults: Mapping[str, int]
    examples: Mapping[str, str]  # the first message of each cause


def spread_of(values: Shaped[np.ndarray, " n"]) -> Spread | None:
    """None for no numbers."""
    if not len(values):
        return None
    least, low, median, high, greatest = np.percentile(values, (0, 5, 50, 95, 100)).tolist()
    return Spread(least=least, low=low, median=median, high=high, greatest=greatest)


def corpus_facts(root: Path, *, num_texts: int = 5) -> CorpusFacts:
    """Facts of an indexed data set, with the texts of some samples.

    Raises:
        UserError: the index is missing or stale, or a text has changed.
    """
    entries = read_manifest(root)
    indices = [_index_of(root, entry) for entry in entries]
    samples = np.concatenate([index.samples for index in indices])
    texts = list(_spread_texts(root, entries, indices))
    sides = np.stack([samples["width"], samples["height"]])[:, samples["num_images"] > 0]
    seconds = samples["seconds"][samples["num_clips"] > 0].astype(np.float64)
    kinds = {str(kind): int((samples["kind"] == k).sum()) for k, kind in enumerate(KINDS)}
    step = max(1, len(texts) // num_texts) if num_texts else 1
    return CorpusFacts(
        num_shards=len(entries),
        num_bytes=sum(entry.num_bytes for entry in entries),
        num_samples=len(samples),
        kinds={kind: number for kind, number in kinds.items() if number},
        parts={part: int(samples[f"num_{part}"].sum()) for part in ("texts", "images", "clips")},
        short_side=spread_of(sides.min(axis=0)),
        long_side=spread_of(sides.max(axis=0)),
        seconds=spread_of(seconds),
        hours=float(seconds.sum()) / 3600,
        characters=spread_of(np.array([len(text) for text in texts])),
        texts=texts[::step][:num_texts],
        rejected=all_rejected(entries),
        damaged={entry.file: entry.damage for entry in entries if entry.damage is not None},
    )


def token_facts(root: Path, *, tokenizer: PreTrainedTokenizerBase, row_tokens: int) -> TokenFacts:
    """Tokens by the index.

    Raises:
        UserError: the index is missing or stale, or tokens are not counted for this tokenizer.
    """
    tokens = count_tokens(root, tokenizer)
    spread = spread_of(tokens)
    assert spread is not None  # a corpus has samples
    fill = _fill(tokens, row_tokens=row_tokens)
    cut = int(np.minimum(tokens, row_tokens).sum())
    return TokenFacts(
        num_tokens=int(tokens.sum()),
        per_sample=spread,
        num_rows=max(1, round(cut / (fill * row_tokens))),
        fill=fill,
        num_longer=int((tokens > row_tokens).sum()),
    )


def count_tokens(root: Path, tokenizer: PreTrainedTokenizerBase) -> Int[np.ndarray, " samples"]:
    """Tokens of each sample's texts, by the index.

    Raises:
        UserError: the index is missing or stale, or tokens are not counted for this tokenizer.
    """
    corpus = open_shards(root, tokenizer=tokenizer)
    digest = tokenizer_digest(tokenizer)
    path = dataset_tokens_path(root, tokenizer=digest, corpus=corpus.digest)
    extents = load_extents(path, size=len(corpus))
    assert extents is not None  # opening has looked
    return extents[:, 0].astype(np.int64)


def some_documents(corpus: ShardCorpus, number: int) -> list[Document]:
    """Samples spread over a data set, without those that cannot be used.

    Raises:
        UserError: a shard is not the one that was indexed.
    """
    documents = []
    chosen = np.linspace(0, len(corpus), min(number, len(corpus)), endpoint=False, dtype=np.int64)
    for index in chosen.tolist():
        with contextlib.suppress(BadSample):
            documents.append(corpus.read(index))
    return documents


def read_all(corpus: ShardCorpus, *, progress: Callable[[int, int], None]) -> ReadReport:
    """Decode every sample and check its bytes.

    Raises:
        UserError: a shard is not the one that was indexed.
    """
    faults, examples = Counter[str](), dict[str, str]()
    for index in range(len(corpus)):
        try:
            corpus.read(index)
        except BadSample as fault:
            faults[fault.cause] += 1
            examples.setdefault(fault.cause, str(fault))
        progress(index + 1, len(corpus))
    return ReadReport(num_samples=len(corpus), faults=faults, examples=examples)


def _index_of(root: Path, entry: ShardEntry) -> ShardIndex:
    index = load_index(index_path(root / entry.file))
    if index is None or index.digest != entry.digest:
        raise stale(root, f"the index of shard {entry.file} is missing or another one")
    return index


def _spread_texts(
    root: Path, entries: Sequence[ShardEntry], indices: Sequence[ShardIndex]
) -> Iterator[str]:
    """The texts of some samples, each as one, from all parts of the data set."""
    ends = np.cumsum([len(index) for index in indices])
    total = int(ends[-1])
    chosen = np.linspace(0, total, min(total, TEXTS_READ), endpoint=False, dtype=np.int64)
    places = np.searchsorted(ends, chosen, side="right")
    for place in np.unique(places).tolist():
        entry, index = entries[place], indices[place]
        shard = Shard(entry.file, file=ShardFile(root / entry.file), index=index)
        first = int(ends[place]) - len(index)
        for number in (chosen[places == place] - first).tolist():
            yield "\n".join(wordings[0] for wordings in shard.record(number).texts)


def _fill(tokens: Shaped[np.ndarray, " n"], *, row_tokens: int) -> float:
    """How full the packer makes rows of these samples."""
    num_rows = int(np.clip(tokens.sum() // row_tokens, 1, ROWS_PACKED))

    def size_of(number: int) -> Size:
        return Size(tokens=min(int(tokens[number % len(tokens)]), row_tokens))

    rows, _ = pack(size_of, PackState(), num_rows=num_rows, room=Room(tokens=row_tokens))
    packed = sum(size_of(number).tokens for row in rows for number in row)
    return packed / (num_rows * row_tokens)
