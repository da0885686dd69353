"""Attention under a gated relative-position bias, the scores of a few queries at a time.

Keys are turned round first: then the bias of neighbouring queries is a view of the reversed table,
gate[q] * table'[q + k'], and is never built. On a CPU a piece of the scores is worked on in place
and made again in the backward pass; elsewhere fused attention takes every chunk with its bias.
"""

import math
from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from einops import repeat
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.utils.checkpoint import checkpoint

from common.attention.bias import GatedRelativeBias
from common.attention.masks import Mask, may_look

# Queries whose scores are held at once: of 1500 keys and 16 heads 24 MiB, on a CPU for one clip.
BIASED_QUERIES = 256


def attend_biased(
    q: Tensor, k: Tensor, v: Tensor, *, mask: Mask | None, bias: GatedRelativeBias, scale: float
) -> Tensor:
    """What `attend` promises, with a bias."""
    shared = q.shape[1] // k.shape[1]
    k, v = (repeat(x.flip(2), "b g n e -> b (g r) n e", r=shared) for x in (k, v))
    table = bias.table.flip(1)
    if may_look(q):
        return _InPieces.apply(q, k, v, table, bias.gate, mask, scale)
    return _in_chunks(q, k, v, table, bias.gate, mask=mask, scale=scale)


def _in_chunks(
    q: Tensor, k: Tensor, v: Tensor, table: Tensor, gate: Tensor, *, mask: Mask | None, scale: float
) -> Tensor:
    """Keys, values and table reversed; the backward pass computes a chunk again."""

    def attended(queries: slice) -> Tensor:
        added = gate[:, :, queries, None] * _windows(table, queries, num_keys=k.shape[2])
        sees_any = None
        if mask is not None:
            allowed = _allowed(mask, range(q.shape[0]), queries, k)[:, None]
            sees_any = allowed.any(dim=-1, keepdim=True)
            added = added.masked_fill(~allowed & sees_any, -math.inf)
        chunk = F.scaled_dot_product_attention(
            q[:, :, queries], k, v, attn_mask=added.to(q.dtype), scale=scale
        )
        return chunk if sees_any is None else torch.where(sees_any, chunk, 0.0)

    # Nothing in a chunk is random.
    chunks = [
        checkpoint(attended, queries, use_reentrant=False, preserve_rng_state=False)
        for queries in _slices(q.shape[2], BIASED_QUERIES)
    ]
    return torch.cat(chunks, dim=2)


