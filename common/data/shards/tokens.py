"""How much of a row every sample will take, counted once per tokenizer: `NAME.tokens-DIGEST.npy`
beside each shard, and all of them joined in the dataset's folder, mapped into memory by readers.
A row holds the fields of an `Extent`. Both digests are in the joined file's name, so that it is
there exactly if it is right."""

import json
from collections.abc import Iterable, Iterator
from hashlib import blake2b
from itertools import islice
from pathlib import Path
from typing import BinaryIO

import numpy as np
import numpy.typing as npt
from transformers import PreTrainedTokenizerBase

from common.data.shards.files import write_atomically
from common.data.shards.index import STORAGE_ERRORS
from common.data.shards.records import Texts
from common.data.shards.shard import Shard
from common.errors import UserError

Extents = npt.NDArray[np.int32]  # samples x (tokens, texts, images, clips)
BATCH = 256  # samples


def tokenizer_digest(tokenizer: PreTrainedTokenizerBase) -> str:
    """Equal for tokenizers that encode alike.

    Raises:
        UserError: the tokenizer is of the slow kind.
    """
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        raise UserError(
            f"{type(tokenizer).__name__} is no fast tokenizer; use one with a tokenizer.json"
        )
    state = json.loads(backend.to_str())
    # Texts are encoded plainly: what the last call left there, what stands around a text, and
    # control tokens, which models add to their tokenizer, change nothing.
    for name in ("padding", "truncation", "post_processor"):
        state.pop(name, None)
    state["added_tokens"] = [token for token in state["added_tokens"] if not token["special"]]
    return blake2b(json.dumps(state).encode(), digest_size=6).hexdigest()


def shard_tokens_path(shard: Path, tokenizer: str) -> Path:
    """Where the extents of a shard are."""
    return shard.with_name(f"{shard.name}.tokens-{tokenizer}.npy")


def dataset_tokens_path(root: Path, *, tokenizer: str, corpus: str) -> Path:
    """Where the extents of all shards are."""
    return root / f"index.tokens-{tokenizer}-{corpus}.npy"


def count_extents(shard: Shard, tokenizer: PreTrainedTokenizerBase) -> Extents:
    """Extents of all samples of a shard; of several captions the longest counts.

    Raises:
        BadSample: a text cannot be read or has changed since it was indexed.
    """
    size = len(shard.index)
    counts = [shard.index.samples[f"num_{part}"] for part in ("texts", "images", "clips")]
    texts = (shard.record(number).texts for number in range(size))
    tokens = np.fromiter(_lengths(texts, tokenizer), np.int32, size)
    return np.stack([tokens, *counts], axis=1)


def save_extents(path: Path, extents: Extents) -> None:
    """Write the extents of one shard.

    Raises:
        UserError: the file system refuses.
    """
    write_atomically(path, lambda file: np.save(file, extents, allow_pickle=False))


def load_extents(path: Path, *, size: int) -> Extents | None:
    """The extents of a file, mapped into memory; None if it is missing or not of this size."""
    try:
        mapped = np.load(path, mmap_mode="r" if size else None, allow_pickle=False)
    except STORAGE_ERRORS:
        return None
    extents = np.asarray(mapped)  # a row of numpy's own class for mapped files takes twice as long
    return extents if extents.shape == (size, 4) and extents.dtype == np.int32 else None


def join_extents(path: Path, pieces: Iterable[Path], *, size: int) -> None:
    """Write the extents of all shards one after another, `size` in all.

    Raises:
        UserError: the file system refuses.
    """
    layout = {"descr": "<i4", "fortran_order": False, "shape": (size, 4)}

    def write(file: BinaryIO) -> None:
        np.lib.format.write_array_header_1_0(file, layout)
        for piece in pieces:
            file.write(np.load(piece, allow_pickle=False).tobytes())

    write_atomically(path, write)


def _lengths(samples: Iterable[list[Texts]], tokenizer: PreTrainedTokenizerBase) -> Iterator[int]:
    """Tokens of every sample; the tokenizer is called for many texts at once, as `encode_plain`
    calls it for one."""
    remaining = iter(samples)
    while batch := list(islice(remaining, BATCH)):
        wordings = [text for sample in batch for part in sample for text in part]
        ids = tokenizer(wordings, add_special_tokens=False, split_special_tokens=True)["input_ids"]
        lengths = map(len, ids)
        for sample in batch:
            yield sum(max(islice(lengths, len(part))) for part in sample)
