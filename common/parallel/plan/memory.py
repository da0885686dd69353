"""Memory of a rank by kind, for every stage of the pipeline.

Weights, gradients and Adam's moments are stored as float32 shards (frozen weights as bf16) and
computed with in bf16. Under torch's pipelining a stage's whole bf16 weights and whole float32
gradients live through the update, whatever `reshard_after_forward` says: it gathers once and
reduces once. Towers run before and after the pipeline, so of their activations and the layers' the
larger counts; without a pipeline both belong to one graph. Under 1F1B stage k of p holds p - k
micro-batches.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from common.parallel.plan.cluster import GIB, Layout
from common.parallel.plan.footprint import Footprint, Tower, Unit, cost_of, cost_of_tower

# CUDA's context, NCCL's buffers, kernels' workspaces and what fragmentation leaves unused.
RESERVED_BYTES = 4 * GIB
# Of these kinds, the larger counts: they are not alive at the same time.
LAYER_ACTIVATIONS, TOWER_ACTIVATIONS = "activations of layers", "activations of towers"


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
        """The kinds at the moment when most is held."""
        if not self.exclusive:
            return self.kinds
        pair = (LAYER_ACTIVATIONS, TOWER_ACTIVATIONS)
        return self.kinds | {min(pair, key=lambda kind: self.kinds[kind]): 0.0}

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


def units_of_stage(footprint: Footprint, layers: range, stage: int, last: int) -> list[Unit]:
    """What a stage owns, embedding and head included."""
    units = [unit for layer in layers for unit in footprint.layers[layer]]
    if stage == 0 and footprint.embedding is not None:
        units.insert(0, footprint.embedding)
    if stage == last and footprint.head is not None:
        units.append(footprint.head)
    return units


def media_items(tower: Tower, rows: int) -> int:
    """Images or clips of some rows."""
    return math.ceil(rows * tower.items_per_row)


def _memory(
    footprint: Footprint, layout: Layout, stage: int, layers: range, num_stages: int
) -> StageMemory:
    units = units_of_stage(footprint, layers, stage, num_stages - 1)
    in_flight = min(num_stages - stage, layout.micro_batches(footprint.rows))
    kinds = _states(footprint, layout, units)
    kinds |= _gathered(footprint, layout, units)
    kinds |= _activations(footprint, layout, units, in_flight=in_flight)
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
    towers = [tower.whole for tower in footprint.towers]
    trained = _share(units, layout.shard) + _share(towers, layout.tower_shard)
    frozen = sum(u.frozen for u in units) / layout.shard
    frozen += sum(u.frozen for u in towers) / layout.tower_shard
    return {
        "weights, fp32 shards": 4 * trained,
        "frozen weights, bf16 shards": 2 * frozen,
        "Adam moments": 8 * trained,
        "gradients, fp32 shards": 4 * trained,
    }


def _share(units: Sequence[Unit], ranks: int) -> float:
    return sum(unit.trained for unit in units) / ranks


def _gathered(footprint: Footprint, layout: Layout, units: Sequence[Unit]) -> dict[str, float]:
    """Whole weights and gradients of what runs, and of what is fetched ahead."""
    largest = max((unit.parameters for unit in units), default=0)
    largest_trained = max((unit.trained for unit in units), default=0)
    towers = max((tower.largest_unit for tower in footprint.towers), default=0)
    stays = layout.pipeline > 1 or not layout.reshard_after_forward
    weights = 2.0 * sum(unit.parameters for unit in units) if stays else 4.0 * largest
    unreduced = 4.0 * sum(unit.trained for unit in units) if layout.keeps_unreduced else 0.0
    if layout.reduce_once:
        unreduced += 4.0 * sum(tower.whole.trained for tower in footprint.towers)
    return {
        "weights gathered, bf16": weights + 4.0 * towers,
        "gradients, unreduced fp32": unreduced,
        # bf16 from the backward pass and the float32 that is sent.
        "gradients on their way": 6.0 * max(largest_trained, towers),
    }


def _activations(
    footprint: Footprint, layout: Layout, units: Sequence[Unit], *, in_flight: int
) -> dict[str, float]:
    rows, recompute = layout.micro_batch, layout.recompute
    layers = [unit for unit in units if unit not in (footprint.embedding, footprint.head)]
    costs = [cost_of(unit, rows, recompute) for unit in layers]
    kept = float(in_flight * sum(cost.kept_bytes for cost in costs))
    work = max((cost.peak_bytes - cost.kept_bytes for cost in costs), default=0)
    loss = 0.0
    if footprint.head is not None and footprint.head in units:
        loss = float(cost_of(footprint.head, rows, "none").peak_bytes)
    items = [(tower, media_items(tower, layout.encoded_rows)) for tower in footprint.towers]
    counted = [cost_of_tower(tower, n, recompute) for tower, n in items if n]
    encoded = float(sum(cost.kept_bytes for cost in counted))
    encoding = max((cost.peak_bytes - cost.kept_bytes for cost in counted), default=0)
    return {
        LAYER_ACTIVATIONS: kept,
        TOWER_ACTIVATIONS: encoded,
        # One block at a time is made again and differentiated.
        "workspace of a block": float(max(work, encoding)),
        "logits and loss": loss,
    }


def _exchanged(footprint: Footprint, layout: Layout, *, is_first: bool) -> dict[str, float]:
    """Soft tokens and their gradients, hidden states under way, vectors of the contrast."""
    rows, width = footprint.rows / layout.copies, footprint.hidden_dim
    boundary = 2.0 * layout.micro_batch * footprint.tokens_per_row * width
    media = 0.0
    if layout.pipeline > 1:
        media = 4.0 * rows * footprint.media_tokens_per_row * width
        media = media if is_first else media / layout.pipeline
    pairs = footprint.rows * footprint.pairs_per_row
    own = rows / layout.pipeline * footprint.pairs_per_row
    vectors = 16.0 * pairs * footprint.pair_dim  # both sides and their gradients, float32
    similarities = 16.0 * own * pairs if footprint.pair_dim else 0.0
    return {
        "pipeline buffers": 4.0 * boundary if layout.pipeline > 1 else 0.0,
        "soft tokens": media,
        "contrastive vectors": vectors + similarities,
    }