class _InPieces(torch.autograd.Function):
    """Keys, values and table reversed; as many key heads as query heads."""

    @staticmethod
    def forward(ctx: Any, *inputs: Any) -> Tensor:
        """`inputs`: q, k, v, table, gate, mask, scale."""
        *tensors, mask, scale = inputs
        q, k, v, table, gate = _widened(tensors)
        attended = torch.empty_like(q)
        with torch.autocast("cpu", enabled=False):
            room = _room(q, k)
            for piece in _pieces(q):
                clip, queries = piece
                weights = _weights(room, (q, k, table, gate), piece, mask=mask, scale=scale)
                torch.bmm(weights, v[clip], out=attended[clip, :, queries])
        ctx.save_for_backward(*tensors, attended)
        ctx.mask, ctx.scale = mask, scale
        return attended.to(inputs[0].dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        *given, attended = ctx.saved_tensors
        q, k, v, table, gate, grad = _widened([*given, grad])
        grads = [torch.zeros_like(x) for x in (q, k, v, table, gate)]
        grad_q, grad_k, grad_v, grad_table, grad_gate = grads
        # The mean of a row's slopes, which softmax takes off them.
        mean = (grad * attended).sum(dim=-1, keepdim=True)
        with torch.autocast("cpu", enabled=False):
            room, more_room = _room(q, k), _room(q, k)
            for piece in _pieces(q):
                clip, queries = piece
                here = clip, slice(None), queries
                weights = _weights(room, (q, k, table, gate), piece, mask=ctx.mask, scale=ctx.scale)
                grad_v[clip].baddbmm_(weights.mT, grad[here])
                slopes = _product(grad[here], v[clip].mT, room=more_room)
                slopes.sub_(mean[here]).mul_(weights)
                torch.bmm(slopes, k[clip], out=grad_q[here])
                grad_k[clip].baddbmm_(slopes.mT, q[here])
                if ctx.needs_input_grad[3] or ctx.needs_input_grad[4]:
                    shifted = _shifted(slopes)
                    window = slice(queries.start, queries.start + shifted.shape[2])
                    grad_gate[here] = torch.bmm(shifted, table[:, window, None])[..., 0]
                    grad_table[:, window] += torch.bmm(gate[here][:, None], shifted)[:, 0]
        grad_q.mul_(ctx.scale)
        grad_k.mul_(ctx.scale)
        grads = [x.to(y.dtype) for x, y in zip(grads, given, strict=True)]
        return *grads, None, None


def _widened(tensors: list[Tensor]) -> list[Tensor]:
    """At least single precision."""
    return [x.detach().to(torch.promote_types(x.dtype, torch.float32)) for x in tensors]


def _pieces(q: Tensor) -> Iterator[tuple[int, slice]]:
    for clip in range(q.shape[0]):
        for queries in _slices(q.shape[2], BIASED_QUERIES):
            yield clip, queries


def _slices(length: int, size: int) -> Iterator[slice]:
    for start in range(0, length, size):
        yield slice(start, min(start + size, length))


def _room(q: Tensor, k: Tensor) -> Tensor:
    """Memory for the scores of a piece; taken anew for each it would cost as much as the work."""
    return q.new_empty(q.shape[1] * min(BIASED_QUERIES, q.shape[2]) * k.shape[2])


def _product(left: Tensor, right: Tensor, *, room: Tensor) -> Tensor:
    shape = *left.shape[:2], right.shape[2]
    return torch.bmm(left, right, out=room[: math.prod(shape)].view(shape))


def _weights(
    room: Tensor,
    inputs: tuple[Tensor, Tensor, Tensor, Tensor],
    piece: tuple[int, slice],
    *,
    mask: Mask | None,
    scale: float,
) -> Tensor:
    """Attention weights (heads, queries, keys) of a piece; 0 in rows that may attend to nothing.

    `inputs`: q, k, table, gate.
    """
    (q, k, table, gate), (clip, queries) = inputs, piece
    scores = _product(q[clip, :, queries] * scale, k[clip].mT, room=room)
    windows = _windows(table, queries, num_keys=k.shape[2])
    scores.addcmul_(gate[clip, :, queries, None], windows)
    if mask is None:
        return torch.softmax(scores, dim=-1, out=scores)
    allowed = _allowed(mask, range(clip, clip + 1), queries, k)
    if allowed.all():
        return torch.softmax(scores, dim=-1, out=scores)
    scores.masked_fill_(~allowed, -math.inf)
    torch.softmax(scores, dim=-1, out=scores)
    return scores.masked_fill_(~allowed.any(dim=-1, keepdim=True), 0.0)


def _windows(table: Tensor, queries: slice, *, num_keys: int) -> Tensor:
    """Row q of (h q n) is table[q : q + n]: a view."""
    return table[:, queries.start : queries.stop + num_keys - 1].unfold(1, num_keys, 1)


def _allowed(mask: Mask, rows: range, queries: slice, k: Tensor) -> Tensor:
    """The rule for some rows and queries and all keys, reversed; (b q n), or 1 where it is free."""
    row = torch.arange(rows.start, rows.stop, device=k.device)[:, None, None]
    query = torch.arange(queries.start, queries.stop, device=k.device)[None, :, None]
    return mask.rule(row, query, torch.arange(k.shape[2] - 1, -1, -1, device=k.device))


def _shifted(x: Tensor) -> Tensor:
    """Row i moves i places to the right: `ab cd` becomes `ab0 0cd`. (h q n) -> (h q n+q-1)"""
    num_heads, num_rows, num_columns = x.shape
    padded = F.pad(x, (0, num_rows)).flatten(1)[:, :-num_rows]
    return padded.view(num_heads, num_rows, num_columns + num_rows - 1)
