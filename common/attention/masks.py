"""Who may attend to whom: a mask is a rule over (batch, query, key), written once.

The same rule becomes a dense bool for scaled-dot-product attention and the reference, and a block
mask for FlexAttention. True means "may attend". Rules combine with `&`. Tensors that a rule
captures must live on the device where the mask is evaluated.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from jaxtyping import Bool, Int
from torch import Tensor
from torch.nn.attention.flex_attention import BlockMask, create_block_mask

Rule = Callable[[Tensor, Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class Mask:
    """A rule over integer index tensors (batch, query, key) that broadcast; True = may attend.

    Write rules as lambdas: FlexAttention traces them, and cannot trace run-time type checks.
    `lower_triangle` says that the rule is exactly `key <= query`, for kernels that know this case.
    """

    rule: Rule
    lower_triangle: bool = False
    # By sizes and device: all layers of a forward pass share one.
    _block_masks: dict[tuple[object, ...], BlockMask] = field(
        default_factory=dict, init=False, repr=False, compare=False
    )

    def __and__(self, other: Mask) -> Mask:
        left, right = self.rule, other.rule
        return Mask(rule=lambda b, q, k: left(b, q, k) & right(b, q, k))

    def after(self, queries: int) -> Mask:
        """The rule as query number `queries` and those after it see it, counted from 0."""
        rule = self.rule
        return Mask(rule=lambda b, q, k: rule(b, q + queries, k))

    def dense(
        self, *, batch: int, num_queries: int, num_keys: int, device: torch.device | str
    ) -> Bool[Tensor, "b 1 s n"]:
        """The whole rule as one tensor; memory is b * s * n bytes."""
        rows = torch.arange(batch, device=device)[:, None, None]
        queries = torch.arange(num_queries, device=device)[None, :, None]
        keys = torch.arange(num_keys, device=device)[None, None, :]
        allowed = self.rule(rows, queries, keys)
        return allowed.expand(batch, num_queries, num_keys)[:, None]

    def block_mask(
        self, *, batch: int, num_queries: int, num_keys: int, device: torch.device | str
    ) -> BlockMask:
        """The rule as FlexAttention's block-sparse mask, shared by all heads; built once."""
        rule, sizes = self.rule, (batch, num_queries, num_keys, torch.device(device))
        if sizes not in self._block_masks:
            self._block_masks[sizes] = create_block_mask(
                lambda b, h, q, k: rule(b, q, k),
                B=batch,
                H=None,
                Q_LEN=num_queries,
                KV_LEN=num_keys,
                device=torch.device(device),
                # Uncompiled, the builder materialises the dense mask first.
                _compile=torch.device(device).type == "cuda",
            )
        return self._block_masks[sizes]


def causal(*, offset: int = 0) -> Mask:
    """Query q sees key k when k <= q + offset; `offset` is the number of cached keys before.

    offset=2, two queries, four keys: 1110 / 1111.
    """
    return Mask(rule=lambda b, q, k: k <= q + offset, lower_triangle=offset == 0)


def same_document(queries: Int[Tensor, "b s"], keys: Int[Tensor, "b n"]) -> Mask:
    """A query sees the keys that carry its own document number (packed sequences)."""
    return Mask(rule=lambda b, q, k: queries[b, q] == keys[b, k])


def valid_keys(valid: Bool[Tensor, "b n"]) -> Mask:
    """Every query sees the keys that are not padding."""
    return Mask(rule=lambda b, q, k: valid[b, k])


def media_span(
    first: Int[Tensor, "b s"], last: Int[Tensor, "b s"], *, tokens_per_item: int
) -> Mask:
    """A query sees the media items first..last, numbered from 1; last = 0 sees none.

    Key k belongs to item k // tokens_per_item + 1. Two tokens per item, first=1, last=2, three
    items: 111100.
    """

    return Mask(
        rule=lambda b, q, k: (
            (first[b, q] <= k // tokens_per_item + 1) & (k // tokens_per_item + 1 <= last[b, q])
        )
    )


def may_look(x: Tensor) -> bool:
    """Whether reading a value is free: an accelerator is waited for, a compiler has none."""
    return x.device.type == "cpu" and not torch.compiler.is_compiling()
