"""Generated documents as shards on disk, in the form in which real data comes: one interleaved
sample each. Images are PNG, pixel for pixel the same after decoding; recordings are FLAC of 16
bits, off by at most 1/65536 (1/32768 for samples at full scale, since 1.0 has no 16-bit number)."""

import io
import json
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np
import PIL.Image
from transformers import PreTrainedTokenizerBase

from common.data.document import SAMPLE_RATE_HZ, Document, Image, Recording
from common.data.shards.build import build_indices
from common.data.shards.writer import (
    SAMPLES_PER_SHARD,
    EncodedMedium,
    ShardWriter,
    interleaved_members,
    safe_key,
)
from common.errors import UserError

MADE_BY = ".made-by.json"


def write_documents(
    folder: Path,
    documents: Iterable[Document],
    *,
    samples_per_shard: int = SAMPLES_PER_SHARD,
) -> int:
    """Write documents to an empty folder; their number. Keys lose slashes and dots to dashes.

    Raises:
        UserError: the folder is not empty, or two documents in succession have one key.
    """
    number = 0
    with ShardWriter(folder, samples_per_shard=samples_per_shard) as writer:
        for number, document in enumerate(documents, start=1):  # noqa: B007 -- the last is counted
            parts = [_encoded(part) for part in document.parts]
            members = interleaved_members(parts, caption=document.caption)
            writer.write(safe_key(document.key), members)
    return number


def write_indexed(
    folder: Path,
    documents: Iterable[Document],
    *,
    made_by: Mapping[str, object],
    tokenizer: PreTrainedTokenizerBase,
) -> int:
    """Write documents to a new folder, index them and count their tokens; how many there are.

    `made_by` says what decides the documents, as JSON. A folder that says the same is complete, and
    is left as it is, but for tokens that are not counted yet; documents are not asked for then.

    Raises:
        UserError: the folder holds anything else.
    """
    claim = json.dumps(made_by, indent=1)
    path = folder / MADE_BY
    if not path.exists():
        if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            raise UserError(f"{folder} is not empty; choose another folder")
        # Under another name until it is whole; what a stopped run left there is made anew.
        unfinished = folder.with_name(f".{folder.name}.unfinished")
        shutil.rmtree(unfinished, ignore_errors=True)
        write_documents(unfinished, documents)
        (unfinished / MADE_BY).write_text(claim, encoding="utf-8")
        unfinished.replace(folder)
    elif path.read_text(encoding="utf-8") != claim:
        raise UserError(f"{folder} holds documents of other settings; remove it or use another")
    return build_indices(folder, tokenizer=tokenizer).num_samples


def _encoded(part: str | Image | Recording) -> str | EncodedMedium:
    if isinstance(part, str):
        return part
    if isinstance(part, Recording):
        return EncodedMedium(data=_flac(part), extension="flac")
    stream = io.BytesIO()
    PIL.Image.fromarray(part).save(stream, "PNG", compress_level=1)
    return EncodedMedium(data=stream.getvalue(), extension="png")


def _flac(recording: Recording) -> bytes:
    import soundfile  # noqa: PLC0415 -- loads a library; most of the code never needs it

    # libsndfile itself would scale by 32767 and read back by 32768.
    samples = np.rint(recording.samples * 2**15).clip(-(2**15), 2**15 - 1).astype(np.int16)
    stream = io.BytesIO()
    soundfile.write(stream, samples, SAMPLE_RATE_HZ, format="FLAC", subtype="PCM_16")
    return stream.getvalue()
