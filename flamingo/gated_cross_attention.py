"""Gated cross-attention: how a frozen language model looks at media (paper, section 2.2).

    y = y + tanh(a) * attention(norm(y), media)
    y = y + tanh(b) * feed_forward(norm(y))

Both gates start at 0, so that step 0 is the frozen language model. Each token meets the latents of
its own item only; the keys and values of an item are computed once and kept in the media cache.
"""

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from common.attention.media import attend_own_media, attend_previous_media
from flamingo.media import Media


class GatedCrossAttentionBlock(nn.Module):
    """The block that runs before a language model's layer; takes media as an argument."""

    gradient_checkpointing = False  # switched by transformers' `gradient_checkpointing_enable`

    def __init__(
        self,
        *,
        layer: int,
        dim: int,
        media_dim: int,
        num_heads: int | None,
        head_dim: int,
        feed_forward: nn.Module,
    ) -> None:
        super().__init__()
        self.layer = layer
        self.attention_norm = nn.LayerNorm(dim)
        self.attention = MediaAttention(
            layer=layer, dim=dim, media_dim=media_dim, num_heads=num_heads, head_dim=head_dim
        )
        self.feed_forward_norm = nn.LayerNorm(dim)
        self.feed_forward = feed_forward
        # FSDP2 refuses parameters without a dimension, hence (1,).
        self.attention_gate = nn.Parameter(torch.zeros(1))
        self.feed_forward_gate = nn.Parameter(torch.zeros(1))

    def forward(self, text: Float[Tensor, "b s d"], media: Media) -> Float[Tensor, "b s d"]:
        """The text with media added to it, in the text's own dtype."""
        if self.gradient_checkpointing and self.training:
            return checkpoint(self._add_media, text, media, use_reentrant=False)
        return self._add_media(text, media)

    def _add_media(self, text: Float[Tensor, "b s d"], media: Media) -> Float[Tensor, "b s d"]:
        # The frozen model may be in bfloat16 while this block's weights are float32.
        hidden = text.to(self.attention_gate.dtype)
        attended = self.attention(self.attention_norm(hidden), media)
        hidden = hidden + self.attention_gate.tanh() * attended
        transformed = self.feed_forward(self.feed_forward_norm(hidden))
        return (hidden + self.feed_forward_gate.tanh() * transformed).to(text.dtype)


class MediaAttention(nn.Module):
    """Multi-head attention from text to the latents of media items."""

    def __init__(
        self, *, layer: int, dim: int, media_dim: int, head_dim: int, num_heads: int | None = None
    ) -> None:
        """With as many heads as the width holds when `num_heads` is None."""
        super().__init__()
        self.layer, self.num_heads = layer, num_heads or dim // head_dim
        inner_dim = self.num_heads * head_dim
        self.to_query = nn.Linear(dim, inner_dim, bias=False)
        self.to_key = nn.Linear(media_dim, inner_dim, bias=False)
        self.to_value = nn.Linear(media_dim, inner_dim, bias=False)
        self.to_output = nn.Linear(inner_dim, dim, bias=False)

    def forward(self, text: Float[Tensor, "b s d"], media: Media) -> Float[Tensor, "b s d"]:
        """Exactly 0 for a token that may see no item."""
        keys, values = self.keys_and_values(media, rows=len(text))
        if keys is None or values is None:
            return torch.zeros_like(text)
        q = rearrange(self.to_query(text), "b s (h e) -> b h s e", h=self.num_heads)
        if media.attention == "own":
            out = attend_own_media(q, keys, values, item=media.item, backend=media.backend)
        else:
            out = attend_previous_media(
                q, keys, values, first=media.first, last=media.item, backend=media.backend
            )
        return self.to_output(rearrange(out, "b h s e -> b s (h e)"))

    def keys_and_values(
        self, media: Media, *, rows: int
    ) -> tuple[Float[Tensor, "b m h n e"], Float[Tensor, "b m h n e"]] | tuple[None, None]:
        """Of all items so far: this call's are projected, earlier ones come from the cache."""
        if media.latents is None:
            if media.cache is None or not media.cache.num_items:
                return None, None
            return media.cache.get(self.layer)
        # Beams of one sample share its media: one projection serves all of their rows.
        repeats = rows // len(media.latents)
        latents = media.latents.to(self.to_key.weight.dtype)
        keys, values = (
            rearrange(
                project(latents), "b m q (h e) -> b m h q e", h=self.num_heads
            ).repeat_interleave(repeats, dim=0)
            for project in (self.to_key, self.to_value)
        )
        if media.cache is None:
            return keys, values
        counts = media.num_new
        if counts is not None:
            counts = counts.repeat_interleave(repeats)
        return media.cache.update(self.layer, keys, values, counts=counts)
