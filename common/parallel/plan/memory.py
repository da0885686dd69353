"""Memory of a rank by kind, for every stage of the pipeline.

Weights, gradients and Adam's moments are stored as shards, as the model is built, and computed with
in bf16; figures are of the first rank of each stage, whose shards are the largest. A pipeline cuts
the layers; towers, embedding and head are shards over all its ranks. Towers run before and after
the pipeline, so of their activations and the layers' the larger counts; without a pipeline both
belong to one graph. Under 1F1B stage k of p holds p - k micro-batches.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from common.parallel.plan.cluster import GIB, Layout
from common.parallel.plan.footprint import Footprint, Tower, Unit, cost_of, cost_of_tower
from common.parallel.plan.storages import REDUCED

# CUDA's context, NCCL's buffers, kernels' workspaces and what fragmentation leaves unused.
RESERVED_BYTES = 4 * GIB
LAYER_ACTIVATIONS, TOWER_ACTIVATIONS = "activations of layers", "activations of towers"
LOSS, WORKSPACE = "logits and loss", "workspace of a block"


@dataclass(frozen=True, kw_only=True)
class StageMemory:
    """Bytes of one rank of a stage, by kind."""

    stage: int
    layers: range
    kinds: dict[str, float]
    capacity: float
    exclusive: bool  # layers and towers are never active together

    @property
    def at_the_peak(self) -> dict[str, float]:
        """The kinds at the moment when most is held: the loss is gone when blocks go backward."""
        idle = self._smaller([LOSS], [WORKSPACE, REDUCED])
        if self.exclusive:
            idle = [*idle, *self._smaller([LAYER_ACTIVATIONS], [TOWER_ACTIVATIONS])]
        return self.kinds | dict.fromkeys(idle, 0.0)

    def _smaller(self, *groups: list[str]) -> list[str]:
        return min(groups, key=lambda group: sum(self.kinds[kind] for kind in group))

    @property
    def total(self) -> float:
        """The most at any moment."""
        return sum(self.at_the_peak.values())

    @property
    def excess(self) -> float:
        """Bytes too many; negative where it fits."""
        return self.total - self.capacity

    @property
    def largest_kind(self) -> str:
        """What to look at first."""
        return max(self.kinds, key=lambda kind: self.kinds[kind])


def memory_of_stages(
    footprint: Footprint, layout: Layout, stages: Sequence[range]
) -> list[StageMemory]:
    """One for each stage; a model without layers has one stage of towers."""
    return [
        _memory(footprint, layout, stage, layers, len(stages))
        for stage, layers in enumerate(stages)
    ]


def units_of_stage(footprint: Footprint, layers: range) -> list[Unit]:
    """What a stage owns."""
    return [unit for layer in layers for unit in footprint.layers[layer]]


def units_of_all(footprint: Footprint) -> list[Unit]:
    """What all stages hold together."""
    ends = [unit for unit in (footprint.embedding, footprint.head) if unit is not None]
    return [tower.whole for tower in footprint.towers] + ends


def media_items(tower: Tower, rows: int) -> int:
    """Images or clips of some rows."""
    return math.ceil(rows * tower.items_per_row)


def _memory(
    footprint: Footprint, layout: Layout, stage: int, layers: range, num_stages: int
) -> StageMemory:
    units = units_of_stage(footprint, layers)
    in_flight = min(num_stages - stage, layout.micro_batches(footprint.rows))
    kinds = _states(footprint, layout, units)
    kinds |= _gathered(footprint, layout, units)
    is_last = stage == num_stages - 1
    kinds |= _activations(footprint, layout, units, in_flight=in_flight, is_last=is_last)
    kinds |= _exchanged(footprint, layout, is_first=stage == 0)
    return StageMemory(
        stage=stage,
        layers=layers,
        kinds=kinds | {"reserved": float(RESERVED_BYTES)},
        capacity=layout.device.memory_bytes,
        exclusive=layout.pipeline > 1,
    )


def _states(footprint: Footprint, layout: Layout, units: Sequence[Unit]) -> dict[str, float]:
    """What lives from update to update, and the gradients' shards."""
    held = [(weight, layout.shard) for unit in units for weight in unit.weights]
    everyone = [weight for unit in units_of_all(footprint) for weight in unit.weights]
    held += [(weight, layout.tower_shard) for weight in everyone]
    trained = sum(w.held(ranks) * w.itemsize for w, ranks in held if w.trained)
    frozen = sum(w.held(ranks) * w.itemsize for w, ranks in held if not w.trained)
    # The fused kernel counts its steps in a float32 for every parameter.
    steps = 4 * sum(weight.trained for weight, _ in held)
    return {
        "weights, shards": float(trained),
        "frozen weights, shards": float(frozen),
        "Adam moments": float(2 * trained + steps),
        "gradients, shards": float(trained),
    }


