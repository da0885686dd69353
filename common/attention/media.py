"""Attention of text to media items: to a token's own item only, or to all items up to it.

Own-item attention costs O(text x latents per item) whatever the number of items: the tokens are
sorted by item, cut into tiles of one item each, and every tile meets only its item's latents in
one unmasked call. On an accelerator shapes depend on sizes alone: nothing waits for the device and
nothing recompiles. A CPU reads the map for free: there every run of tokens of one item is a call
of its own, and where rows are tiny one masked call does. Items are numbered from 1; 0 means "sees
no media" and gives exactly 0.
"""

from dataclasses import dataclass
from typing import Any

import torch
from einops import rearrange
from jaxtyping import Float, Int
from torch import Tensor

from common.attention.attend import CHUNK_QUERIES, Backend, attend
from common.attention.masks import may_look, media_span

# Multiplications of a row with one item's latents that cost a CPU less than a call of their own.
TINY_ROW = 2**19


def attend_own_media(
    q: Float[Tensor, "b h s e"],
    k: Float[Tensor, "b m g n e"],
    v: Float[Tensor, "b m g n e"],
    *,
    item: Int[Tensor, "b s"],
    backend: Backend = "auto",
) -> Float[Tensor, "b h s e"]:
    """Each token attends to the latents of its own item.

    <image> a b <image> c  has item = 1 1 1 2 2. Any map of tokens to items is allowed; changing
    one item, or a token bound to it, changes no bit of what tokens of other items receive.
    """
    num_items = k.shape[1]
    torch._assert_async(
        ((item >= 0) & (item <= num_items)).all(),
        f"a text token refers to a media item outside 0..{num_items}",
    )
    if num_items == 0:
        return attend(q, _flatten_items(k), _flatten_items(v), backend=backend)
    if num_items > 1 and item.shape[1] > 1:
        if not may_look(item):
            return _attend_in_tiles(q, k, v, item=item, backend=backend)
        if _is_tiny(q, k):
            return attend_previous_media(q, k, v, first=item, last=item, backend=backend)
        return _attend_in_runs(q, k, v, item=item, backend=backend)
    # One item, or one token per row (decoding): nothing to sort.
    attended = attend(q, _own_of_row(k, item), _own_of_row(v, item), backend=backend)
    return torch.where((item > 0)[:, None, :, None], attended, 0.0)


def attend_previous_media(
    q: Float[Tensor, "b h s e"],
    k: Float[Tensor, "b m g n e"],
    v: Float[Tensor, "b m g n e"],
    *,
    first: Int[Tensor, "b s"],
    last: Int[Tensor, "b s"],
    backend: Backend = "auto",
) -> Float[Tensor, "b h s e"]:
    """Each token attends to the latents of all items first..last (last = 0: to none).

    Packed documents give each token the first item of its own document.
    """
    mask = media_span(first, last, tokens_per_item=k.shape[3])
    return attend(q, _flatten_items(k), _flatten_items(v), mask=mask, backend=backend)


def _flatten_items(x: Tensor) -> Tensor:
    return rearrange(x, "b m g n e -> b g (m n) e")


def _own_of_row(x: Float[Tensor, "b m g n e"], item: Int[Tensor, "b s"]) -> Tensor:
    """The latents of the one item that a row can mean; any for a row without media."""
    if x.shape[1] == 1:
        return x[:, 0]
    rows = torch.arange(item.shape[0], device=item.device)
    return x[rows, (item[:, 0] - 1).clamp(min=0)]


def _is_tiny(q: Float[Tensor, "b h s e"], k: Float[Tensor, "b m g n e"]) -> bool:
    # Longer rows meet a mask in chunks, whose keys depend on what other items' tokens see.
    return q.shape[2] <= CHUNK_QUERIES and q[0].numel() * k.shape[3] <= TINY_ROW


def _attend_in_runs(q: Tensor, k: Tensor, v: Tensor, *, item: Tensor, backend: Backend) -> Tensor:
    """A call for every run of tokens that see the same item: nothing is copied, padded or sorted.

    item = 1 1 2 0 0 1: runs of 2, 1, 2 and 1 tokens. Where a run ends depends on its own item's
    tokens alone, so other items change none of its bits.
    """
    of_row = torch.arange(item.shape[0])[:, None] * k.shape[1]
    items, lengths = (
        torch.where(item > 0, of_row + item, 0).flatten().unique_consecutive(return_counts=True)
    )
    runs = rearrange(q, "b h s e -> 1 (b s) h e").split(lengths.tolist(), dim=1)
    # In front an item without latents, the 0 of tokens that see none.
    keys, values = ((x[0, :1, :, :0], *x.flatten(0, 1)[:, None]) for x in (k, v))
    attended = [
        attend(run.transpose(1, 2), keys[number], values[number], backend=backend).transpose(1, 2)
        for run, number in zip(runs, items.tolist(), strict=True)
    ]
    return rearrange(torch.cat(attended, dim=1), "1 (b s) h e -> b h s e", b=len(item))


