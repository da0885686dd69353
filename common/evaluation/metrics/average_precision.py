"""Figures of classification: mean average precision as AudioSet reports it (per class over all
clips, then the mean over classes) and top-k accuracy."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Float


def mean_average_precision(
    scores: Float[np.ndarray, "clips classes"], labels: Bool[np.ndarray, "clips classes"]
) -> float:
    """Macro mean; a class without any clip counts for nothing, as there is nothing to find.

    Raises:
        ValueError: no class has a clip.
    """
    precisions = [
        average_precision(scores[:, place], labels[:, place])
        for place in range(labels.shape[1])
        if labels[:, place].any()
    ]
    if not precisions:
        raise ValueError("mean average precision needs a clip with a label")
    return float(np.mean(precisions))


def average_precision(
    scores: Float[np.ndarray, " clips"], labels: Bool[np.ndarray, " clips"]
) -> float:
    """Precision meaned over the gains in recall, equal scores taken together; scikit-learn's.

    Raises:
        ValueError: a score is no number, or no clip has the label.
    """
    if not np.isfinite(scores).all() or not labels.any():
        raise ValueError("average precision needs finite scores and a clip with the label")
    order = np.argsort(-scores, kind="stable")
    ends = np.flatnonzero(np.append(np.diff(scores[order]) != 0, True))
    found = np.cumsum(labels[order])[ends]
    gains = np.diff(found, prepend=0) / labels.sum()
    return float(np.sum(gains * found / (ends + 1)))


def top_k_accuracy(
    scores: Float[np.ndarray, "samples classes"], labels: Sequence[int], *, k: int
) -> float:
    """How often the right class is among the k best; equal scores count against it."""
    own = scores[np.arange(len(labels)), np.asarray(labels)]
    before = (~(scores < own[:, None])).sum(axis=1) - 1
    return float(np.mean(before < k))
