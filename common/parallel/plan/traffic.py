"""Bytes that a rank sends in one update, by kind, and how long they would take alone.

Ring algorithms: a gather or a scatter over n ranks moves (n - 1) / n of the data, a sum twice that.
How much of it hides behind arithmetic is not predicted.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

from common.parallel.plan.cluster import Layout
from common.parallel.plan.footprint import Footprint
from common.parallel.plan.memory import units_of_all, units_of_stage

TOWER_PASSES = 3  # forward without a graph, forward with one, backward


class Traffic(NamedTuple):
    """One kind of communication of a rank in an update."""

    kind: str
    bytes: float
    seconds: float


def traffic(footprint: Footprint, layout: Layout, stages: Sequence[range]) -> list[Traffic]:
    """Of the stage that owns the most parameters."""
    owned = [units_of_stage(footprint, layers) for layers in stages]
    parameters = max(sum(unit.parameters for unit in units) for units in owned)
    trained = max(sum(unit.trained for unit in units) for units in owned)
    number = layout.micro_batches(footprint.rows)
    sums = 1 if layout.keeps_unreduced else number
    towers = sum(unit.parameters for unit in units_of_all(footprint))
    towers_trained = sum(unit.trained for unit in units_of_all(footprint))
    parts = tower_parts(footprint, layout)
    shard, all_ranks = layout.shard, layout.tower_shard
    passes = TOWER_PASSES if footprint.pairs_per_row and number > 1 else 2
    gathers, tower_gathers = 2 * number, passes * parts
    if not layout.reshard_after_forward:
        # Weights stay from the first use in an update to the last; what is beside a pipeline goes
        # while the pipeline runs.
        gathers, tower_gathers = 1, min(layout.pipeline, 2)
    size = float(footprint.itemsize)
    boundary = size * layout.micro_batch * footprint.tokens_per_row * footprint.hidden_dim
    inputs = size * footprint.tokens_per_row * footprint.hidden_dim * footprint.rows
    vectors = 4.0 * footprint.rows * footprint.pairs_per_row * footprint.pair_dim
    sends = 2 * number * boundary if layout.pipeline > 1 else 0.0
    handed = 2 * inputs / layout.copies if layout.pipeline > 1 else 0.0
    near, between_copies = layout.bandwidth(shard, stride=1), layout.replicate
    everywhere = layout.bandwidth(all_ranks, stride=1)
    along_pipeline = layout.bandwidth(layout.pipeline, stride=layout.copies)
    copies = layout.bandwidth(between_copies, stride=shard)
    tower_copies = layout.gpus // all_ranks
    volumes = [
        ("weights of layers, all-gather", gathers * _ring(size * parameters, shard), near),
        ("gradients of layers, reduce-scatter", sums * _ring(4.0 * trained, shard), near),
        (
            "weights of towers and tables, all-gather",
            tower_gathers * _ring(size * towers, all_ranks),
            everywhere,
        ),
        (
            "gradients of towers and tables, reduce-scatter",
            parts * _ring(4.0 * towers_trained, all_ranks),
            everywhere,
        ),
        (
            "gradients between copies, all-reduce",
            # In the last backward pass of an update only.
            2 * _ring(4.0 * trained / shard, between_copies)
            + 2 * _ring(4.0 * towers_trained / all_ranks, tower_copies),
            copies,
        ),
        ("hidden states between stages", sends, along_pipeline),
        ("inputs of the first stage and their gradients", handed, along_pipeline),
        # There are two vectors for each pair, and their gradients come back.
        ("contrastive vectors, all-gather", 4 * _ring(vectors, layout.copies), everywhere),
    ]
    return [
        Traffic(kind, volume, volume / bandwidth) for kind, volume, bandwidth in volumes if volume
    ]


def tower_parts(footprint: Footprint, layout: Layout) -> int:
    """Micro-batches of media of a rank: the rows of a pipeline are divided over its stages."""
    rows = footprint.rows / layout.gpus
    return max(1, math.ceil(rows / layout.micro_batch))


def _ring(volume: float, ranks: int) -> float:
    return volume * (ranks - 1) / ranks
