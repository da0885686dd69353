"""Copies among the samples that are still wanted; the first of each group stays. What a copy is
depends on the sample: a captioned medium is one by the medium alone, a text without media by the
text, and any other document, such as an image with a question, only if all of both is equal."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Shaped, UInt64

from common.data.quality.clusters import Positions, later_copies
from common.data.quality.hamming import near_clusters
from common.data.quality.minhash import text_clusters
from common.data.quality.survey import Reasons, Survey

MIX = np.uint64(0x9E3779B97F4A7C15)  # odd, so that no two media become one


@dataclass(frozen=True, kw_only=True)
class Copies:
    """What counts as a copy, beside equal bytes of media and equal normalised texts."""

    distance: int | None = 4  # bits between perceptual hashes; None: not compared
    jaccard: float | None = 0.8  # of word 5-grams; None: not compared
    per_caption: bool = False  # A medium may come again with another caption, as in COCO.


def without_copies(survey: Survey, reasons: Reasons, *, copies: Copies) -> Reasons:
    """The reasons with `duplicate`, `near_duplicate_image` and `near_duplicate_text` added.

    Raises:
        UserError: the distance is out of range.
    """
    reasons = reasons.copy()
    by_medium = survey.captioned & (survey.media != 0)
    captions = survey.texts if copies.per_caption else np.where(by_medium, 0, survey.texts)
    captions = captions.astype(np.uint64)
    kept = np.flatnonzero((reasons == "") & ((survey.media != 0) | (survey.texts != 0)))
    _mark(reasons, kept, _paired(survey.media, captions)[kept], reason="duplicate")
    if copies.distance is not None:
        compared = by_medium & (reasons == "")
        chosen = compared[survey.image_samples]
        samples = survey.image_samples[chosen]
        labels = near_clusters(survey.images[chosen], distance=copies.distance)
        labels = _paired(labels.astype(np.uint64), captions[samples])
        _mark(reasons, samples, labels, reason="near_duplicate_image")
    if copies.jaccard is not None:
        chosen = (reasons == "")[survey.signature_samples]
        labels = text_clusters(survey.signatures[chosen], jaccard=copies.jaccard)
        _mark(reasons, survey.signature_samples[chosen], labels, reason="near_duplicate_text")
    return reasons


def without_common_captions(survey: Survey, reasons: Reasons, *, max_count: int = 10) -> Reasons:
    """The reasons with `caption_common` added for every caption that more than `max_count` samples
    have: such say little of any (ALIGN, Jia et al. 2021, section 3.1, and COYO-700M use 10)."""
    reasons = reasons.copy()
    captioned = np.flatnonzero((reasons == "") & survey.captioned)
    _, places, counts = np.unique(survey.texts[captioned], return_inverse=True, return_counts=True)
    reasons[captioned[counts[places] > max_count]] = "caption_common"
    return reasons


def _paired(
    labels: UInt64[np.ndarray, " n"], captions: UInt64[np.ndarray, " n"]
) -> UInt64[np.ndarray, " n"]:
    """One label for each pair of labels."""
    return labels * MIX ^ captions


def _mark(
    reasons: Reasons, samples: Positions, labels: Shaped[np.ndarray, " m"], *, reason: str
) -> None:
    """Sets the reason of all samples but the first of each label."""
    reasons[samples[later_copies(labels)]] = reason
