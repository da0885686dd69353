"""Attention written to be read: the slow twin that every backend is tested against.

softmax(q k^T * scale + bias) v over the keys that the mask allows, in float32 (float64 for float64
inputs); a row that may attend to nothing is 0. Materialises every score; not for training.
"""

import torch
from einops import repeat
from jaxtyping import Bool, Float
from torch import Tensor


def reference_attention(
    q: Float[Tensor, "b h s e"],
    k: Float[Tensor, "b g n e"],
    v: Float[Tensor, "b g n e"],
    *,
    allowed: Bool[Tensor, "b 1 s n"] | None,
    bias: Float[Tensor, "b h s n"] | None = None,
    scale: float,
) -> Float[Tensor, "b h s e"]:
    precision = torch.promote_types(q.dtype, torch.float32)
    heads_per_key = q.shape[1] // k.shape[1]
    keys = repeat(k.to(precision), "b g n e -> b (g r) n e", r=heads_per_key)
    values = repeat(v.to(precision), "b g n e -> b (g r) n e", r=heads_per_key)

    scores = torch.einsum("bhse,bhne->bhsn", q.to(precision), keys) * scale
    if bias is not None:
        scores = scores + bias
    if allowed is None:
        return torch.einsum("bhsn,bhne->bhse", scores.softmax(dim=-1), values).to(q.dtype)

    # A finite floor keeps the softmax of an empty row, and its gradient, free of NaN.
    scores = scores.masked_fill(~allowed, torch.finfo(precision).min)
    weights = scores.softmax(dim=-1).masked_fill(~allowed, 0.0)
    return torch.einsum("bhsn,bhne->bhse", weights, values).to(q.dtype)
