"""Selective recomputation: what of a block is kept for its backward pass and what is made again.

Kept are the output of attention and of every second matrix product, in the order of the forward
pass; norms, activations, rotations and the other products are repeated. For FLARE-13B's decoder a
third of the forward pass is repeated and a third of the memory is left.
"""

from collections import Counter
from contextlib import AbstractContextManager

import torch
from torch.utils.checkpoint import (
    CheckpointPolicy,
    SelectiveCheckpointContext,
    create_selective_checkpoint_contexts,
)

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


def selective_contexts() -> tuple[
    AbstractContextManager[object, bool | None], AbstractContextManager[object, bool | None]
]:
    """The two contexts that `torch.utils.checkpoint.checkpoint` takes as `context_fn`.

    `model.gradient_checkpointing_enable({"use_reentrant": False, "context_fn":
    selective_contexts})` hands it to every block of a transformers model.
    """
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
