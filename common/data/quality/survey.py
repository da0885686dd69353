"""The pass that reads everything once: for each sample the reason why a rule rejects it, and the
numbers by which copies are found later. It goes by blocks of samples, each a file, so that a run
that was stopped goes on with the blocks that lack. The numbers of all samples are then held in
memory: some 200 bytes for each, and 512 more for a text without media."""

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields
from functools import partial
from pathlib import Path
from typing import TypeAlias

import numpy as np
from jaxtyping import Bool, Int, Shaped, UInt64

from common.data.faults import BadSample
from common.data.processes import in_processes
from common.data.quality.blocks import BLOCK, Progress, block_path, claim_folder, reading
from common.data.quality.hashing import HASHED_SIDE, digest, perceptual_hash
from common.data.quality.minhash import PLACES, Signature, Signatures, signature
from common.data.quality.rules import Rule
from common.data.quality.sample import SampleSource, read_sample
from common.data.quality.words import normalised
from common.data.shards.files import write_atomically

VERSION = 1  # of the block files and of all that is computed into them
# Strings, "" where nothing speaks against the sample; as objects, since an array of strings would
# cut a longer reason that is set later.
Reasons: TypeAlias = Shaped[np.ndarray, " n"]


@dataclass(frozen=True, kw_only=True, eq=False)
class Survey:
    """Of n samples, i images and p texts without media. What a rule rejects has only a reason."""

    keys: Shaped[np.ndarray, " n"]
    reasons: Reasons
    captioned: Bool[np.ndarray, " n"]
    media: UInt64[np.ndarray, " n"]  # digest of the encoded media, 0: none
    texts: UInt64[np.ndarray, " n"]  # digest of the normalised text, 0: none
    images: UInt64[np.ndarray, " i"]  # perceptual hashes
    image_samples: Int[np.ndarray, " i"]
    signatures: Signatures
    signature_samples: Int[np.ndarray, " p"]


@dataclass(frozen=True, kw_only=True, eq=False)
class _Print:
    """A survey's numbers of one sample."""

    key: str = ""
    reason: str = ""
    captioned: bool = False
    media: int = 0
    text: int = 0
    images: tuple[int, ...] = ()
    signature: Signature | None = None


def survey(
    source: SampleSource,
    folder: Path,
    *,
    source_digest: str,
    rules: Sequence[Rule],
    num_workers: int,
    progress: Progress | None = None,
) -> Survey:
    """Reads every sample, or finishes what an earlier call with the same arguments began.

    Raises:
        UserError: the folder holds the survey of another source or by other rules, or a process
            was killed.
    """
    rules = tuple(rules)
    claim = {"version": VERSION, "source": source_digest, "rules": [repr(rule) for rule in rules]}
    claim_folder(folder, json.dumps(claim, indent=1))
    starts = range(0, len(source), BLOCK)
    missing = [start for start in starts if not block_path(folder, start, suffix=".npz").exists()]
    written = in_processes(
        _write_block,
        [(source, rules, folder, start) for start in missing],
        num_workers=num_workers,
        doing=f"reading samples for {folder}",
    )
    for done, _ in enumerate(written, start=len(starts) - len(missing) + 1):
        if progress is not None:
            progress(done, len(starts))
    return _joined([_load(block_path(folder, start, suffix=".npz")) for start in starts])


def survey_range(source: SampleSource, indices: range, *, rules: Sequence[Rule]) -> Survey:
    """The survey of some samples, in memory; samples keep their numbers in the source."""
    prints = [_print(source, index, rules) for index in indices]
    images = [(index, x) for index, p in zip(indices, prints, strict=True) for x in p.images]
    signed = [
        (index, p.signature)
        for index, p in zip(indices, prints, strict=True)
        if p.signature is not None
    ]
    empty = np.zeros((0, PLACES), dtype=np.uint32)
    return Survey(
        keys=np.array([p.key for p in prints], dtype=np.str_),
        reasons=np.array([p.reason for p in prints], dtype=np.object_),
        captioned=np.array([p.captioned for p in prints], dtype=np.bool_),
        media=np.array([p.media for p in prints], dtype=np.uint64),
        texts=np.array([p.text for p in prints], dtype=np.uint64),
        images=np.array([x for _, x in images], dtype=np.uint64),
        image_samples=np.array([index for index, _ in images], dtype=np.int64),
        signatures=np.stack([x for _, x in signed]) if signed else empty,
        signature_samples=np.array([index for index, _ in signed], dtype=np.int64),
    )


def _print(source: SampleSource, index: int, rules: Iterable[Rule]) -> _Print:
    try:
        sample = read_sample(source, index, least_side=HASHED_SIDE)
        reason = next(filter(None, (rule.reason(sample) for rule in rules)), None)
    except BadSample as fault:
        return _Print(reason=fault.cause)
    key, text, media = sample.document.key, normalised(sample.text), sample.encoded_media
    if reason is not None:
        return _Print(key=key, reason=reason)
    return _Print(
        key=key,
        captioned=sample.document.caption is not None,
        media=digest(media) if media else 0,
        text=digest([text.encode()]) if text else 0,
        images=tuple(x for x in map(perceptual_hash, sample.images) if x is not None),
        signature=signature(text) if text and not media else None,
    )


def _write_block(source: SampleSource, rules: tuple[Rule, ...], folder: Path, start: int) -> None:
    indices = range(start, min(start + BLOCK, len(source)))
    block = survey_range(source, indices, rules=rules)
    arrays = {field.name: getattr(block, field.name) for field in fields(block)}
    arrays["reasons"] = block.reasons.astype(np.str_)
    write_atomically(block_path(folder, start, suffix=".npz"), partial(np.savez, **arrays))


def _load(path: Path) -> Survey:
    with reading(path), np.load(path, allow_pickle=False) as arrays:
        return Survey(**{**arrays, "reasons": arrays["reasons"].astype(np.object_)})


def _joined(blocks: Sequence[Survey]) -> Survey:
    names = [field.name for field in fields(Survey)]
    joined = {name: np.concatenate([getattr(x, name) for x in blocks]) for name in names}
    return Survey(**joined)
