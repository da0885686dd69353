"""The parts of WavLM-Large (Chen et al., 2022): convolutions over the waveform, a convolution as
position embedding, and pre-norm layers whose attention carries a gated relative-position bias.

Modules and parameters are named as in transformers' WavLMModel. There is no dropout.
"""

import math

import torch
import torch.nn.functional as F
from einops import rearrange, reduce
from jaxtyping import Float, Int
from torch import Tensor, nn

from common.attention.attend import Backend, attend
from common.attention.bias import GatedRelativeBias
from common.attention.masks import Mask


class ConvLayer(nn.Module):
    """Convolution without bias, LayerNorm over channels, GELU."""

    def __init__(self, *, in_dim: int, out_dim: int, kernel: int, stride: int) -> None:
        super().__init__()
        self.conv = nn.Conv1d(in_dim, out_dim, kernel, stride=stride, bias=False)
        self.layer_norm = nn.LayerNorm(out_dim)

    def forward(self, x: Float[Tensor, "m w t"]) -> Float[Tensor, "m c n"]:
        x = rearrange(self.conv(x), "m c n -> m n c")
        return F.gelu(rearrange(self.layer_norm(x), "m n c -> m c n"))


class FeatureProjection(nn.Module):
    """From channels of the convolutions to the width of the layers."""

    def __init__(self, *, in_dim: int, dim: int, norm_eps: float) -> None:
        super().__init__()
        self.layer_norm = nn.LayerNorm(in_dim, eps=norm_eps)
        self.projection = nn.Linear(in_dim, dim)

    def forward(self, x: Float[Tensor, "m n c"]) -> Float[Tensor, "m n d"]:
        return self.projection(self.layer_norm(x))


class PositionEmbedding(nn.Module):
    """A wide, grouped, weight-normed convolution over frames."""

    def __init__(self, *, dim: int, kernel: int, groups: int) -> None:
        super().__init__()
        conv = nn.Conv1d(dim, dim, kernel, padding=kernel // 2, groups=groups)
        self.conv = nn.utils.parametrizations.weight_norm(conv, name="weight", dim=2)

    def forward(self, x: Float[Tensor, "m n d"]) -> Float[Tensor, "m n d"]:
        around = self.conv(rearrange(x, "m n d -> m d n"))
        # An even kernel yields one frame too many, behind the last.
        around = around[..., : x.shape[1]]
        return rearrange(F.gelu(around), "m d n -> m n d")


class RelativePositions(nn.Module):
    """One learned number per head and bucket of distances: fine nearby, logarithmic further off."""

    def __init__(self, *, num_buckets: int, num_heads: int, max_distance: int) -> None:
        super().__init__()
        self.max_distance = max_distance
        self.weight = nn.Parameter(torch.empty(num_buckets, num_heads))
        nn.init.normal_(self.weight, std=0.02)

    def forward(self, num_frames: int) -> Float[Tensor, "h p"]:
        """The row of every head, from k - q = 1 - num_frames to num_frames - 1."""
        distances = torch.arange(1 - num_frames, num_frames, device=self.weight.device)
        return rearrange(F.embedding(self._buckets(distances), self.weight), "p h -> h p")

    def _buckets(self, distances: Int[Tensor, " p"]) -> Int[Tensor, " p"]:
        """Half of the buckets per sign; of these, half hold one distance each."""
        per_sign = len(self.weight) // 2
        exact = per_sign // 2
        far = distances.abs().float().clamp(min=1)
        far = torch.log(far / exact) / math.log(self.max_distance / exact) * (per_sign - exact)
        far = (exact + far).long().clamp(max=per_sign - 1)
        buckets = torch.where(distances.abs() < exact, distances.abs(), far)
        return buckets + (distances > 0) * per_sign


class WavLMAttention(nn.Module):
    """Self-attention; the layer that owns `positions` hands their table on to all later layers."""

    def __init__(
        self, *, dim: int, num_heads: int, positions: RelativePositions | None, backend: Backend
    ) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.backend = backend
        self.q_proj = nn.Linear(dim, dim)
        self.k_proj = nn.Linear(dim, dim)
        self.v_proj = nn.Linear(dim, dim)
        self.out_proj = nn.Linear(dim, dim)
        self.gru_rel_pos_const = nn.Parameter(torch.ones(1, num_heads, 1, 1))
        self.gru_rel_pos_linear = nn.Linear(dim // num_heads, 8)
        if positions is not None:
            self.rel_attn_embed = positions

    def forward(
        self, x: Float[Tensor, "m n d"], table: Float[Tensor, "h p"] | None, *, mask: Mask
    ) -> tuple[Float[Tensor, "m n d"], Float[Tensor, "h p"]]:
        if table is None:
            table = self.rel_attn_embed(x.shape[1])
        q, k, v = (
            rearrange(project(x), "m n (h e) -> m h n e", h=self.num_heads)
            for project in (self.q_proj, self.k_proj, self.v_proj)
        )
        bias = GatedRelativeBias(table, self._gate(x))
        heads = attend(q, k, v, mask=mask, bias=bias, backend=self.backend)
        return self.out_proj(rearrange(heads, "m h n e -> m n (h e)")), table

    def _gate(self, x: Float[Tensor, "m n d"]) -> Float[Tensor, "m h n"]:
        """A factor per frame and head from the layer's input, not from its queries."""
        heads = rearrange(x, "m n (h e) -> m h n e", h=self.num_heads)
        pairs = reduce(
            self.gru_rel_pos_linear(heads), "m h n (two four) -> m h n two", "sum", two=2
        )
        update, reset = pairs.sigmoid().unbind(dim=-1)
        return update * (reset * self.gru_rel_pos_const[..., 0] - 1.0) + 2.0


class FeedForward(nn.Module):
    """Two linear layers around a GELU."""

    def __init__(self, *, dim: int, hidden_dim: int) -> None:
        super().__init__()
        self.intermediate_dense = nn.Linear(dim, hidden_dim)
        self.output_dense = nn.Linear(hidden_dim, dim)

    def forward(self, x: Float[Tensor, "m n d"]) -> Float[Tensor, "m n d"]:
        return self.output_dense(F.gelu(self.intermediate_dense(x)))


class WavLMEncoderLayer(nn.Module):
    """Pre-norm attention and feed-forward."""

    def __init__(
        self, *, attention: WavLMAttention, dim: int, feed_forward_dim: int, norm_eps: float
    ) -> None:
        super().__init__()
        self.attention = attention
        self.layer_norm = nn.LayerNorm(dim, eps=norm_eps)
        self.feed_forward = FeedForward(dim=dim, hidden_dim=feed_forward_dim)
        self.final_layer_norm = nn.LayerNorm(dim, eps=norm_eps)

    def forward(
        self, x: Float[Tensor, "m n d"], table: Float[Tensor, "h p"] | None, *, mask: Mask
    ) -> tuple[Float[Tensor, "m n d"], Float[Tensor, "h p"]]:
        attended, table = self.attention(self.layer_norm(x), table, mask=mask)
        x = x + attended
        return x + self.feed_forward(self.final_layer_norm(x)), table
