"""A model as planning sees it: towers over media, and the layers that a pipeline may cut.

A unit is a piece that runs, is gathered and is recomputed as one. The model's own package says what
its units are (`<model>/footprint.py`); nothing here knows a model.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

from common.parallel.plan.counting import Call, Cost, Kernels, Recompute, count


@dataclass(frozen=True, kw_only=True, eq=False)
class Unit:
    """A piece of a model; `prepare` makes its call for a number of rows, images or clips."""

    name: str
    prepare: Callable[[int], Call]
    parameters: int
    trained: int

    @property
    def frozen(self) -> int:
        """Parameters that get no gradient."""
        return self.parameters - self.trained


@dataclass(frozen=True, kw_only=True, eq=False)
class Tower:
    """An encoder or a projector: every rank runs all of it on media of its own.

    `whole` is the tower as it is counted, with only `shown` of its `depth` equal blocks; its
    parameters are those of the full tower.
    """

    whole: Unit
    items_per_row: float
    block: Unit | None = None
    shown: int = 0
    depth: int = 0
    recomputes: bool = True  # whether the model's code can recompute its blocks

    @property
    def name(self) -> str:
        """Of the component."""
        return self.whole.name

    @property
    def largest_unit(self) -> int:
        """Parameters that are gathered at once."""
        if self.block is None:
            return self.whole.parameters
        outside = self.whole.parameters - self.depth * self.block.parameters
        return max(self.block.parameters, outside)


@dataclass(frozen=True, kw_only=True)
class Footprint:
    """A model and what an update feeds it."""

    name: str
    rows: int  # of an update
    tokens_per_row: int
    towers: tuple[Tower, ...]
    # In order, each with what belongs into its stage; none: a model of towers alone.
    layers: tuple[tuple[Unit, ...], ...] = ()
    embedding: Unit | None = None
    head: Unit | None = None  # final norm, output layer and loss
    hidden_dim: int = 0  # of what travels between stages
    media_tokens_per_row: float = 0.0  # soft tokens that towers hand to the layers
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

    @property
    def rows_through_layers(self) -> float:
        """For each row of documents, its captions included."""
        return 1 + self.caption_share

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
    block = cost_of(tower.block, items, recompute if tower.recomputes else "none", kernels)
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
