"""Pairs whose caption does not fit the image, by the cosine of a dual encoder such as CLIP
(Radford et al. 2021; as a filter: LAION-400M, Schuhmann et al. 2021). The encoder is given from
outside, or is one in a local folder in the form of Hugging Face. Similarities are kept on disk by
blocks, so that a stopped run goes on and the threshold can be chosen afterwards."""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TypeAlias

import numpy as np
import torch
from jaxtyping import Float32
from torch.nn.functional import cosine_similarity
from transformers import AutoModel, AutoProcessor, PreTrainedModel, ProcessorMixin

from common.data.quality.blocks import BLOCK, Progress, block_path, claim_folder, reading
from common.data.quality.sample import Picture, SampleSource
from common.data.quality.survey import Reasons
from common.data.shards.files import write_atomically
from common.errors import UserError

# Larger than the input of most dual encoders, so that they scale down and not up.
LEAST_SIDE = 384  # pixels
Similarities: TypeAlias = Float32[np.ndarray, " n"]
# How well each text fits its image.
Scorer: TypeAlias = Callable[[Sequence[Picture], Sequence[str]], Similarities]


@dataclass(frozen=True, kw_only=True, eq=False)
class DualEncoder:
    """Cosines of the two towers of a Hugging Face model; long texts are cut off."""

    model: PreTrainedModel
    processor: ProcessorMixin

    @torch.inference_mode()
    def __call__(self, images: Sequence[Picture], texts: Sequence[str]) -> Similarities:
        device = self.model.device
        pixels = self.processor(images=list(images), return_tensors="pt").to(device)
        # SigLIP was trained on texts padded to the full length, and CLIP masks the padding.
        tokens = self.processor(
            text=list(texts),
            padding="max_length",
            truncation=True,
            max_length=self.model.config.text_config.max_position_embeddings,
            return_tensors="pt",
        ).to(device)
        seen = self.model.get_image_features(**pixels).pooler_output
        said = self.model.get_text_features(**tokens).pooler_output
        return cosine_similarity(seen.float(), said.float()).cpu().numpy()


def load_dual_encoder(folder: Path, *, device: str) -> DualEncoder:
    """
    Raises:
        UserError: the folder holds no dual encoder.
    """
    try:
        model = AutoModel.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
        processor = AutoProcessor.from_pretrained(
            folder, local_files_only=True, trust_remote_code=False
        )
    except (OSError, ValueError) as error:
        raise UserError(f"{folder} holds no model with its processor; check the path") from error
    if not hasattr(model, "get_image_features") or not hasattr(model, "get_text_features"):
        raise UserError(
            f"{folder} holds {type(model).__name__}, no dual encoder; use one like CLIP"
        )
    return DualEncoder(model=model.to(device).eval(), processor=processor)


def similarities(
    source: SampleSource,
    reasons: Reasons,
    folder: Path,
    *,
    score: Scorer,
    claim: str,
    batch_size: int,
    progress: Progress | None = None,
) -> Similarities:
    """Of every image with a caption that has no reason against it; infinite where there is nothing
    to compare, NaN where nobody asked.

    `claim`: names the source and the encoder, so that a folder is never used for others.

    Raises:
        UserError: the folder belongs to another claim, or its files are damaged; a sample is bad
            that the survey could read.
    """
    claim_folder(folder, json.dumps({"similarities": claim}))
    blocks, starts = [], range(0, len(source), BLOCK)
    for done, start in enumerate(starts, start=1):
        path = block_path(folder, start, suffix=".npy")
        wanted = reasons[start : start + BLOCK] == ""
        found = np.full(len(wanted), np.nan, dtype=np.float32)
        if path.exists():
            with reading(path):
                found[:] = np.load(path, allow_pickle=False).reshape(len(wanted))
        missing = start + np.flatnonzero(wanted & np.isnan(found))
        for first in range(0, len(missing), batch_size):
            batch = missing[first : first + batch_size]
            found[batch - start] = _scores(source, batch.tolist(), score)
        if len(missing):
            write_atomically(path, partial(np.save, arr=found))
        blocks.append(found)
        if progress is not None:
            progress(done, len(starts))
    return np.concatenate(blocks)


def without_unlike(reasons: Reasons, found: Similarities, *, threshold: float = 0.28) -> Reasons:
    """The reasons with `caption_unlike` added for all pairs below the threshold.

    0.28 is LAION-5B's for English and CLIP ViT-B/32 (Schuhmann et al. 2022, section 3.2); other
    encoders need their own.
    """
    reasons = reasons.copy()
    reasons[(reasons == "") & (found < threshold)] = "caption_unlike"
    return reasons


def _scores(source: SampleSource, indices: Sequence[int], score: Scorer) -> Similarities:
    documents = [source.read(index, least_side=LEAST_SIDE) for index in indices]
    pairs = [
        (place, document.caption, part)
        for place, document in enumerate(documents)
        for part in document.parts
        if document.caption is not None and isinstance(part, np.ndarray)
    ]
    found = np.full(len(indices), np.inf, dtype=np.float32)
    if pairs:
        places, texts, images = zip(*pairs, strict=True)
        found[list(places)] = score(images, texts)
    return found
