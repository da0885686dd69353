"""The media state of a generation: per-layer media keys and values, and image tags seen so far.

Keys and values of an item are computed once, when the item arrives, and serve every later token.
The cache is an argument of forward and generate, never an attribute of a layer.

Item number i of a row (from 1) is always at slot i - 1 of that row, also when rows hold different
numbers of items and more arrive in a later turn. Two rows, A with items a1 a2 and B with b1:

    cache.update(0, k, v, counts=[2, 1])   ->  A: a1 a2      B: b1 --
    later turn, one new item each (a3, b2), counts=[1, 1]
    cache.update(0, k, v, counts=[1, 1])   ->  A: a1 a2 a3   B: b1 b2 --

Slots beyond a row's count hold zeros and are addressed by no token.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformers.cache_utils import Cache


@dataclass(frozen=True)
class _LayerMedia:
    keys: Float[Tensor, "b m h n e"]
    values: Float[Tensor, "b m h n e"]
    counts: Int[Tensor, " b"]  # items that each row really holds

    def append(self, k: Tensor, v: Tensor, counts: Tensor) -> _LayerMedia:
        return _LayerMedia(
            keys=_append_per_row(self.keys, k, self.counts),
            values=_append_per_row(self.values, v, self.counts),
            counts=self.counts + counts,
        )

    def of_rows(self, rows: Int[Tensor, " n"]) -> _LayerMedia:
        return _LayerMedia(keys=self.keys[rows], values=self.values[rows], counts=self.counts[rows])


class MediaCache:
    """Media keys and values of all layers; empty at first, filled by `update` layer by layer."""

    def __init__(self) -> None:
        self._layers: dict[int, _LayerMedia] = {}
        # Number of <image> tags of each row so far, from which later tokens are numbered.
        self.items_so_far: Int[Tensor, " b"] | None = None

    @property
    def num_items(self) -> int:
        """Slots along m, the width of what `get` returns; 0 when empty."""
        return max((layer.keys.shape[1] for layer in self._layers.values()), default=0)

    def get(self, layer: int) -> tuple[Float[Tensor, "b m h n e"], Float[Tensor, "b m h n e"]]:
        if layer not in self._layers:
            raise KeyError(f"no media cached for layer {layer}; call update(layer, k, v) first")
        return self._layers[layer].keys, self._layers[layer].values

    def update(
        self,
        layer: int,
        k: Float[Tensor, "b i h n e"],
        v: Float[Tensor, "b i h n e"],
        *,
        counts: Int[Tensor, " b"] | None = None,
    ) -> tuple[Float[Tensor, "b m h n e"], Float[Tensor, "b m h n e"]]:
        """Appends new items to one layer and returns all of them.

        `counts` says how many of the new items of each row are real (the first ones); None: all.
        """
        batch, new_items = k.shape[:2]
        if counts is None:
            counts = torch.full((batch,), new_items, device=k.device)
        if layer not in self._layers:
            none_yet = torch.zeros_like(counts)
            self._layers[layer] = _LayerMedia(k[:, :0], v[:, :0], none_yet)
        self._layers[layer] = self._layers[layer].append(*_without_padding(k, v, counts), counts)
        return self.get(layer)

    def advance(self, new_counts: Int[Tensor, " b"]) -> None:
        """Adds the <image> tags of newly read text to `items_so_far`."""
        if self.items_so_far is not None:
            self.items_so_far.add_(new_counts)  # in place: compiled code finds it where it was
            return
        self.items_so_far = new_counts
        if not torch.compiler.is_compiling():
            torch._dynamo.mark_static_address(new_counts)  # as transformers' static cache does

    def of_rows(self, rows: Int[Tensor, " n"]) -> MediaCache:
        """A new cache with copies of some rows: of a b the rows 0 0 1 are a a b."""
        chosen = MediaCache()
        chosen._layers = {number: layer.of_rows(rows) for number, layer in self._layers.items()}
        if self.items_so_far is not None:
            chosen.items_so_far = self.items_so_far[rows]
        return chosen


def rows_of_cache(cache: Cache, rows: Int[Tensor, " n"]) -> Cache:
    """A cache of text with copies of some rows; the given one stays as it is."""
    chosen = copy.copy(cache)
    chosen.layers = [copy.copy(layer) for layer in cache.layers]
    chosen.batch_select_indices(rows)  # puts new tensors into the layers' copies
    return chosen


def _without_padding(k: Tensor, v: Tensor, counts: Tensor) -> tuple[Tensor, Tensor]:
    """New items with everything beyond a row's count set to zero."""
    is_real = torch.arange(k.shape[1], device=k.device) < counts[:, None]
    is_real = is_real[:, :, None, None, None]
    return torch.where(is_real, k, 0.0), torch.where(is_real, v, 0.0)


def _append_per_row(
    held: Float[Tensor, "b m h n e"], new: Float[Tensor, "b i h n e"], counts: Int[Tensor, " b"]
) -> Float[Tensor, "b mi h n e"]:
    """New items behind each row's own count, not behind the widest row's."""
    batch, num_new = new.shape[:2]
    wider = torch.cat([held, torch.zeros_like(new)], dim=1)
    rows = torch.arange(batch, device=new.device)[:, None]
    slots = counts[:, None] + torch.arange(num_new, device=new.device)
    return wider.index_put((rows, slots), new)
