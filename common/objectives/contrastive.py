"""Contrast between media (images or audio) and texts: InfoNCE and SigLIP's sigmoid loss.

InfoNCE, symmetric, with a learned temperature (as in CLIP):
loss(i) = -log exp(s x_i . y_i) / (exp(s x_i . y_i) + sum over negatives j of exp(s x_i . y_j)),
averaged over the directions media -> text and text -> media. The sigmoid loss asks of every pair
by itself whether it belongs together. Pairs with an equal caption are no negatives of one another.
Negatives of other ranks arrive through `gather`; no rank is known here.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from einops import einsum
from jaxtyping import Bool, Float, Int
from torch import Tensor

MAX_SCALE = 100.0  # of the logits, as in CLIP: beyond it training becomes unstable


class Contrast(NamedTuple):
    """What a contrastive loss says about the local rows: sums, never means."""

    loss: Float[Tensor, ""]
    # Local rows.
    count: Int[Tensor, ""]  # type: ignore[assignment]  # hides tuple.count, which nobody needs
    # Pairs of a local row and one of its negatives; over `count`: negatives of a row.
    negatives: Int[Tensor, ""]


def identity(tensor: Tensor) -> Tensor:
    """The `gather` of a single device."""
    return tensor


def info_nce(
    media: Float[Tensor, "b d"],
    text: Float[Tensor, "b d"],
    *,
    log_scale: Float[Tensor, "1"],
    duplicates: Int[Tensor, " b"],
    gather: Callable[[Tensor], Tensor] = identity,
) -> Contrast:
    """InfoNCE summed over the local rows, of which there may be none.

    duplicates: equal numbers mark equal captions, e.g. 3 7 3: rows 0 and 2 do not repel.
    gather: (b, ...) -> (B, ...) of all ranks; differentiable, and also called with `duplicates`.
    """
    with torch.autocast(media.device.type, enabled=False):  # similarities need float32
        scale = clamped_scale(log_scale)
        media, text = _unit_vectors(media), _unit_vectors(text)
        negative = duplicates[:, None] != gather(duplicates)[None, :]
        positive = scale * (media * text).sum(dim=-1)
        to_text = _log_share(positive, scale * _similarity(media, gather(text)), negative)
        to_media = _log_share(positive, scale * _similarity(text, gather(media)), negative)
        loss = -(to_text + to_media).sum() / 2
    return _contrast(loss, negative)


def sigmoid_loss(
    media: Float[Tensor, "b d"],
    text: Float[Tensor, "b d"],
    *,
    log_scale: Float[Tensor, "1"],
    bias: Float[Tensor, "1"],
    duplicates: Int[Tensor, " b"],
    gather: Callable[[Tensor], Tensor] = identity,
) -> Contrast:
    """SigLIP: -log sigma(z), z = s x_i . y_i + bias, and -log sigma(-z) for every negative y_j.

    Summed over the local rows of media, of which there may be none; arguments as in `info_nce`.
    """
    with torch.autocast(media.device.type, enabled=False):  # similarities need float32
        scale, bias = clamped_scale(log_scale), _at_least_float32(bias)
        media, text = _unit_vectors(media), _unit_vectors(text)
        negative = duplicates[:, None] != gather(duplicates)[None, :]
        positive = scale * (media * text).sum(dim=-1) + bias
        others = scale * _similarity(media, gather(text)) + bias
        repulsion = F.softplus(others).masked_fill(~negative, 0.0)
        loss = F.softplus(-positive).sum() + repulsion.sum()
    return _contrast(loss, negative)


def clamped_scale(log_scale: Float[Tensor, "1"]) -> Float[Tensor, "1"]:
    """The inverse temperature, at most 100."""
    return _at_least_float32(log_scale).clamp(max=math.log(MAX_SCALE)).exp()


@torch.no_grad()
def clamp_scale_(log_scale: Float[Tensor, "1"]) -> None:
    """In place, after an optimizer step: back to a scale of 1..100, where gradients still flow."""
    log_scale.clamp_(min=0.0, max=math.log(MAX_SCALE))


def _contrast(loss: Float[Tensor, ""], negative: Bool[Tensor, "b all"]) -> Contrast:
    count = torch.full((), len(negative), device=negative.device)
    return Contrast(loss=loss, count=count, negatives=negative.sum())


def _unit_vectors(rows: Float[Tensor, "b d"]) -> Float[Tensor, "b d"]:
    return F.normalize(_at_least_float32(rows), dim=-1)


def _at_least_float32(tensor: Tensor) -> Tensor:
    return tensor if tensor.dtype == torch.float64 else tensor.float()


def _similarity(
    rows: Float[Tensor, "b d"], columns: Float[Tensor, "all d"]
) -> Float[Tensor, "b all"]:
    return einsum(rows, columns, "b d, all d -> b all")


def _log_share(
    positive: Float[Tensor, " b"],
    logits: Float[Tensor, "b all"],
    negative: Bool[Tensor, "b all"],
) -> Float[Tensor, " b"]:
    """Log-softmax of the positive among itself and its negatives."""
    # The positive stands apart, so nobody needs to know where the local rows lie among all rows.
    candidates = torch.cat([positive[:, None], logits.masked_fill(~negative, -torch.inf)], dim=1)
    return positive - candidates.logsumexp(dim=1)
