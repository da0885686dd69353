"""The trained bridge of a configuration: the paper's, or one that the field's checkpoints hold."""

from collections.abc import Callable
from typing import cast

import torch
from jaxtyping import Float
from torch import Tensor, nn

from common.layers.feed_forward import FeedForward, squared_relu
from common.layers.swiglu import SwiGLU
from flamingo.config import FlamingoConfig
from flamingo.gated_cross_attention import GatedCrossAttentionBlock, MediaAttention
from flamingo.resampler import PerceiverResampler, ResamplerLayer

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "squared_relu": squared_relu,  # the paper
    "gelu": nn.functional.gelu,  # OpenFlamingo and flamingo-pytorch
    "relu": nn.functional.relu,  # Idefics
}


def build_resampler(config: FlamingoConfig, *, input_dim: int) -> PerceiverResampler:
    """From features of width `input_dim` to the latents that every gated block reads."""
    resampler = PerceiverResampler(
        input_dim=input_dim,
        dim=config.media_dim,
        num_latents=config.num_latents,
        num_layers=config.resampler_layers,
        num_heads=config.resampler_heads,
        head_dim=config.resampler_head_dim,
        feed_forward_dim=config.resampler_feed_forward_dim,
        num_frames=config.num_frames,
        backend=config.attention_backend,
        activation=ACTIVATIONS[config.resampler_activation],
    )
    if config.resampler_head_norm:
        for layer in resampler.layers:
            _norm_heads(
                cast(ResamplerLayer, layer), head_dim=config.resampler_head_dim, norm=nn.LayerNorm
            )
    return resampler


def build_gated_block(config: FlamingoConfig, layer: int) -> GatedCrossAttentionBlock:
    """The block before one of `config.cross_attention_layers`."""
    dim = config.text_config.hidden_size
    block = GatedCrossAttentionBlock(
        layer=layer,
        dim=dim,
        media_dim=config.media_dim,
        num_heads=config.cross_attention_heads,
        head_dim=config.cross_attention_head_dim,
        feed_forward=_feed_forward(config, dim),
    )
    eps = config.cross_attention_rms_eps
    if eps is not None:
        block.register_module("attention_norm", nn.RMSNorm(dim, eps=eps))
        block.register_module("feed_forward_norm", nn.RMSNorm(dim, eps=eps))
    if config.cross_attention_head_norm:
        _norm_heads(
            block.attention,
            head_dim=config.cross_attention_head_dim,
            norm=lambda width: nn.RMSNorm(width, eps=eps),
        )
    if config.gate_per_channel:
        block.attention_gate = nn.Parameter(torch.zeros(dim))
        block.feed_forward_gate = nn.Parameter(torch.zeros(dim))
    return block


class HeadNormedLinear(nn.Linear):
    """A projection to heads, each of them normed: scores stay bounded at any depth."""

    def __init__(
        self,
        in_features: int,
        out_features: int,
        *,
        head_dim: int,
        norm: Callable[[int], nn.Module],
    ) -> None:
        super().__init__(in_features, out_features, bias=False)
        self.head_dim, self.head_norm = head_dim, norm(head_dim)

    def forward(self, x: Float[Tensor, "b *n d"]) -> Float[Tensor, "b *n e"]:
        """The heads side by side, each of them normed alone."""
        heads = super().forward(x).unflatten(-1, (-1, self.head_dim))
        return self.head_norm(heads).flatten(-2)


def _feed_forward(config: FlamingoConfig, dim: int) -> nn.Module:
    hidden_dim = config.cross_attention_feed_forward_dim
    if config.cross_attention_activation == "swiglu":
        return SwiGLU(dim=dim, hidden_dim=hidden_dim)
    activation = ACTIVATIONS[config.cross_attention_activation]
    return FeedForward(dim=dim, hidden_dim=hidden_dim, activation=activation)


def _norm_heads(
    layer: ResamplerLayer | MediaAttention, *, head_dim: int, norm: Callable[[int], nn.Module]
) -> None:
    for name, plain in (("to_query", layer.to_query), ("to_key", layer.to_key)):
        normed = HeadNormedLinear(
            plain.in_features, plain.out_features, head_dim=head_dim, norm=norm
        )
        layer.register_module(name, normed)
