"""`torch.compile` of a model's repeated blocks, each by itself, while it trains.

Equal blocks share what was compiled for the first of them. Hooks on a block, like those that gather
its shards, and its recomputation stay where they are: outside and inside. In evaluation mode blocks
run as they are: generation gives them caches that grow.
"""

from collections.abc import Iterable
from functools import partial
from typing import Any

import torch
from torch import nn

KINDS_AND_SIZES = 64  # kinds of blocks, times the combinations of sizes that are compiled for each


def compile_blocks(blocks: Iterable[nn.Module]) -> None:
    """Let each block's forward pass run compiled; it is compiled when it first runs.

    Sizes that change are compiled once more, for all sizes. A block that cannot be compiled whole
    is an error.
    """
    # It would cut blocks where DDP's buckets end, which recomputation inside of them forbids.
    torch._dynamo.config.optimize_ddp = False
    # All kinds of blocks share one wrapper around their `forward`, and with it one limit.
    torch._dynamo.config.recompile_limit = KINDS_AND_SIZES
    for block in blocks:
        plain, compiled = block.forward, torch.compile(block.forward, fullgraph=True)
        # An attribute of the instance, so that names of parameters and the class stay.
        vars(block)["forward"] = partial(_run, block, plain, compiled)


def _run(block: nn.Module, plain: Any, compiled: Any, *given: Any, **options: Any) -> Any:
    return (compiled if block.training else plain)(*given, **options)
