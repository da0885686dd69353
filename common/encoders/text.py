"""Text encoder of contrastive pre-training: a bidirectional Transformer over a caption, its mean
over valid tokens projected to the shared space (the Flamingo paper uses a mean-pooled BERT)."""

import torch
from einops import einsum
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from common.attention.masks import valid_keys
from common.attention.rope import rotary
from common.layers.self_attention import SelfAttentionBlock


class TextEncoder(nn.Module):
    """One vector per caption; padding on either side changes nothing."""

    def __init__(
        self,
        *,
        vocab_size: int,
        dim: int,
        num_layers: int,
        num_heads: int,
        feed_forward_dim: int,
        output_dim: int,
        rope_base: float = 10_000.0,
    ) -> None:
        super().__init__()
        self.head_dim = dim // num_heads
        self.rope_base = rope_base
        self.embedding = nn.Embedding(vocab_size, dim)
        # The default deviation of 1 would drown what the blocks add.
        nn.init.normal_(self.embedding.weight, std=0.02)
        self.blocks = nn.ModuleList(
            SelfAttentionBlock(dim=dim, num_heads=num_heads, feed_forward_dim=feed_forward_dim)
            for _ in range(num_layers)
        )
        self.norm = nn.LayerNorm(dim)
        self.projection = nn.Linear(dim, output_dim, bias=False)

    def forward(
        self, input_ids: Int[Tensor, "b s"], *, valid: Bool[Tensor, "b s"]
    ) -> Float[Tensor, "b d"]:
        """Vectors of captions, not normalised; `valid` is False at padding."""
        positions = (valid.cumsum(dim=1) - 1).clamp(min=0)  # counted from the first valid token
        turns = rotary(positions, head_dim=self.head_dim, base=self.rope_base)
        mask = valid_keys(valid)
        x = self.embedding(input_ids)
        for block in self.blocks:
            x = block(x, mask=mask, rotary=turns)
        return self.projection(_mean_of_valid(self.norm(x), valid))


def _mean_of_valid(x: Float[Tensor, "b s d"], valid: Bool[Tensor, "b s"]) -> Float[Tensor, "b d"]:
    weights = valid.to(torch.float32)
    weights = weights / weights.sum(dim=1, keepdim=True).clamp(min=1)
    return einsum(x.float(), weights, "b s d, b s -> b d").to(x.dtype)
