"""The trained bridge of a configuration: the paper's, or one that the field's checkpoints hold."""

from collections.abc import Callable

from torch import Tensor, nn

from common.layers.feed_forward import FeedForward, squared_relu
from flamingo.config import FlamingoConfig
from flamingo.gated_cross_attention import GatedCrossAttentionBlock
from flamingo.resampler import PerceiverResampler

_ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "squared_relu": squared_relu,  # the paper
    "gelu": nn.functional.gelu,  # OpenFlamingo and flamingo-pytorch
}


def build_resampler(config: FlamingoConfig, *, input_dim: int) -> PerceiverResampler:
    """From features of width `input_dim` to the latents that every gated block reads."""
    return PerceiverResampler(
        input_dim=input_dim,
        dim=config.media_dim,
        num_latents=config.num_latents,
        num_layers=config.resampler_layers,
        num_heads=config.resampler_heads,
        head_dim=config.resampler_head_dim,
        feed_forward_dim=config.resampler_feed_forward_dim,
        num_frames=config.num_frames,
        backend=config.attention_backend,
        activation=_ACTIVATIONS[config.resampler_activation],
    )


def build_gated_block(config: FlamingoConfig, layer: int) -> GatedCrossAttentionBlock:
    """The block before one of `config.cross_attention_layers`."""
    dim = config.text_config.hidden_size
    return GatedCrossAttentionBlock(
        layer=layer,
        dim=dim,
        media_dim=config.media_dim,
        num_heads=config.cross_attention_heads,
        head_dim=config.cross_attention_head_dim,
        feed_forward=FeedForward(
            dim=dim,
            hidden_dim=config.cross_attention_feed_forward_dim,
            activation=_ACTIVATIONS[config.cross_attention_activation],
        ),
    )