def _gathered(footprint: Footprint, layout: Layout, units: Sequence[Unit]) -> dict[str, float]:
    """Whole weights and gradients of what runs, and of what is fetched ahead."""
    ends = [unit for unit in (footprint.embedding,) if unit is not None]
    largest = max((unit.parameters for unit in [*units, *ends]), default=0)
    trained = max((unit.trained for unit in [*units, *ends]), default=0)
    towers = footprint.towers
    largest = max([largest, *(tower.largest_unit for tower in towers)])
    trained = max([trained, *(t.largest_unit for t in towers if t.whole.trained)])
    size = float(footprint.itemsize)
    weights = 2 * size * largest
    if not layout.reshard_after_forward:
        weights = size * sum(unit.parameters for unit in [*units, *units_of_all(footprint)])
    unreduced = 4.0 * sum(unit.trained for unit in units) if layout.keeps_unreduced else 0.0
    return {
        "weights gathered": weights + footprint.root_bytes,
        "gradients, unreduced fp32": unreduced,
        # What the backward pass makes and the float32 that is sent.
        REDUCED: (size + 4) * trained,
    }


def _activations(
    footprint: Footprint,
    layout: Layout,
    units: Sequence[Unit],
    *,
    in_flight: int,
    is_last: bool,
) -> dict[str, float]:
    recompute = layout.recompute
    rows = layout.micro_batch + footprint.caption_rows(layout.micro_batch)
    costs = [cost_of(unit, rows, recompute) for unit in units]
    kept = float(in_flight * sum(cost.kept_bytes for cost in costs))
    work = max((cost.peak_bytes - cost.kept_bytes for cost in costs), default=0)
    loss = 0.0
    if footprint.head is not None and is_last:
        loss = float(cost_of(footprint.head, layout.micro_batch, "none").peak_bytes)
    items = [(tower, media_items(tower, layout.micro_batch)) for tower in footprint.towers]
    counted = [cost_of_tower(tower, n, recompute) for tower, n in items if n]
    encoded = float(sum(cost.kept_bytes for cost in counted))
    encoding = [cost.peak_bytes - cost.kept_bytes for cost in counted if cost.kept_bytes]
    # What is frozen has run before anything is kept.
    before = [cost.peak_bytes - kept - encoded - loss for cost in counted if not cost.kept_bytes]
    return {
        LAYER_ACTIVATIONS: kept,
        TOWER_ACTIVATIONS: encoded,
        # One block at a time is made again and differentiated.
        WORKSPACE: float(max([work, *encoding, *before])),
        LOSS: loss,
    }


def _exchanged(footprint: Footprint, layout: Layout, *, is_first: bool) -> dict[str, float]:
    """Inputs of stages and their gradients, hidden states under way, vectors of the contrast."""
    rows, width = footprint.rows / layout.copies, footprint.hidden_dim
    size = float(footprint.itemsize)
    boundary = size * layout.micro_batch * footprint.tokens_per_row * width
    # A rank starts its own rows; the first stage has those of its whole pipeline, too.
    started = rows / layout.pipeline + (rows if is_first else 0.0)
    inputs = 2 * size * started * footprint.tokens_per_row * width if layout.pipeline > 1 else 0.0
    pairs = footprint.rows * footprint.pairs_per_row
    own = rows / layout.pipeline * footprint.pairs_per_row
    vectors = 16.0 * pairs * footprint.pair_dim  # both sides and their gradients, float32
    similarities = 16.0 * own * pairs if footprint.pair_dim else 0.0
    return {
        "pipeline buffers": 4.0 * boundary if layout.pipeline > 1 else 0.0,
        "inputs of the first stage": inputs,
        "contrastive vectors": vectors + similarities,
    }
