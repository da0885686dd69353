"""Recomputation: what of a block is kept for its backward pass and what is made again.

    none        everything is kept
    selective   kept are the output of attention and of every second matrix product, in the order of
                the forward pass; norms, activations, rotations and the other products are repeated
    full        only a block's input is kept

For FLARE-13B's decoder `selective` repeats a third of the forward pass and leaves a third of the
memory. Where no gradient is wanted nothing changes.
"""

from collections import Counter
from collections.abc import Iterable
from contextlib import AbstractContextManager
from functools import partial
from typing import Literal

import torch
from torch import nn
from torch.utils.checkpoint import (
    CheckpointPolicy,
    SelectiveCheckpointContext,
    checkpoint,
    create_selective_checkpoint_contexts,
)

Recompute = Literal["none", "selective", "full"]
RECOMPUTE: tuple[Recompute, ...] = ("none", "selective", "full")
_aten = torch.ops.aten
PRODUCTS = frozenset({_aten.mm.default, _aten.addmm.default, _aten.bmm.default})
ATTENTION = frozenset(
    {
        _aten._scaled_dot_product_flash_attention.default,
        _aten._scaled_dot_product_efficient_attention.default,
        _aten._scaled_dot_product_cudnn_attention.default,
        _aten._scaled_dot_product_flash_attention_for_cpu.default,
        torch.ops.higher_order.flex_attention,
    }
)


def recompute_blocks(blocks: Iterable[nn.Module], how: Recompute) -> None:
    """Let each of the blocks make its activations again in the backward pass.

    Its `forward` is wrapped, not its call: hooks, like those that gather shards, stay outside.
    """
    if how == "none":
        return
    options = {"context_fn": selective_contexts} if how == "selective" else {}
    for block in blocks:
        # An attribute of the instance, so that names of parameters and the class stay.
        again = partial(checkpoint, block.forward, use_reentrant=False, **options)
        vars(block)["forward"] = again


def selective_contexts() -> tuple[
    AbstractContextManager[object, bool | None], AbstractContextManager[object, bool | None]
]:
    """The two contexts that `torch.utils.checkpoint.checkpoint` takes as `context_fn`."""
    products = Counter[bool]()

    def policy(
        context: SelectiveCheckpointContext, operation: object, *_: object, **__: object
    ) -> CheckpointPolicy:
        if operation in ATTENTION:
            return CheckpointPolicy.MUST_SAVE
        if operation in PRODUCTS:
            products[context.is_recompute] += 1
            if products[context.is_recompute] % 2:
                return CheckpointPolicy.MUST_SAVE
        return CheckpointPolicy.PREFER_RECOMPUTE

    contexts: tuple[
        AbstractContextManager[object, bool | None], AbstractContextManager[object, bool | None]
    ] = create_selective_checkpoint_contexts(policy)
    return contexts
