"""The one attention call: softmax(q k^T * scale) v under a mask, on a backend of choice.

Grouped queries (h a multiple of g), every mask and a relative-position bias work on every backend.
A row that may attend to nothing gives exactly 0 in forward and backward. No dropout.
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

from common.attention.bias import GatedRelativeBias
from common.attention.biased import attend_biased
from common.attention.masks import Mask, may_look
from common.attention.reference import reference_attention

Backend = Literal["auto", "reference", "sdpa", "flex"]

# On a GPU, a dense mask beyond this many entries (16 MiB) costs more than building a block mask.
LARGE_MASK_ENTRIES = 2**24
# On a CPU, queries whose mask is held at once.
CHUNK_QUERIES = 256


def attend(
    q: Float[Tensor, "b h s e"],
    k: Float[Tensor, "b g n e"],
    v: Float[Tensor, "b g n e"],
    *,
    mask: Mask | None = None,
    bias: GatedRelativeBias | None = None,
    scale: float | None = None,
    backend: Backend = "auto",
) -> Float[Tensor, "b h s e"]:
    """Attention over the allowed keys; query head i reads key head i // (h / g).

    `scale` is 1/sqrt(e) when None. `auto` is `sdpa`, except on a GPU with a mask other than the
    plain lower triangle whose dense form b * s * n would exceed 2**24 entries: then `flex`. With a
    bias the dense form is b * h * s * n, and `sdpa` stays where the bias needs a gradient: that of
    `flex` sums by atomic additions, each time in another order.
    """
    if q.shape[1] % k.shape[1]:
        raise ValueError(
            f"{q.shape[1]} query heads are not a multiple of {k.shape[1]} key heads; "
            "grouped queries need equal groups"
        )
    if bias is not None and bias.num_keys != k.shape[2]:
        raise ValueError(f"the bias is for {bias.num_keys} keys, not for {k.shape[2]}")
    scale = 1 / math.sqrt(q.shape[-1]) if scale is None else scale
    if k.shape[2] == 0:
        return _empty_sum(q, k, v)
    if backend == "auto":
        backend = _best_backend(q, k, mask, bias)
    return _BACKENDS[backend](q, k, v, mask=mask, bias=bias, scale=scale)


def _best_backend(
    q: Tensor, k: Tensor, mask: Mask | None, bias: GatedRelativeBias | None
) -> Backend:
    if q.device.type != "cuda":
        return "sdpa"
    entries = q.shape[0] * q.shape[2] * k.shape[2]
    if bias is not None:
        entries *= q.shape[1]
        with_gradient = torch.is_grad_enabled() and bias.needs_gradient
        return "sdpa" if with_gradient or entries <= LARGE_MASK_ENTRIES else "flex"
    if mask is None or mask.lower_triangle:
        return "sdpa"
    return "flex" if entries > LARGE_MASK_ENTRIES else "sdpa"


def _empty_sum(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Zeros that keep q, k and v in the graph: every parameter still gets a (zero) gradient."""
    keys = repeat(k, "b g n e -> b (g r) n e", r=q.shape[1] // k.shape[1])
    values = repeat(v, "b g n e -> b (g r) n e", r=q.shape[1] // v.shape[1])
    return (q @ keys.mT) @ values


def _reference(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    mask: Mask | None,
    bias: GatedRelativeBias | None,
    scale: float,
) -> Tensor:
    allowed = None if mask is None else _dense(mask, q, k)
    added = None if bias is None else bias.dense()
    # Its single precision is meant, also under autocast.
    with torch.autocast(q.device.type, enabled=False):
        return reference_attention(q, k, v, allowed=allowed, bias=added, scale=scale)


def _sdpa(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    mask: Mask | None,
    bias: GatedRelativeBias | None,
    scale: float,
) -> Tensor:
    if bias is not None:
        return attend_biased(q, k, v, mask=mask, bias=bias, scale=scale)
    if mask is None or mask.lower_triangle:
        grouped = q.shape[1] != k.shape[1]
        return F.scaled_dot_product_attention(
            q, k, v, is_causal=mask is not None, scale=scale, enable_gqa=grouped
        )
    if may_look(q) and q.shape[2] > CHUNK_QUERIES:
        return _sdpa_in_chunks(q, k, v, mask=mask, scale=scale)
    return _sdpa_under(_dense(mask, q, k), q, k, v, scale=scale)


def _sdpa_in_chunks(q: Tensor, k: Tensor, v: Tensor, *, mask: Mask, scale: float) -> Tensor:
    """A chunk of queries with the keys from the first to the last that any of them sees.

    Of a row of packed documents most keys are left out; looking is free on a CPU.
    """
    chunks = []
    for start in range(0, q.shape[2], CHUNK_QUERIES):
        queries = q[:, :, start : start + CHUNK_QUERIES]
        allowed = _dense(mask.after(start), queries, k)
        seen = allowed.flatten(0, 2).any(dim=0).nonzero()[:, 0].tolist() or [0]
        keys = slice(seen[0], seen[-1] + 1)
        parts = queries, k[:, :, keys], v[:, :, keys]
        chunks.append(_sdpa_under(allowed[..., keys], *parts, scale=scale))
    return torch.cat(chunks, dim=2)


def _sdpa_under(allowed: Tensor, q: Tensor, k: Tensor, v: Tensor, *, scale: float) -> Tensor:
    sees_any = allowed.any(dim=-1, keepdim=True)
    # Kernels differ on empty rows; such a row attends to everything here and is then set to 0.
    given, grouped = allowed | ~sees_any, q.shape[1] != k.shape[1]
    attended = F.scaled_dot_product_attention(
        q, k, v, attn_mask=given, scale=scale, enable_gqa=grouped
    )
    if may_look(q) and sees_any.all():
        return attended
    return torch.where(sees_any, attended, 0.0)


def _dense(mask: Mask, q: Tensor, k: Tensor) -> Tensor:
    return mask.dense(
        batch=q.shape[0], num_queries=q.shape[2], num_keys=k.shape[2], device=q.device
    )


def _flex(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    mask: Mask | None,
    bias: GatedRelativeBias | None,
    scale: float,
) -> Tensor:
    if q.device.type == "cpu":
        parts = (None, None) if bias is None else (bias.table, bias.gate)
        return _FlexOnCpu.apply(q, k, v, *parts, mask, scale)
    return _run_flex(q, k, v, mask=mask, bias=bias, scale=scale)


class _FlexOnCpu(torch.autograd.Function):
    """FlexAttention forward; its missing CPU backward is recomputed through `sdpa`."""

    @staticmethod
    def forward(ctx: Any, *inputs: Any) -> Tensor:
        """`inputs`: q, k, v, the bias's table and gate or None twice, mask, scale."""
        *tensors, mask, scale = inputs
        ctx.save_for_backward(*tensors)
        ctx.mask, ctx.scale = mask, scale
        detached: list[Any] = [None if x is None else x.detach() for x in tensors]
        q, k, v, *parts = detached
        return _run_flex(q, k, v, mask=mask, bias=_bias(*parts), scale=scale)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        tensors: list[Any] = [
            None if x is None else x.detach().requires_grad_() for x in ctx.saved_tensors
        ]
        q, k, v, *parts = tensors
        with torch.enable_grad():
            attended = _sdpa(q, k, v, mask=ctx.mask, bias=_bias(*parts), scale=ctx.scale)
        given = [x for x in tensors if x is not None]
        gradients = iter(torch.autograd.grad(attended, given, grad))
        return *(None if x is None else next(gradients) for x in tensors), None, None


def _bias(table: Tensor | None, gate: Tensor | None) -> GatedRelativeBias | None:
    return None if table is None or gate is None else GatedRelativeBias(table, gate)


def _run_flex(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    mask: Mask | None,
    bias: GatedRelativeBias | None,
    scale: float,
) -> Tensor:
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
        score_mod=None if bias is None else _adding(bias),
        block_mask=block_mask,
        scale=scale,
        enable_gqa=q.shape[1] != k.shape[1],
        return_aux=AuxRequest(lse=True),
    )
    sees_any = (extra.lse > -math.inf)[..., None]
    return torch.where(sees_any, attended, 0.0)


def _adding(bias: GatedRelativeBias) -> Callable[..., Tensor]:
    table, gate, last = bias.table, bias.gate, bias.num_keys - 1
    # A lambda, as in masks: FlexAttention traces it, and cannot trace run-time type checks.
    return lambda score, b, h, q, k: score + gate[b, h, q] * table[h, k - q + last]


@functools.cache
def _compiled_flex() -> Callable[..., Any]:
    return torch.compile(flex_attention)


_BACKENDS: dict[Backend, Callable[..., Tensor]] = {
    "reference": _reference,
    "sdpa": _sdpa,
    "flex": _flex,
}
