"""The model of a run as it trains: its blocks recompute and are compiled as the run says."""

from typing import Any

from common.errors import UserError
from common.parallel.compile import compile_blocks
from common.parallel.recompute import recompute_blocks
from common.training.run import RunConfig
from common.training.task import BatchT, Divisible, ModelT, Task


def build_model(task: Task[ModelT, BatchT], run: RunConfig[Any]) -> ModelT:
    """On the CPU, or on the meta device.

    Raises:
        UserError: the run asks for what this model has no blocks for.
    """
    model = task.build_model()
    if run.recompute == "none" and not run.compile:
        return model
    if not isinstance(task, Divisible):
        raise UserError(
            f"recompute={run.recompute} and compile={run.compile} work block by block, and "
            f"{type(task).__name__} names no blocks; leave them at none and False"
        )
    blocks = [*task.blocks(model)]
    recompute_blocks(blocks, run.recompute)
    if run.compile:
        compile_blocks(blocks)
    return model