def _attend_in_tiles(q: Tensor, k: Tensor, v: Tensor, *, item: Tensor, backend: Backend) -> Tensor:
    tiles = _cut_into_tiles(item, num_items=k.shape[1])
    to_slots = (tiles.token_of_slot, tiles.slot_of_token)
    tokens = rearrange(q, "b h s e -> (b s) h e")
    slots = _Regroup.apply(tokens, *to_slots)
    queries = rearrange(slots, "(r t) h e -> r h t e", t=tiles.size)
    keys = _latents_of_tiles(k, tiles.item_of_tile)
    values = _latents_of_tiles(v, tiles.item_of_tile)

    attended = attend(queries, keys, values, backend=backend)
    slots = rearrange(attended, "r h t e -> (r t) h e")
    tokens = _Regroup.apply(slots, *reversed(to_slots))
    return rearrange(tokens, "(b s) h e -> b h s e", b=q.shape[0])


def _latents_of_tiles(x: Float[Tensor, "b m g n e"], item_of_tile: Int[Tensor, " r"]) -> Tensor:
    # Heads inside, as projections and kernels lay them out: the gradient's additions stay dense.
    items = rearrange(x, "b m g n e -> (b m) n g e")
    return rearrange(items.index_select(0, item_of_tile), "r n g e -> r g n e")


class _Regroup(torch.autograd.Function):
    """y[i] = x[source[i]], and 0 where source[i] = -1, for a one-to-one `source`.

    Because `target` is its inverse, the gradient is a gather too: no atomic additions.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, source: Tensor, target: Tensor) -> Tensor:
        ctx.save_for_backward(source, target)
        return x.index_select(0, source.clamp(min=0)).masked_fill_((source < 0)[:, None, None], 0)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        source, target = ctx.saved_tensors
        return _Regroup.apply(grad, target, source), None, None


@dataclass(frozen=True)
class _Tiles:
    """Tokens sorted by item and cut into tiles of one item each, the last tile of an item padded.

    Tile size 2, item = 1 2 1 1 0: slots hold tokens 0 2 | 3 - | 1 -.
    """

    size: int
    item_of_tile: Int[Tensor, " r"]  # number of the item among all items of the batch, from 0
    token_of_slot: Int[Tensor, " rt"]  # number of the token among all of the batch; -1: padding
    slot_of_token: Int[Tensor, " bs"]  # -1: the token sees no media


def _cut_into_tiles(item: Int[Tensor, "b s"], *, num_items: int) -> _Tiles:
    device, num_tokens, num_segments = item.device, item.numel(), item.shape[0] * num_items
    size = _tile_size(item.shape[1], num_items=num_items)

    # A segment is one item of one row; tokens without media form one more, behind the others.
    first_segment = torch.arange(item.shape[0], device=device)[:, None] * num_items
    segment = torch.where(item > 0, first_segment + item - 1, num_segments).flatten()
    sorted_segment, order = segment.sort(stable=True)
    start = torch.searchsorted(sorted_segment, torch.arange(num_segments + 1, device=device))
    tiles_of_segment = (start.diff() + size - 1) // size
    tile_end = tiles_of_segment.cumsum(0)
    num_tiles = _most_tiles(num_tokens=num_tokens, num_segments=len(tile_end), size=size)

    tiles = torch.arange(num_tiles, device=device)
    item_of_tile = torch.searchsorted(tile_end, tiles, right=True).clamp(max=num_segments - 1)

    # The last entry, of tokens without media, is never used.
    first_slot = torch.cat([tile_end - tiles_of_segment, tile_end[-1:]]) * size
    rank = torch.arange(num_tokens, device=device) - start[sorted_segment]
    slot = first_slot[sorted_segment] + rank
    has_slot = sorted_segment < num_segments
    beyond = num_tiles * size
    token_of_slot = order.new_full((beyond + 1,), -1)
    token_of_slot = token_of_slot.scatter(0, slot.where(has_slot, beyond), order)[:beyond]
    slot_of_token = torch.empty_like(order).scatter(0, order, slot.where(has_slot, -1))
    return _Tiles(
        size=size,
        item_of_tile=item_of_tile,
        token_of_slot=token_of_slot,
        slot_of_token=slot_of_token,
    )


def _tile_size(length: int, *, num_items: int) -> int:
    """Tokens that share one copy of an item's latents: smaller copies more, larger pads more.

    Depends on sizes alone: where the tokens of other items stand must change no bit. The steps
    are measured, for even segments and for one long segment among short ones.
    """
    average_segment = length // num_items
    if average_segment < 64:
        size = 32
    elif average_segment < 256:
        size = 64
    else:
        size = 128 if average_segment < 512 else 256
    return min(size, length)


def _most_tiles(*, num_tokens: int, num_segments: int, size: int) -> int:
    """Sum of ceil(count / size) over k non-empty segments is at most (tokens - k) / size + k."""
    non_empty = min(num_segments, num_tokens)
    return (num_tokens - non_empty) // size + non_empty
