"""The projector: any number of encoder features becomes a fixed number of soft tokens.

Learned queries pass through blocks of cross-attention to the features, self-attention among the
queries and SwiGLU, each behind an RMSNorm on the residual stream. One more query is read out as the
item's summary, from which the contrastive vector is made; it never becomes a token.
"""

import torch
from einops import repeat
from jaxtyping import Bool, Float
from torch import Tensor, nn
from transformers.modeling_layers import GradientCheckpointingLayer

from common.attention.attend import Backend
from common.attention.masks import Mask, valid_keys
from common.layers.attention import Attention
from common.layers.swiglu import SwiGLU


class Projector(nn.Module):
    """Maps the features of each item alone to `q` tokens of the decoder's width and a summary."""

    def __init__(
        self,
        *,
        feature_dim: int,
        dim: int,
        num_layers: int,
        num_heads: int,
        head_dim: int,
        feed_forward_dim: int,
        num_queries: int,
        norm_eps: float,
        backend: Backend,
    ) -> None:
        super().__init__()
        self.feature_norm = nn.RMSNorm(feature_dim, eps=norm_eps)
        self.queries = nn.Parameter(torch.empty(num_queries + 1, dim))
        self.blocks = nn.ModuleList(
            ProjectorBlock(
                dim=dim,
                feature_dim=feature_dim,
                num_heads=num_heads,
                head_dim=head_dim,
                feed_forward_dim=feed_forward_dim,
                norm_eps=norm_eps,
                backend=backend,
            )
            for _ in range(num_layers)
        )
        self.norm = nn.RMSNorm(dim, eps=norm_eps)
        self.out = nn.Linear(dim, dim, bias=False)

    def forward(
        self, features: Float[Tensor, "m n w"], valid: Bool[Tensor, "m n"] | None = None
    ) -> tuple[Float[Tensor, "m q d"], Float[Tensor, "m d"]]:
        """`valid` False: that feature is padding."""
        features = self.feature_norm(features)
        mask = None if valid is None else valid_keys(valid)
        x = repeat(self.queries, "q d -> m q d", m=len(features))
        for block in self.blocks:
            x = block(x, features, mask)
        x = self.norm(x)
        return self.out(x[:, :-1]), x[:, -1]


class ProjectorBlock(GradientCheckpointingLayer):
    """x += cross(norm(x), features); x += self(norm(x)); x += swiglu(norm(x))."""

    def __init__(
        self,
        *,
        dim: int,
        feature_dim: int,
        num_heads: int,
        head_dim: int,
        feed_forward_dim: int,
        norm_eps: float,
        backend: Backend,
    ) -> None:
        super().__init__()
        self.backend = backend
        heads = {"num_heads": num_heads, "num_key_heads": num_heads, "head_dim": head_dim}
        self.cross_attention_norm = nn.RMSNorm(dim, eps=norm_eps)
        self.cross_attention = Attention(
            dim=dim, context_dim=feature_dim, norm_eps=norm_eps, **heads
        )
        self.self_attention_norm = nn.RMSNorm(dim, eps=norm_eps)
        self.self_attention = Attention(dim=dim, context_dim=dim, norm_eps=norm_eps, **heads)
        self.feed_forward_norm = nn.RMSNorm(dim, eps=norm_eps)
        self.feed_forward = SwiGLU(dim=dim, hidden_dim=feed_forward_dim)

    def forward(
        self, x: Float[Tensor, "m q d"], features: Float[Tensor, "m n w"], mask: Mask | None
    ) -> Float[Tensor, "m q d"]:
        x = x + self.cross_attention(
            self.cross_attention_norm(x), features, mask=mask, backend=self.backend
        )
        queries = self.self_attention_norm(x)
        x = x + self.self_attention(queries, queries, backend=self.backend)
        return x + self.feed_forward(self.feed_forward_norm(x))
