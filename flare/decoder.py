"""The decoder: pre-norm Transformer blocks with grouped queries, QK-norm, rotary embedding, SwiGLU.

    x = x + attention(norm(x))
    x = x + swiglu(norm(x))

It takes embeddings and returns normalised hidden states; the tables of tokens belong to the model.
Who sees whom is the mask's affair: a packed row holds causal and bidirectional documents alike.
"""

from collections.abc import Iterable
from functools import partial

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from transformers.cache_utils import Cache
from transformers.modeling_layers import GradientCheckpointingLayer

from common.attention.attend import Backend
from common.attention.masks import Mask, same_document
from common.attention.rope import rotary
from common.layers.attention import Attention
from common.layers.swiglu import SwiGLU


class Decoder(nn.Module):
    """All blocks and the final norm."""

    def __init__(
        self,
        *,
        dim: int,
        num_layers: int,
        num_heads: int,
        num_key_heads: int,
        head_dim: int,
        feed_forward_dim: int,
        norm_eps: float,
        rotary_base: float,
    ) -> None:
        super().__init__()
        self.head_dim, self.rotary_base = head_dim, rotary_base
        self.blocks = nn.ModuleList(
            DecoderBlock(
                layer=layer,
                dim=dim,
                num_heads=num_heads,
                num_key_heads=num_key_heads,
                head_dim=head_dim,
                feed_forward_dim=feed_forward_dim,
                norm_eps=norm_eps,
            )
            for layer in range(num_layers)
        )
        self.norm = nn.RMSNorm(dim, eps=norm_eps)

    def forward(
        self,
        x: Float[Tensor, "b s d"],
        *,
        positions: Int[Tensor, "b s"],
        mask: Mask,
        cache: Cache | None = None,
        backend: Backend,
    ) -> Float[Tensor, "b s d"]:
        """Hidden states after the final norm; `cache` is advanced by these tokens."""
        x = self.advance(
            self.blocks, x, positions=positions, mask=mask, cache=cache, backend=backend
        )
        return self.norm(x)

    def advance(
        self,
        blocks: Iterable[nn.Module],
        x: Float[Tensor, "b s d"],
        *,
        positions: Int[Tensor, "b s"],
        mask: Mask,
        cache: Cache | None = None,
        backend: Backend,
    ) -> Float[Tensor, "b s d"]:
        """Through some of the blocks."""
        tables = rotary(positions, head_dim=self.head_dim, base=self.rotary_base)
        for block in blocks:
            x = block(x, mask=mask, rotary=tables, past_key_values=cache, backend=backend)
        return x


class DecoderBlock(GradientCheckpointingLayer):
    """One layer; it is the unit of recomputation and of sharding."""

    def __init__(
        self,
        *,
        layer: int,
        dim: int,
        num_heads: int,
        num_key_heads: int,
        head_dim: int,
        feed_forward_dim: int,
        norm_eps: float,
    ) -> None:
        super().__init__()
        self.layer = layer
        self.attention_norm = nn.RMSNorm(dim, eps=norm_eps)
        self.attention = Attention(
            dim=dim,
            context_dim=dim,
            num_heads=num_heads,
            num_key_heads=num_key_heads,
            head_dim=head_dim,
            norm_eps=norm_eps,
        )
        self.feed_forward_norm = nn.RMSNorm(dim, eps=norm_eps)
        self.feed_forward = SwiGLU(dim=dim, hidden_dim=feed_forward_dim)

    def forward(
        self,
        x: Float[Tensor, "b s d"],
        *,
        mask: Mask,
        rotary: tuple[Float[Tensor, "b s e"], Float[Tensor, "b s e"]],
        past_key_values: Cache | None,  # transformers' name: recomputation refuses it by this name
        backend: Backend,
    ) -> Float[Tensor, "b s d"]:
        cache = None
        if past_key_values is not None:
            cache = partial(past_key_values.update, layer_idx=self.layer)
        tokens = self.attention_norm(x)
        x = x + self.attention(
            tokens, tokens, mask=mask, rotary=rotary, cache=cache, backend=backend
        )
        return x + self.feed_forward(self.feed_forward_norm(x))


def hybrid_mask(document_ids: Int[Tensor, "b s"], bidirectional: Bool[Tensor, "b s"]) -> Mask:
    """A token sees its own document: all of it where bidirectional, else itself and the past.

    Documents `0 0 1 1`, the second one bidirectional: 1000 / 1100 / 0011 / 0011.
    """
    direction = Mask(rule=lambda b, q, k: (k <= q) | bidirectional[b, q])
    return same_document(document_ids, document_ids) & direction


def positions_in_documents(document_ids: Int[Tensor, "b s"]) -> Int[Tensor, "b s"]:
    """Place of each token in its document. `0 0 0 1 1` -> `0 1 2 0 1`"""
    place = torch.arange(document_ids.shape[1], device=document_ids.device).expand_as(document_ids)
    starts = torch.ones_like(document_ids, dtype=torch.bool)
    starts[:, 1:] = document_ids[:, 1:] != document_ids[:, :-1]
    return place - torch.where(starts, place, 0).cummax(-1).values
