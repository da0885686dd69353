"""Perceiver Resampler: any number of visual features becomes a fixed number of visual tokens.

Paper, section 2.1 and appendix A.1.1: learned latents cross-attend to the features of all frames of
one media item, joined by the latents themselves; a learned time embedding marks the frames, nothing
marks the item's place among other items, so latents do not depend on it.
"""

from collections.abc import Callable

import torch
from einops import rearrange, repeat
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional as F

from common.attention.attend import Backend, attend
from common.attention.masks import valid_keys
from common.layers.feed_forward import FeedForward, squared_relu


class PerceiverResampler(nn.Module):
    """Maps `f` frames of `n` features each to `q` latents, for every media item alone."""

    def __init__(
        self,
        *,
        input_dim: int,
        dim: int,
        num_latents: int,
        num_layers: int,
        num_heads: int,
        head_dim: int,
        feed_forward_dim: int,
        num_frames: int,
        backend: Backend,
        activation: Callable[[Tensor], Tensor] = squared_relu,
    ) -> None:
        super().__init__()
        # NFNet-F6 emits 3072 channels where the resampler is 1536 wide: 194M parameters as printed.
        self.input = nn.Linear(input_dim, dim, bias=False) if input_dim != dim else nn.Identity()
        self.latents = nn.Parameter(torch.empty(num_latents, dim))
        self.time_embedding = nn.Parameter(torch.empty(num_frames, dim))
        self.layers = nn.ModuleList(
            ResamplerLayer(
                dim=dim,
                num_heads=num_heads,
                head_dim=head_dim,
                feed_forward=FeedForward(
                    dim=dim, hidden_dim=feed_forward_dim, activation=activation
                ),
                backend=backend,
            )
            for _ in range(num_layers)
        )
        self.norm = nn.LayerNorm(dim)

    def forward(
        self,
        features: Float[Tensor, "b m f n w"],
        valid: Bool[Tensor, "b m f n"] | None = None,
    ) -> Float[Tensor, "b m q d"]:
        """`valid` marks the features that exist, where frames or patches differ in number."""
        batch, num_items, num_frames = features.shape[:3]
        media = self.input(features)
        if num_frames > 1:
            media = media + rearrange(self.frame_embedding(num_frames), "f d -> f 1 d")
        media = rearrange(media, "b m f n d -> (b m) (f n) d")
        if valid is not None:
            valid = rearrange(valid, "b m f n -> (b m) (f n)")
        latents = repeat(self.latents, "q d -> i q d", i=batch * num_items)
        for layer in self.layers:
            latents = layer(latents, media, valid)
        return rearrange(self.norm(latents), "(b m) q d -> b m q d", b=batch)

    def frame_embedding(self, num_frames: int) -> Float[Tensor, "f d"]:
        """Time embeddings of `num_frames` frames; more than were trained are interpolated."""
        if num_frames <= len(self.time_embedding):
            return self.time_embedding[:num_frames]
        table = rearrange(self.time_embedding, "f d -> 1 d f")
        longer = F.interpolate(table, size=num_frames, mode="linear", align_corners=True)
        return rearrange(longer, "1 d f -> f d")


class ResamplerLayer(nn.Module):
    """latents += attention(latents, [media ; latents]); latents += feed_forward(latents)."""

    def __init__(
        self, *, dim: int, num_heads: int, head_dim: int, feed_forward: nn.Module, backend: Backend
    ) -> None:
        super().__init__()
        self.num_heads, self.backend = num_heads, backend
        self.media_norm = nn.LayerNorm(dim)
        self.latents_norm = nn.LayerNorm(dim)
        self.to_query = nn.Linear(dim, num_heads * head_dim, bias=False)
        self.to_key = nn.Linear(dim, num_heads * head_dim, bias=False)
        self.to_value = nn.Linear(dim, num_heads * head_dim, bias=False)
        self.to_output = nn.Linear(num_heads * head_dim, dim, bias=False)
        self.feed_forward_norm = nn.LayerNorm(dim)
        self.feed_forward = feed_forward

    def forward(
        self,
        latents: Float[Tensor, "i q d"],
        media: Float[Tensor, "i n d"],
        valid: Bool[Tensor, "i n"] | None,
    ) -> Float[Tensor, "i q d"]:
        """`valid` False: that feature does not exist; an item without any keeps its latents."""
        queries = self.latents_norm(latents)
        context = torch.cat([self.media_norm(media), queries], dim=1)
        mask = None
        if valid is not None:
            mask = valid_keys(F.pad(valid, (0, latents.shape[1]), value=True))
        q, k, v = (
            rearrange(tokens, "i n (h e) -> i h n e", h=self.num_heads)
            for tokens in (self.to_query(queries), self.to_key(context), self.to_value(context))
        )
        attended = attend(q, k, v, mask=mask, backend=self.backend)
        latents = latents + self.to_output(rearrange(attended, "i h q e -> i q (h e)"))
        return latents + self.feed_forward(self.feed_forward_norm(latents))
