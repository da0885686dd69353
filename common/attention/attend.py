"""The one attention call: softmax(q k^T * scale) v under a mask, on a backend of choice.

Grouped queries (h a multiple of g) and every mask work on every backend. A row that may attend to
nothing gives exactly 0 in forward and backward. No dropout, no additive bias.
"""

import functools
import math
from collections.abc import Callable
from typing import Any, Literal

import torch
import torch.nn.functional as F
from einops import repeat
from jaxtyping import Float
from torch import Tensor
from torch.nn.attention.flex_attention import AuxRequest, BlockMask, flex_attention

from common.attention.masks import Mask
from common.attention.reference import reference_attention

Backend = Literal["auto", "reference", "sdpa", "flex"]

# On a GPU, a dense mask beyond this many entries (16 MiB) costs more than building a block mask.
LARGE_MASK_ENTRIES = 2**24


def attend(
    q: Float[Tensor, "b h s e"],
    k: Float[Tensor, "b g n e"],
    v: Float[Tensor, "b g n e"],
    *,
    mask: Mask | None = None,
    scale: float | None = None,
    backend: Backend = "auto",
) -> Float[Tensor, "b h s e"]:
    """Attention over the allowed keys; query head i reads key head i // (h / g).

    `scale` is 1/sqrt(e) when None. `auto` is `sdpa`, except on a GPU with a mask other than the
    plain lower triangle whose dense form b * s * n would exceed 2**24 entries: then `flex`.
    """
    if q.shape[1] % k.shape[1]:
        raise ValueError(
            f"{q.shape[1]} query heads are not a multiple of {k.shape[1]} key heads; "
            "grouped queries need equal groups"
        )
    scale = 1 / math.sqrt(q.shape[-1]) if scale is None else scale
    if k.shape[2] == 0:
        return _empty_sum(q, k, v)
    if backend == "auto":
        backend = _best_backend(q, k, mask)
    return _BACKENDS[backend](q, k, v, mask, scale)


def _best_backend(q: Tensor, k: Tensor, mask: Mask | None) -> Backend:
    if mask is None or mask.lower_triangle or q.device.type != "cuda":
        return "sdpa"
    entries = q.shape[0] * q.shape[2] * k.shape[2]
    return "flex" if entries > LARGE_MASK_ENTRIES else "sdpa"


def _empty_sum(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Zeros that keep q, k and v in the graph: every parameter still gets a (zero) gradient."""
    keys = repeat(k, "b g n e -> b (g r) n e", r=q.shape[1] // k.shape[1])
    values = repeat(v, "b g n e -> b (g r) n e", r=q.shape[1] // v.shape[1])
    return (q @ keys.mT) @ values


def _reference(q: Tensor, k: Tensor, v: Tensor, mask: Mask | None, scale: float) -> Tensor:
    allowed = None if mask is None else _dense(mask, q, k)
    return reference_attention(q, k, v, allowed=allowed, scale=scale)


def _sdpa(q: Tensor, k: Tensor, v: Tensor, mask: Mask | None, scale: float) -> Tensor:
    grouped = q.shape[1] != k.shape[1]
    if mask is None or mask.lower_triangle:
        return F.scaled_dot_product_attention(
            q, k, v, is_causal=mask is not None, scale=scale, enable_gqa=grouped
        )
    allowed = _dense(mask, q, k)
    sees_any = allowed.any(dim=-1, keepdim=True)
    # Kernels differ on empty rows; such a row attends to everything here and is then set to 0.
    attended = F.scaled_dot_product_attention(
        q, k, v, attn_mask=allowed | ~sees_any, scale=scale, enable_gqa=grouped
    )
    return torch.where(sees_any, attended, 0.0)


def _dense(mask: Mask, q: Tensor, k: Tensor) -> Tensor:
    return mask.dense(
        batch=q.shape[0], num_queries=q.shape[2], num_keys=k.shape[2], device=q.device
    )


def _flex(q: Tensor, k: Tensor, v: Tensor, mask: Mask | None, scale: float) -> Tensor:
    if q.device.type == "cpu":
        return _FlexOnCpu.apply(q, k, v, mask, scale)
    return _run_flex(q, k, v, mask, scale)


class _FlexOnCpu(torch.autograd.Function):
    """FlexAttention forward; its missing CPU backward is recomputed through `sdpa`."""

    @staticmethod
    def forward(  # noqa: PLR0917 -- autograd passes by position
        ctx: Any, q: Tensor, k: Tensor, v: Tensor, mask: Mask | None, scale: float
    ) -> Tensor:
        ctx.save_for_backward(q, k, v)
        ctx.mask, ctx.scale = mask, scale
        return _run_flex(q.detach(), k.detach(), v.detach(), mask, scale)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, Tensor, None, None]:
        q, k, v = (saved.detach().requires_grad_() for saved in ctx.saved_tensors)
        with torch.enable_grad():
            attended = _sdpa(q, k, v, ctx.mask, ctx.scale)
        grad_q, grad_k, grad_v = torch.autograd.grad(attended, (q, k, v), grad)
        return grad_q, grad_k, grad_v, None, None


def _run_flex(q: Tensor, k: Tensor, v: Tensor, mask: Mask | None, scale: float) -> Tensor:
    block_mask: BlockMask | None = None
    if mask is not None:
        block_mask = mask.block_mask(
            batch=q.shape[0], num_queries=q.shape[2], num_keys=k.shape[2], device=q.device
        )
    # Uncompiled, FlexAttention materialises the scores: right on a CPU, ruinous on a GPU.
    kernel: Any = flex_attention if q.device.type == "cpu" else _compiled_flex()
    attended, extra = kernel(
        q,
        k,
        v,
        block_mask=block_mask,
        scale=scale,
        enable_gqa=q.shape[1] != k.shape[1],
        return_aux=AuxRequest(lse=True),
    )
    sees_any = (extra.lse > -math.inf)[..., None]
    return torch.where(sees_any, attended, 0.0)


@functools.cache
def _compiled_flex() -> Callable[..., Any]:
    return torch.compile(flex_attention)


_BACKENDS: dict[Backend, Callable[[Tensor, Tensor, Tensor, Mask | None, float], Tensor]] = {
    "reference": _reference,
    "sdpa": _sdpa,
    "flex": _flex,
}
