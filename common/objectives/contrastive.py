"""InfoNCE between images and texts: symmetric, with a learned temperature (as in CLIP).

loss(i) = -log exp(s x_i . y_i) / (exp(s x_i . y_i) + sum over negatives j of exp(s x_i . y_j)),
averaged over the directions image -> text and text -> image. Pairs with an equal caption are no
negatives of one another. Negatives of other ranks arrive through `gather`; no rank is known here.
"""

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from einops import einsum
from jaxtyping import Bool, Float, Int
from torch import Tensor

MAX_SCALE = 100.0  # of the logits, as in CLIP: beyond it training becomes unstable


def identity(tensor: Tensor) -> Tensor:
    """The `gather` of a single device."""
    return tensor


def info_nce(
    image: Float[Tensor, "b d"],
    text: Float[Tensor, "b d"],
    *,
    log_scale: Float[Tensor, "1"],
    duplicates: Int[Tensor, " b"],
    gather: Callable[[Tensor], Tensor] = identity,
) -> tuple[Float[Tensor, ""], Int[Tensor, ""]]:
    """Loss summed over the local rows, and their number.

    duplicates: equal numbers mark equal captions, e.g. 3 7 3: rows 0 and 2 do not repel.
    gather: (b, ...) -> (B, ...) of all ranks; differentiable, and also called with `duplicates`.
    """
    with torch.autocast(image.device.type, enabled=False):  # similarities need float32
        scale = clamped_scale(log_scale)
        image = F.normalize(image.float(), dim=-1)
        text = F.normalize(text.float(), dim=-1)
        negative = duplicates[:, None] != gather(duplicates)[None, :]
        positive = scale * (image * text).sum(dim=-1)
        to_text = _log_share(positive, scale * _similarity(image, gather(text)), negative)
        to_image = _log_share(positive, scale * _similarity(text, gather(image)), negative)
        loss = -(to_text + to_image).sum() / 2
    return loss, torch.full((), len(image), device=image.device)


def clamped_scale(log_scale: Float[Tensor, "1"]) -> Float[Tensor, "1"]:
    """The inverse temperature, at most 100."""
    return log_scale.float().clamp(max=math.log(MAX_SCALE)).exp()


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
