"""A model as planning sees it: towers over media, and the layers that a pipeline may cut.

A unit is a piece that runs, is gathered and is recomputed as one. The model's own package says what
its units are (`<model>/footprint.py`); nothing here knows a model.
"""

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cache
from typing import NamedTuple

import torch
from torch import nn

from common.parallel.plan.counting import Call, Cost, Kernels, count
from common.parallel.recompute import Recompute

COMPUTED_IN = {"bf16": torch.bfloat16, "fp32": torch.float32}  # by a run's precision


class Weight(NamedTuple):
    """One parameter."""

    shape: tuple[int, ...]
    itemsize: int  # as stored
    trained: bool

    @property
    def numel(self) -> int:
        """Numbers of the whole."""
        return math.prod(self.shape)

    def held(self, ranks: int) -> int:
        """Numbers on the first of so many ranks: shards are whole rows."""
        return math.ceil(self.shape[0] / ranks) * math.prod(self.shape[1:])


@dataclass(frozen=True, kw_only=True, eq=False)
class Unit:
    """A piece of a model; `prepare` makes its call for a number of rows, images or clips."""

    name: str
    prepare: Callable[[int], Call]
    weights: tuple[Weight, ...]

    @property
    def parameters(self) -> int:
        """Numbers of all weights."""
        return sum(weight.numel for weight in self.weights)

    @property
    def trained(self) -> int:
        """Those that get a gradient."""
        return sum(weight.numel for weight in self.weights if weight.trained)


def weights_of(*modules: nn.Module) -> tuple[Weight, ...]:
    """Every parameter of the modules once."""
    return weights_among(p for module in modules for p in module.parameters())


def largest_of(whole: Unit, blocks: Iterable[nn.Module]) -> int:
    """Parameters of the largest block, or of what lies outside of blocks."""
    sizes = [sum(p.numel() for p in block.parameters()) for block in blocks]
    return max(whole.parameters - sum(sizes), *sizes)


def weights_among(parameters: Iterable[nn.Parameter]) -> tuple[Weight, ...]:
    """Every parameter once."""
    return tuple(
        Weight(tuple(p.shape), p.itemsize, p.requires_grad)
        for p in {id(p): p for p in parameters}.values()
    )


@dataclass(frozen=True, kw_only=True, eq=False)
class Tower:
    """An encoder or a projector: every rank runs all of it on media of its own.

    `whole` is the tower as it is counted, with only `shown` of its `depth` equal blocks; its
    parameters are those of the full tower.
    """

    whole: Unit
    items_per_row: float
    largest_unit: int  # parameters that are gathered at once
    block: Unit | None = None
    shown: int = 0
    depth: int = 0

    @property
    def name(self) -> str:
        """Of the component."""
        return self.whole.name


@dataclass(frozen=True, kw_only=True)
class Footprint:
    """A model and what an update feeds it."""

    name: str
    itemsize: int  # bytes of a number that is computed with
    rows: int  # of an update
    tokens_per_row: int
    num_sources: int = 1  # that these rows come from, each in micro-batches of its own
    towers: tuple[Tower, ...]
    # In order, each with what belongs into its stage; none: a model of towers alone.
    layers: tuple[tuple[Unit, ...], ...] = ()
    embedding: Unit | None = None
    head: Unit | None = None  # final norm, output layer and loss
    # Bytes of whole weights, as stored, that are there as long as any work is done.
    root_bytes: int = 0
    hidden_dim: int = 0  # of what travels between stages
    caption_share: float = 0.0  # rows of captions beside the rows of documents
    pairs_per_row: float = 0.0  # of the contrast
    pair_dim: int = 0

    @property
    def parameters(self) -> int:
        """All of them."""
        return sum(unit.parameters for unit in self._owners)

    @property
    def trained(self) -> int:
        """Those that get a gradient."""
        return sum(unit.trained for unit in self._owners)

    def caption_rows(self, rows: int) -> int:
        """Rows that the captions of so many rows of documents fill, the last one with padding."""
        return math.ceil(rows * self.caption_share)

    @property
    def _owners(self) -> list[Unit]:
        ends = [unit for unit in (self.embedding, self.head) if unit is not None]
        inside = [unit for layer in self.layers for unit in layer]
        return [tower.whole for tower in self.towers] + ends + inside


@cache
def cost_of(unit: Unit, items: int, recompute: Recompute, kernels: Kernels = "gpu") -> Cost:
    """Counted once for each number of items."""
    return count(lambda: unit.prepare(items), recompute, kernels)


def cost_of_tower(tower: Tower, items: int, recompute: Recompute, kernels: Kernels = "gpu") -> Cost:
    """The counted tower, its one block exchanged for all of them."""
    whole = cost_of(tower.whole, items, "none", kernels)
    if tower.block is None:
        return whole
    plain = cost_of(tower.block, items, "none", kernels)
    block = cost_of(tower.block, items, recompute, kernels)
    kept_outside = whole.kept_bytes - tower.shown * plain.kept_bytes
    kept = kept_outside + tower.depth * block.kept_bytes
    more = tower.depth - tower.shown
    return Cost(
        forward_flops=whole.forward_flops + more * plain.forward_flops,
        backward_flops=whole.backward_flops + more * plain.backward_flops,
        repeated_flops=tower.depth * block.repeated_flops,
        kept_bytes=kept,
        peak_bytes=kept + block.peak_bytes - block.kept_bytes,
    )
